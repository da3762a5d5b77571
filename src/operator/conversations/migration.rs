//! The migration comes before the API that needs it, runs once, and is tried again where that can help.

use super::*;

#[tokio::test]
async fn the_api_and_its_jobs_wait_until_the_migration_is_complete() {
    let world = World::new(fixtures::minimal());
    world.pass().await.unwrap();
    world.server.asked();
    for status in [
        json!({}),
        json!({"active": 1}),
        json!({"conditions": [{"type": "Complete", "status": "False"}]}),
    ] {
        world.server.set_status(&world.job(), &status);
        world.pass().await.unwrap();
        assert_eq!(world.children_written(), [""; 0], "{status}");
        assert_eq!(world.word("APIAvailable"), "False NotCreated");
    }
    world.job_ends("Complete");
    world.pass().await.unwrap();
    assert!(world.server.get("deployments/ads-api").is_some());
    assert_eq!(world.word("APIAvailable"), "False RollingOut");
}

#[tokio::test]
async fn a_new_version_rolls_only_after_its_own_migration_and_the_old_one_stands_until_then() {
    let world = World::settled().await;
    let before = world.server.get("deployments/ads-api").unwrap();
    let old = world.job();
    world.spec(&json!({"version": "0.3.0"}));
    world.pass().await.unwrap();
    let jobs = world.server.names("jobs");
    let new = jobs.iter().find(|job| **job != old).unwrap();
    assert_eq!(world.children_written(), [format!("PATCH {new}")]);
    assert_eq!(world.server.get("deployments/ads-api").unwrap(), before);
    assert_eq!(world.word("Ready"), "False RollingOut");

    world.server.set_status(new, &ended("Complete"));
    world.pass().await.unwrap();
    let written = world.children_written();
    assert_eq!(written[0], "PATCH deployments/ads-api");
    assert_eq!(written.last().unwrap(), &format!("DELETE {old}"));
    assert_ne!(world.server.get("deployments/ads-api").unwrap()["spec"], before["spec"]);
}

#[tokio::test]
async fn a_failed_migration_makes_room_only_once_the_ledger_can_be_logged_in_to() {
    let world = World::new(fixtures::minimal());
    world.pass().await.unwrap();
    let job = world.job();
    world.job_ends("Failed");
    world.server.asked();

    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [""; 0], "nothing is known of the ledger");
    assert_eq!(world.word("SchemaCurrent"), "False MigrationFailed");
    world.ledger(Err(LedgerError::AuthenticationFailed("no".to_owned())));
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [""; 0], "the login is bad");
    assert_eq!(world.word("PostgresReady"), "False AuthenticationFailed");

    world.ledger(Ok(empty_ledger()));
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [format!("DELETE {job}")]);
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [format!("PATCH {job}")]);
    assert_eq!(world.word("SchemaCurrent"), "False Migrating");
    assert!(world.server.get("deployments/ads-api").is_none());
}

#[tokio::test]
async fn a_migration_for_more_lanes_that_failed_is_told_though_the_schema_is_current() {
    let world = World::settled().await;
    let old = world.job();
    world.spec(&json!({"postgres": {"external": {"secretRef": {"name": "ads-pg-app"}, "lanes": 3}}}));
    world.pass().await.unwrap();
    let jobs = world.server.names("jobs");
    let new = jobs.iter().find(|job| **job != old).unwrap();
    for (status, said) in [
        (json!({"failed": 1, "active": 1}), "True SchemaMatches"),
        (json!({"failed": 2, "active": 1}), "False MigrationFailed"),
        (ended("Failed"), "False MigrationFailed"),
    ] {
        world.server.set_status(new, &status);
        world.pass().await.unwrap();
        assert_eq!(world.word("SchemaCurrent"), said, "{status}");
        assert_eq!(world.word("Ready"), "False RollingOut");
    }
}

#[tokio::test]
async fn a_migration_that_is_gone_runs_again_only_where_the_ledger_needs_it() {
    let world = World::settled().await;
    let job = world.job();
    world.server.delete(&job);
    world.pass().await.unwrap();
    assert_eq!(world.server.written(), [""; 0]);

    world.ledger(Ok(empty_ledger()));
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [format!("PATCH {job}")]);
}

#[tokio::test]
async fn another_ledger_has_a_migration_of_its_own_before_the_api_moves_to_it() {
    let world = World::settled().await;
    let old = world.job();
    world.server.change(
        "secrets/ads-pg-app",
        &json!({"data": {"host": encoded("other.growth.svc")}}),
    );
    world.pass().await.unwrap();
    let written = world.children_written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(written[0].starts_with("PATCH jobs/ads-migrate-") && !written[0].contains(&old));
    // What was learnt of the old one says nothing of the new one.
    assert_eq!(world.word("PostgresReady"), "Unknown NotProbed");
}
