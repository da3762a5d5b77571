//! Children that the API server refuses, and children of our names that belong to others.

use std::time::Duration;

use super::*;
use crate::operator::controller::error_policy;

#[tokio::test]
async fn a_forbidden_child_stalls_the_object_and_the_children_before_it_stand() {
    let world = World::new(fixtures::minimal());
    world.server.refuse("PATCH statefulsets/ads-redis", 403);
    world.pass().await.unwrap_err();
    assert_eq!(world.word("Stalled"), "True Forbidden");
    assert_eq!(world.word("Ready"), "False Forbidden");
    assert_eq!(world.word("Reconciling"), "absent");
    assert!(world.message("Stalled").contains("StatefulSet ads-redis"));
    assert_eq!(world.status().observed_generation, Some(3));
    for stands in [
        "serviceaccounts/ads-api",
        "secrets/ads-redis",
        "configmaps/ads-api",
        "services/ads-redis",
    ] {
        assert!(world.server.get(stands).is_some(), "{stands}");
    }
    assert_eq!(world.server.names("jobs"), [""; 0]);

    world.server.accept();
    world.settle().await;
    assert_eq!(world.word("Stalled"), "absent");
    assert_eq!(world.word("Ready"), "True AllReady");
}

#[tokio::test]
async fn a_secret_that_may_not_be_read_is_told_and_tried_again() {
    let world = World::settled().await;
    world.server.refuse("GET secrets/ads-pg-app", 403);
    world.pass().await.unwrap_err();
    assert_eq!(world.word("Stalled"), "True Forbidden");
    assert_eq!(world.word("Ready"), "False Forbidden");

    world.server.accept();
    world.pass().await.unwrap();
    assert_eq!(world.word("Stalled"), "absent");
    assert_eq!(world.word("Ready"), "True AllReady");
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_by_itself_stalls_nothing_and_is_tried_again_after_twice_as_long() {
    for code in [409, 429, 500, 503] {
        let world = World::settled().await;
        world.spec(&json!({"api": {"replicas": 3}}));
        world.server.refuse("PATCH deployments/ads-api", code);
        for seconds in [5.0, 10.0, 20.0, 40.0] {
            let error = world.pass().await.unwrap_err();
            assert_eq!(world.word("Stalled"), "absent", "{code}");
            assert_eq!(world.word("Reconciling"), "True ApplyFailed", "{code}");
            assert_eq!(world.word("Ready"), "False ApplyFailed", "{code}");
            let action = error_policy(world.object(), &error, world.context.clone());
            let wait = waited(&error, &world, &action);
            assert!((seconds * 0.8..seconds * 1.2).contains(&wait), "{wait} s for {seconds}");
            tokio::time::advance(Duration::from_secs_f64(wait)).await;
        }
        world.server.accept();
        world.pass().await.unwrap();
        world.rolls_out();
        world.pass().await.unwrap();
        assert_eq!(world.word("Ready"), "True AllReady", "{code}");

        // What went well is forgotten.
        world.spec(&json!({"api": {"replicas": 4}}));
        world.server.refuse("PATCH deployments/ads-api", code);
        let error = world.pass().await.unwrap_err();
        let action = error_policy(world.object(), &error, world.context.clone());
        assert!(waited(&error, &world, &action) <= 6.0);
    }
}

/// The seconds of an action, which keeps them to itself: a second failure at once is told the same, to the jitter that was drawn.
fn waited(error: &ReconcileError, world: &World, action: &Action) -> f64 {
    let again = error_policy(world.object(), error, world.context.clone());
    assert_eq!(*action, again, "a try before its time makes no wait longer");
    let text = format!("{action:?}");
    let number = text.split("Some(").nth(1).unwrap().split(')').next().unwrap();
    let unit = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    assert_eq!(unit, "s", "{text}");
    number.trim_end_matches('s').parse().unwrap()
}

#[tokio::test]
async fn a_lasting_refusal_stalls_the_object() {
    let world = World::settled().await;
    world.spec(&json!({"api": {"replicas": 3}}));
    world.server.refuse("PATCH deployments/ads-api", 422);
    world.pass().await.unwrap_err();
    assert_eq!(world.word("Stalled"), "True ApplyFailed");
}

#[tokio::test]
async fn a_child_of_the_same_name_that_belongs_to_somebody_else_is_never_touched() {
    for name in [
        "serviceaccounts/ads-api",
        "configmaps/ads-api",
        "services/ads-api",
        "services/ads-redis",
        "statefulsets/ads-redis",
        "deployments/ads-api",
        "poddisruptionbudgets/ads-api",
        "cronjobs/ads-archive",
        "cronjobs/ads-refresh",
    ] {
        // One of another object, and one of nobody.
        for theirs in [foreign("another"), json!({"metadata": {}})] {
            let world = World::new(fixtures::minimal());
            world.server.put(name, theirs);
            let stood = world.server.get(name);
            let _ = world.pass().await;
            if !world.server.names("jobs").is_empty() {
                world.job_ends("Complete");
            }
            world.pass().await.unwrap_err();
            assert_eq!(world.word("Stalled"), "True NameConflict", "{name}");
            assert!(world.message("Stalled").contains("belongs to somebody else"), "{name}");
            assert_eq!(world.server.get(name), stood);
            let written = world.server.written();
            assert!(
                written.iter().all(|short| !short.ends_with(name)),
                "{name}: {written:?}"
            );

            world.server.delete(name);
            world.settle().await;
            assert_eq!(world.word("Ready"), "True AllReady", "{name}");
        }
    }
}

#[tokio::test]
async fn a_migration_of_the_same_name_that_belongs_to_somebody_else_is_neither_awaited_nor_deleted() {
    let world = World::new(fixtures::minimal());
    world.pass().await.unwrap();
    let job = world.job();
    for how in ["Complete", "Failed"] {
        world.server.delete(&job);
        world.server.put(&job, foreign("another"));
        world.job_ends(how);
        world.ledger(Ok(empty_ledger()));
        world.server.asked();
        world.pass().await.unwrap_err();
        assert_eq!(world.word("Stalled"), "True NameConflict", "{how}");
        assert_eq!(world.children_written(), [""; 0], "{how}");
    }
}

#[tokio::test]
async fn the_status_tells_of_this_generation_also_when_the_apply_failed() {
    let world = World::settled().await;
    world.spec(&json!({"api": {"replicas": 3}}));
    world.server.refuse("PATCH deployments/ads-api", 500);
    world.pass().await.unwrap_err();
    let status = world.status();
    let generation = world.decoded().metadata.generation;
    assert_eq!(generation, Some(4));
    assert_eq!(status.observed_generation, generation);
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == generation)
    );
    // What was true of the spec before is not forgotten for that.
    assert_eq!(status.api.unwrap().ready, "2/2");
    assert_eq!(status.endpoint.as_deref(), Some("http://ads-api.growth.svc"));
}
