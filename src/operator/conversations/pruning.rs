//! What the object no longer asks for goes, once all it asks for stands; what is not ours never does.

use super::*;

fn without_cache() -> Value {
    json!({"redis": {"managed": null, "disabled": {}}})
}

fn with_cache() -> Value {
    json!({"redis": {"managed": {}, "disabled": null}})
}

#[tokio::test]
async fn a_cache_that_is_switched_off_goes_and_its_password_stays() {
    let world = World::settled().await;
    world.spec(&without_cache());
    world.pass().await.unwrap();
    assert_eq!(
        world.children_written(),
        [
            "PATCH deployments/ads-api",
            "DELETE services/ads-redis",
            "DELETE statefulsets/ads-redis"
        ]
    );
    assert!(world.server.get("secrets/ads-redis").is_some());
    assert!(world.server.get("services/ads-api").is_some());
    assert_eq!(world.server.names("jobs").len(), 1);
    assert_eq!(world.word("CacheReady"), "Unknown NotConfigured");
}

#[tokio::test]
async fn nothing_goes_before_all_that_is_wanted_stands() {
    let world = World::settled().await;
    world.spec(&without_cache());
    // The last of the children.
    world.spec(&json!({"maintenance": {"refresh": {"schedule": "1 * * * *"}}}));
    world.server.refuse("PATCH cronjobs/ads-refresh", 500);
    world.pass().await.unwrap_err();
    assert_eq!(
        world.children_written(),
        ["PATCH deployments/ads-api", "PATCH cronjobs/ads-refresh"]
    );
    assert!(world.server.get("statefulsets/ads-redis").is_some());

    world.server.accept();
    world.pass().await.unwrap();
    let written = world.children_written();
    assert_eq!(
        written[1..],
        ["DELETE services/ads-redis", "DELETE statefulsets/ads-redis"]
    );
}

#[tokio::test]
async fn nothing_goes_while_the_api_waits_for_its_migration() {
    let world = World::settled().await;
    world.spec(&without_cache());
    world.spec(&json!({"version": "0.3.0"}));
    world.pass().await.unwrap();
    let written = world.children_written();
    assert!(written.iter().all(|short| !short.starts_with("DELETE")), "{written:?}");
    assert!(
        world.server.get("statefulsets/ads-redis").is_some(),
        "the old pods still use it"
    );
}

#[tokio::test]
async fn what_has_our_labels_and_another_owner_is_never_deleted() {
    let world = World::settled().await;
    let theirs = ["services/theirs", "statefulsets/theirs", "jobs/theirs"];
    for name in theirs {
        world.server.put(name, foreign("another"));
    }
    // Made by hand from ours: the labels, and no owner.
    world.server.put(
        "services/nobodys",
        json!({"metadata": {"labels": foreign("")["metadata"]["labels"]}}),
    );
    // Ours, and not wanted: it shows that the prune looked.
    world.server.put("services/left", foreign(UID));
    world.spec(&without_cache());
    world.pass().await.unwrap();
    let mut deleted = world.children_written();
    deleted.retain(|short| short.starts_with("DELETE"));
    assert_eq!(
        deleted,
        [
            "DELETE services/ads-redis",
            "DELETE services/left",
            "DELETE statefulsets/ads-redis"
        ]
    );
    for name in theirs {
        assert!(world.server.get(name).is_some(), "{name}");
    }
    assert!(world.server.get("services/nobodys").is_some());
}

#[tokio::test]
async fn a_prune_that_is_refused_is_told_and_tried_again() {
    let world = World::settled().await;
    world.spec(&without_cache());
    world.server.refuse("DELETE statefulsets/ads-redis", 403);
    world.pass().await.unwrap_err();
    assert_eq!(world.word("Stalled"), "True Forbidden");
    world.server.accept();
    world.server.asked();
    // Another place: a cache less.
    world.ledger(Ok(facts()));
    world.rolls_out();
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), ["DELETE statefulsets/ads-redis"]);
    assert_eq!(world.word("Ready"), "True AllReady");
}

#[tokio::test]
async fn a_cache_that_came_and_went_while_something_failed_leaves_nothing_behind() {
    let world = World::settled().await;
    world.spec(&without_cache());
    world.pass().await.unwrap();
    world.spec(&with_cache());
    world.server.refuse("PATCH deployments/ads-api", 500);
    world.pass().await.unwrap_err();
    assert!(world.server.get("statefulsets/ads-redis").is_some());
    world.server.accept();

    world.spec(&without_cache());
    world.pass().await.unwrap();
    assert!(world.server.get("statefulsets/ads-redis").is_none());
    assert!(world.server.get("services/ads-redis").is_none());
}

#[tokio::test]
async fn a_version_that_was_taken_back_before_its_migration_ended_leaves_no_job_behind() {
    let world = World::settled().await;
    let wanted = world.job();
    world.spec(&json!({"version": "0.3.0"}));
    world.pass().await.unwrap();
    assert_eq!(world.server.names("jobs").len(), 2);
    world.spec(&json!({"version": null}));
    world.pass().await.unwrap();
    assert_eq!(world.server.names("jobs"), [wanted]);
}
