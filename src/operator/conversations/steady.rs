//! Where nothing changes nothing is written; what others change comes back.

use super::*;
use crate::operator::controller::error_policy;

/// All that is applied, but for the migration, which runs once.
const APPLIED: [&str; 9] = [
    "serviceaccounts/ads-api",
    "configmaps/ads-api",
    "services/ads-api",
    "services/ads-redis",
    "statefulsets/ads-redis",
    "deployments/ads-api",
    "poddisruptionbudgets/ads-api",
    "cronjobs/ads-archive",
    "cronjobs/ads-refresh",
];

#[tokio::test]
async fn a_steady_object_costs_reads_alone() {
    let world = World::settled().await;
    for _ in 0..3 {
        let action = world.pass().await.unwrap();
        assert_eq!(action, Action::requeue(std::time::Duration::from_secs(600)));
        let asked = world.server.asked();
        // The Secrets of the ledger and of the cache, each child and the migration, each of them once.
        assert_eq!(asked.len(), 2 + APPLIED.len() + 1);
        let writes: Vec<_> = asked
            .iter()
            .map(Request::short)
            .filter(|s| !s.starts_with("GET "))
            .collect();
        assert_eq!(writes, [""; 0]);
    }
}

#[tokio::test]
async fn an_operator_that_starts_anew_applies_each_child_once_and_changes_nothing() {
    let mut world = World::settled().await;
    let stood: Vec<_> = APPLIED.iter().map(|name| world.server.get(name)).collect();
    let object = world.server.get(OBJECT);
    world.restarted();
    world.pass().await.unwrap();
    assert_eq!(world.server.written(), APPLIED.map(|name| format!("PATCH {name}")));
    let stands: Vec<_> = APPLIED.iter().map(|name| world.server.get(name)).collect();
    assert_eq!(stands, stood);
    assert_eq!(world.server.get(OBJECT), object);
    world.pass().await.unwrap();
    assert_eq!(world.server.written(), [""; 0]);
}

#[tokio::test]
async fn a_child_that_another_changed_is_applied_again_and_it_alone() {
    let world = World::settled().await;
    let table = [
        ("deployments/ads-api", json!({"spec": {"replicas": 7}})),
        ("statefulsets/ads-redis", json!({"spec": {"replicas": 0}})),
        ("cronjobs/ads-archive", json!({"spec": {"suspend": true}})),
        ("poddisruptionbudgets/ads-api", json!({"spec": {"maxUnavailable": 2}})),
        // These have no generation.
        (
            "configmaps/ads-api",
            json!({"data": {"SEGMENT_COUNTER_WINDOW_SECONDS": "1"}}),
        ),
        ("services/ads-api", json!({"spec": {"ports": []}})),
        ("serviceaccounts/ads-api", json!({"automountServiceAccountToken": true})),
        // A label moves no generation, and yet whether we see the child hangs on it.
        (
            "deployments/ads-api",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}}),
        ),
    ];
    for (name, patch) in table {
        let stood = world.server.get(name).unwrap();
        world.server.change(name, &patch);
        assert_ne!(world.server.get(name).unwrap()["metadata"], stood["metadata"]);
        world.pass().await.unwrap();
        assert_eq!(world.children_written(), [format!("PATCH {name}")], "{patch}");
        let stands = world.server.get(name).unwrap();
        for field in ["spec", "data", "automountServiceAccountToken"] {
            assert_eq!(stands[field], stood[field], "{name} {field}");
        }
        assert_eq!(stands["metadata"]["labels"], stood["metadata"]["labels"]);
        world.pass().await.unwrap();
        assert_eq!(world.children_written(), [""; 0], "{patch}");
    }
}

#[tokio::test]
async fn a_child_whose_status_alone_changed_is_not_applied_again() {
    let world = World::settled().await;
    let mut status = world.server.get("deployments/ads-api").unwrap()["status"].clone();
    status["availableReplicas"] = json!(1);
    world.server.set_status("deployments/ads-api", &status);
    world.server.set_status(
        "cronjobs/ads-refresh",
        &json!({"lastScheduleTime": "2030-01-01T00:00:00Z"}),
    );
    world.server.set_status(
        "poddisruptionbudgets/ads-api",
        &json!({"disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 2}),
    );
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), [""; 0]);
    assert_eq!(world.word("Ready"), "False ReplicasUnavailable");
}

#[tokio::test]
async fn a_child_that_another_deleted_is_made_again_and_it_alone() {
    let world = World::settled().await;
    for name in APPLIED {
        world.server.delete(name);
        world.pass().await.unwrap();
        assert_eq!(world.children_written(), [format!("PATCH {name}")]);
        assert!(world.server.get(name).is_some());
    }
}

#[tokio::test]
async fn a_changed_spec_is_applied_where_it_shows_and_nowhere_else() {
    let world = World::settled().await;
    world.spec(&json!({"maintenance": {"archive": {"schedule": "1 1 * * *"}}}));
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), ["PATCH cronjobs/ads-archive"]);
    assert_eq!(world.status().observed_generation, world.decoded().metadata.generation);
}

#[tokio::test]
async fn pods_are_listed_only_while_not_all_of_them_are_there() {
    let world = World::settled().await;
    let listed = async || {
        let action = world.pass().await.unwrap();
        let asked = world.server.asked();
        let pods = asked.iter().filter(|request| request.short() == "GET pods").count();
        let seconds = if pods == 0 { 600 } else { 10 };
        assert_eq!(action, Action::requeue(std::time::Duration::from_secs(seconds)));
        pods
    };
    assert_eq!(listed().await, 0);
    let pod = json!({
        "metadata": {"labels": {
            "app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": "ads", "app.kubernetes.io/component": "api",
        }},
        "status": {"containerStatuses": [{
            "name": "api", "image": "none:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull"}},
        }]},
    });
    let mut other = pod.clone();
    other["metadata"]["labels"]["app.kubernetes.io/instance"] = json!("other");
    world.server.put("pods/other", other);
    world.spec(&json!({"api": {"replicas": 3}}));
    assert_eq!(listed().await, 1);
    assert_eq!(
        world.word("APIAvailable"),
        "False RollingOut",
        "another object's pod is none of this one's"
    );
    world.server.put("pods/ads-api-1", pod);
    assert_eq!(listed().await, 1);
    assert_eq!(world.word("APIAvailable"), "False ImagePullFailed");
    world.rolls_out();
    assert_eq!(listed().await, 0);
    assert_eq!(world.word("Ready"), "True AllReady");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_waited_for_and_nothing_is_sent() {
    let world = World::settled().await;
    let mut object = world.server.get(OBJECT).unwrap();
    object["spec"]["postgres"] = json!("none");
    let object: Guarded = serde_json::from_value(object).unwrap();
    assert!(object.0.is_err());
    let action = world.pass_with(Arc::new(object)).await.unwrap();
    assert_eq!(action, Action::await_change());
    assert_eq!(world.server.asked().len(), 0);
}

#[tokio::test]
async fn an_object_that_is_being_deleted_is_left_to_the_garbage_collector() {
    let world = World::settled().await;
    world.server.delete("deployments/ads-api");
    world.server.change(
        OBJECT,
        &json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}}),
    );
    let action = world.pass().await.unwrap();
    assert_eq!(action, Action::await_change());
    assert_eq!(world.server.asked().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_tried_again_and_nothing_is_written_meanwhile() {
    let world = World::settled().await;
    world.spec(&json!({"api": {"replicas": 5}}));
    world.server.refuse_once("GET secrets/ads-pg-app", 500);
    let error = world.pass().await.unwrap_err();
    world.server.accept();
    assert_eq!(world.server.written(), [""; 0]);
    let action = error_policy(world.object(), &error, world.context.clone());
    assert_ne!(action, Action::await_change());
    world.pass().await.unwrap();
    assert_eq!(world.children_written(), ["PATCH deployments/ads-api"]);
}
