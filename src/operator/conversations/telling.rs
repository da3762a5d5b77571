//! The status and the Events: written when something is to be told, once, and with no secret in them.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::*;

/// The Events that were asked for since the last look, as `Ready: Warning ApplyFailed`.
fn events(world: &World) -> Vec<String> {
    let asked = world.server.asked();
    let events = asked.iter().filter(|request| request.short().contains(" events"));
    events
        .map(|request| {
            let event: Value = serde_json::from_str(&request.body).unwrap();
            let word = |field: &str| event[field].as_str().unwrap().to_owned();
            format!("{}: {} {}", word("action"), word("type"), word("reason"))
        })
        .collect()
}

/// Makes all that was told so far as old as can be, on the server and in memory: the tests are faster than a second.
fn long_ago(world: &World) {
    let mut status = world.status();
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    world.server.set_status(OBJECT, &serde_json::to_value(&status).unwrap());
    world
        .context
        .memories
        .with(UID, |memory| memory.written.as_mut().unwrap().status = status);
}

/// The conditions whose time moved since [`long_ago`].
fn moved(world: &World) -> Vec<String> {
    let conditions = world.status().conditions;
    let moved = conditions
        .iter()
        .filter(|c| c.last_transition_time.0 != Timestamp::UNIX_EPOCH);
    moved.map(|condition| condition.type_.clone()).collect()
}

#[tokio::test]
async fn what_was_written_is_not_written_again_where_the_watch_shows_what_was_before() {
    let world = World::settled().await;
    let shown = world.object();
    world.ledger(Err(LedgerError::Unreachable("no answer".to_owned())));
    world.pass_with(shown.clone()).await.unwrap();
    assert_eq!(
        world
            .server
            .written()
            .iter()
            .filter(|short| short.ends_with("/status"))
            .count(),
        1
    );
    let stands = world.server.get(OBJECT);
    for _ in 0..2 {
        world.pass_with(shown.clone()).await.unwrap();
        assert_eq!(world.server.written(), [""; 0]);
        assert_eq!(world.server.get(OBJECT), stands);
    }
}

#[tokio::test]
async fn what_is_as_the_watch_shows_is_written_where_something_else_was_written_since() {
    let world = World::settled().await;
    let shown = world.object();
    let mut status = world.server.get("deployments/ads-api").unwrap()["status"].clone();
    status["readyReplicas"] = json!(1);
    world.server.set_status("deployments/ads-api", &status);
    world.pass_with(shown.clone()).await.unwrap();
    assert_eq!(world.status().api.unwrap().ready, "1/2");
    world.rolls_out();
    world.pass_with(shown).await.unwrap();
    assert_eq!(world.status().api.unwrap().ready, "2/2");
}

#[tokio::test]
async fn a_time_moves_with_its_condition_alone_also_where_the_watch_shows_what_was_before() {
    let world = World::settled().await;
    let mut before = world.server.get(OBJECT).unwrap();
    long_ago(&world);
    world.ledger(Err(LedgerError::AuthenticationFailed("no".to_owned())));
    world.pass().await.unwrap();
    assert_eq!(moved(&world), ["Ready", "PostgresReady", "SchemaCurrent"]);

    long_ago(&world);
    // A watch that shows the object as it was made.
    before.as_object_mut().unwrap().remove("status");
    world.ledger(Err(LedgerError::Unreachable("no answer".to_owned())));
    let shown: Guarded = serde_json::from_value(before).unwrap();
    world.pass_with(Arc::new(shown)).await.unwrap();
    assert_eq!(world.word("PostgresReady"), "False Unreachable");
    assert_eq!(moved(&world), [""; 0], "another reason is no transition");
}

#[tokio::test]
async fn a_status_that_another_spoilt_is_written_again() {
    let world = World::settled().await;
    let stood = world.status();
    world
        .server
        .set_status(OBJECT, &json!({"observedGeneration": 1, "conditions": []}));
    world.pass().await.unwrap();
    assert_eq!(world.status(), stood);
    assert_eq!(
        world.server.written(),
        ["PATCH segmentcounters/ads/status"],
        "nothing new is told by it"
    );
}

#[tokio::test]
async fn a_status_that_cannot_be_written_is_tried_again_and_told_when_it_is() {
    let world = World::settled().await;
    world.ledger(Err(LedgerError::Unreachable("no answer".to_owned())));
    world.server.refuse_once("PATCH segmentcounters/ads/status", 500);
    world.pass().await.unwrap_err();
    world.server.accept();
    assert_eq!(events(&world), [""; 0]);
    world.pass().await.unwrap();
    assert_eq!(world.word("PostgresReady"), "False Unreachable");
    assert!(!events(&world).is_empty());
}

#[tokio::test]
async fn an_object_that_went_meanwhile_is_told_nothing() {
    let world = World::settled().await;
    let shown = world.object();
    world.server.delete(OBJECT);
    let place = Err(LedgerError::Unreachable("no answer".to_owned()));
    world
        .context
        .memories
        .with(UID, |memory| memory.probe.postgres = Some(place));
    world.pass_with(shown).await.unwrap();
    assert_eq!(world.server.written(), ["PATCH segmentcounters/ads/status"]);
}

#[tokio::test]
async fn there_is_one_event_for_each_changed_condition_and_none_where_nothing_changed() {
    let world = World::settled().await;
    world.pass().await.unwrap();
    assert_eq!(events(&world), [""; 0]);

    world.ledger(Err(LedgerError::AuthenticationFailed("no".to_owned())));
    world.pass().await.unwrap();
    let mut told = events(&world);
    told.sort();
    assert_eq!(
        told,
        [
            "ArchiveCurrent: Normal NotProbed",
            "CountsCurrent: Normal NotProbed",
            "PostgresReady: Warning AuthenticationFailed",
            "Ready: Warning AuthenticationFailed",
            "SchemaCurrent: Normal NotProbed",
        ]
    );
    world.pass().await.unwrap();
    assert_eq!(events(&world), [""; 0]);

    // Another message, or another generation, is no change.
    world.ledger(Err(LedgerError::AuthenticationFailed("no, again".to_owned())));
    world.spec(&json!({"maintenance": {"archive": {"schedule": "1 1 * * *"}}}));
    world.pass().await.unwrap();
    assert!(world.message("PostgresReady").contains("again"));
    assert_eq!(events(&world), [""; 0]);
}

#[tokio::test]
async fn an_event_that_is_refused_stops_nothing() {
    let world = World::settled().await;
    world.ledger(Err(LedgerError::Unreachable("no answer".to_owned())));
    world.server.refuse("POST events", 403);
    let action = world.pass().await.unwrap();
    assert_eq!(action, Action::requeue(std::time::Duration::from_secs(600)));
    assert_eq!(world.word("PostgresReady"), "False Unreachable");
    assert_eq!(events(&world).len(), 5, "each was tried");
}

#[tokio::test]
async fn no_event_and_no_status_holds_a_secret() {
    let world = World::new(fixtures::full());
    world.pass().await.unwrap();
    world.job_ends("Failed");
    for told in [
        Err(LedgerError::AuthenticationFailed("no".to_owned())),
        Err(LedgerError::Unreachable("no answer".to_owned())),
        Ok(facts()),
    ] {
        world.ledger(told);
        world.pass().await.unwrap();
    }
    world.server.delete("secrets/ads-tokens");
    world.pass().await.unwrap();
    let redis = world.server.get("secrets/ads-redis").unwrap();
    let redis: k8s_openapi::api::core::v1::Secret = serde_json::from_value(redis).unwrap();
    let password = String::from_utf8(redis.data.unwrap()["password"].0.clone()).unwrap();
    let told: Vec<_> = world
        .server
        .asked()
        .into_iter()
        .filter(|request| request.short().contains(" events") || request.short().ends_with("/status"))
        .collect();
    assert!(told.len() > 10, "{}", told.len());
    for request in &told {
        for secret in [
            password.as_str(),
            &encoded(&password),
            "hunter2",
            &encoded("hunter2"),
            "tokens: []",
        ] {
            assert!(!request.body.contains(secret), "{}", request.short());
        }
    }
}
