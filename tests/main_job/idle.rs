//! What costs nothing: an object that is as it should be. The API server's audit log is the witness.

use std::time::Duration;

use super::{
    audit::AuditLog,
    figures,
    world::{IDLE, NOT_DUE, READY, SYSTEM, object, postgres},
};

/// Verbs that change something.
const CHANGES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// Five minutes, in which the object is touched three times from outside so that a full pass is made each time.
pub async fn an_idle_object_costs_no_request_that_changes_anything() {
    postgres(IDLE);
    IDLE.apply(&object(
        "still",
        "still",
        &format!("  redis: {{managed: {{}}}}\n  maintenance: {{{NOT_DUE}}}"),
    ));
    IDLE.wait("condition=Ready", "segmentcounter/still", READY);
    // What comes after Ready: the cache's first login, the last events.
    tokio::time::sleep(Duration::from_secs(30)).await;

    let log = AuditLog::open();
    let from = log.end();
    for pass in 1..=3 {
        tokio::time::sleep(Duration::from_secs(75)).await;
        IDLE.kubectl(&[
            "annotate",
            "segmentcounter",
            "still",
            "--overwrite",
            &format!("example.org/pass={pass}"),
        ]);
    }
    tokio::time::sleep(Duration::from_secs(75)).await;

    let requests: Vec<_> = log
        .of_the_operator_since(from)
        .into_iter()
        .filter(|request| request.namespace == IDLE.0)
        .collect();
    let changes: Vec<_> = requests
        .iter()
        .filter(|request| CHANGES.contains(&request.verb.as_str()))
        .collect();
    assert!(changes.is_empty(), "{changes:?}");
    // The passes were made: each asks how the children stand.
    let looks = requests
        .iter()
        .filter(|request| request.resource == "deployments" && request.verb == "get")
        .count();
    assert!(looks >= 3, "{looks} passes in {requests:?}");
    figures::note(
        "requests of the operator for an idle object in five minutes with three passes",
        f64::from(u32::try_from(requests.len()).unwrap()),
        "",
    );
    figures::memory_of_pods(SYSTEM, "app.kubernetes.io/component=operator", "operator");
    eprintln!(
        "idle for five minutes with {looks} passes: {} reads, and nothing changed",
        requests.len()
    );
}
