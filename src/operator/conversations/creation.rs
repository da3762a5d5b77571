//! From nothing: what is made, in which order, and when nothing may be made.

use super::*;

/// What stands before the migration is done, in order; the name of the migration is a fingerprint.
const FIRST: [&str; 7] = [
    "PATCH serviceaccounts/ads-api",
    "POST secrets",
    "PATCH configmaps/ads-api",
    "PATCH services/ads-api",
    "PATCH services/ads-redis",
    "PATCH statefulsets/ads-redis",
    "PATCH jobs/ads-migrate-",
];
/// What waits for it.
const THEN: [&str; 4] = [
    "PATCH deployments/ads-api",
    "PATCH poddisruptionbudgets/ads-api",
    "PATCH cronjobs/ads-archive",
    "PATCH cronjobs/ads-refresh",
];

#[tokio::test]
async fn from_nothing_everything_is_made_in_the_documented_order() {
    for fixture in [fixtures::minimal(), fixtures::full()] {
        let world = World::new(fixture);
        world.pass().await.unwrap();
        let mut written = world.children_written();
        let job = written.pop().unwrap();
        assert!(job.starts_with(FIRST[6]), "{job}");
        assert_eq!(written, FIRST[..6]);

        world.job_ends("Complete");
        world.pass().await.unwrap();
        assert_eq!(world.children_written(), THEN);
    }
}

#[tokio::test]
async fn every_child_is_applied_by_force_under_the_operators_own_name_and_belongs_to_the_object() {
    let world = World::new(fixtures::full());
    world.pass().await.unwrap();
    world.job_ends("Complete");
    world.pass().await.unwrap();
    let asked = world.server.asked();
    let children = |request: &&Request| request.short().starts_with("PATCH") && !request.short().contains(" events");
    let mut applied = 0;
    for request in asked.iter().filter(children) {
        assert_eq!(
            request.content_type,
            "application/apply-patch+yaml",
            "{}",
            request.short()
        );
        assert_eq!(
            request.query["fieldManager"],
            "segment-counter-operator",
            "{}",
            request.short()
        );
        assert_eq!(request.query["force"], "true", "{}", request.short());
        applied += 1;
    }
    // All but the Secret, and the status twice.
    assert_eq!(applied, FIRST.len() + THEN.len() - 1 + 2);

    for plural in [
        "configmaps",
        "cronjobs",
        "deployments",
        "jobs",
        "poddisruptionbudgets",
        "serviceaccounts",
        "services",
        "statefulsets",
    ] {
        for name in world.server.names(plural) {
            let child = world.server.get(&name).unwrap();
            let owner = &child["metadata"]["ownerReferences"][0];
            assert_eq!(
                (&owner["uid"], &owner["controller"]),
                (&json!(UID), &json!(true)),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn the_password_of_the_cache_is_made_once_and_never_written_over() {
    let world = World::settled().await;
    let made = world.server.get("secrets/ads-redis").unwrap();
    world.spec(&json!({"redis": {"managed": {"maxMemory": "1Gi"}}}));
    world.pass().await.unwrap();
    world
        .server
        .change("secrets/ads-redis", &json!({"data": {"password": encoded("rotated")}}));
    world.pass().await.unwrap();
    let written = world.children_written();
    assert!(
        written.contains(&"PATCH statefulsets/ads-redis".to_owned()),
        "{written:?}"
    );
    assert!(written.iter().all(|short| !short.contains(" secrets")), "{written:?}");
    let stands = world.server.get("secrets/ads-redis").unwrap();
    assert_eq!(stands["data"]["password"], encoded("rotated"));
    assert_eq!(stands["data"]["redis.conf"], made["data"]["redis.conf"]);
}

#[tokio::test]
async fn a_password_that_another_made_a_moment_before_stands() {
    let world = World::new(fixtures::minimal());
    let theirs = json!({"data": {"password": encoded("theirs")}});
    world.server.put("secrets/ads-redis", theirs.clone());
    // The look came just before.
    world.server.refuse_once("GET secrets/ads-redis", 404);
    world.pass().await.unwrap();
    world.server.accept();
    assert_eq!(world.server.get("secrets/ads-redis").unwrap()["data"], theirs["data"]);
    assert_eq!(world.word("Stalled"), "absent");
}

#[tokio::test]
async fn a_password_stands_in_no_request_but_the_one_that_makes_its_secret() {
    let world = World::new(fixtures::full());
    world.pass().await.unwrap();
    world.job_ends("Complete");
    world.pass().await.unwrap();
    world.spec(&json!({"api": {"replicas": 4}}));
    world.server.refuse("PATCH deployments/ads-api", 500);
    world.pass().await.unwrap_err();

    let secret: k8s_openapi::api::core::v1::Secret =
        serde_json::from_value(world.server.get("secrets/ads-redis").unwrap()).unwrap();
    let password = String::from_utf8(secret.data.unwrap()["password"].0.clone()).unwrap();
    assert_eq!(password.len(), 32);
    let asked = world.server.asked();
    let holding = |text: &str| {
        let holds = asked.iter().filter(|request| request.body.contains(text));
        holds.map(Request::short).collect::<Vec<_>>()
    };
    assert_eq!(holding(&encoded(&password)), ["POST secrets"]);
    for secret in [password.as_str(), "hunter2", &encoded("hunter2"), "tokens: []"] {
        assert_eq!(holding(secret), [""; 0], "a secret stands in a request");
    }
}

#[tokio::test]
async fn a_password_of_the_cache_that_was_deleted_is_made_anew_and_the_nodes_restart_with_it() {
    let world = World::settled().await;
    let credentials = || {
        let nodes = world.server.get("statefulsets/ads-redis").unwrap();
        nodes["spec"]["template"]["metadata"]["annotations"]["segmentcounter.io/credentials"].clone()
    };
    let before = (
        world.server.get("secrets/ads-redis").unwrap()["data"].clone(),
        credentials(),
    );
    world.server.delete("secrets/ads-redis");
    world.pass().await.unwrap();
    let after = (
        world.server.get("secrets/ads-redis").unwrap()["data"].clone(),
        credentials(),
    );
    assert_ne!(before.0, after.0);
    assert!(after.1.is_string() && before.1 != after.1, "{before:?} {after:?}");

    world.pass().await.unwrap();
    assert_eq!(
        credentials(),
        after.1,
        "the password that stands is the one that the nodes restart for"
    );
}

#[tokio::test]
async fn without_the_ledgers_secret_nothing_is_made_and_the_status_says_so() {
    let world = World::new(fixtures::minimal());
    world.server.delete("secrets/ads-pg-app");
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [""; 0]);
    assert_eq!(world.word("PostgresReady"), "False SecretNotFound");
    assert_eq!(world.word("Ready"), "False SecretNotFound");
    assert!(world.message("PostgresReady").contains("ads-pg-app"));

    let data =
        json!({"host": encoded("pg"), "dbname": encoded("app"), "user": encoded("app"), "password": encoded("x")});
    world.server.put("secrets/ads-pg-app", json!({"data": data}));
    world.pass().await.unwrap();
    assert_eq!(world.children_written().len(), FIRST.len());
    assert_eq!(world.word("PostgresReady"), "Unknown NotProbed");
}

#[tokio::test]
async fn without_the_secret_of_the_tokens_nothing_is_made_and_the_status_says_so() {
    let world = World::new(fixtures::full());
    world.server.delete("secrets/ads-tokens");
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [""; 0]);
    assert_eq!(world.word("Stalled"), "True SecretNotFound");
    assert!(world.message("Ready").contains("ads-tokens"));
}

#[tokio::test]
async fn what_was_made_stands_while_a_secret_is_missing() {
    let world = World::settled().await;
    world.server.delete("secrets/ads-pg-app");
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [""; 0]);
    assert_eq!(world.word("Ready"), "False SecretNotFound");
    assert!(world.server.get("deployments/ads-api").is_some());
}
