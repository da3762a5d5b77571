//! What costs nothing: an object that is as it should be. The API server's audit log is the witness.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

use super::{
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

struct AuditLog(PathBuf);

/// A request of the operator.
#[derive(Debug)]
struct Request {
    verb: String,
    resource: String,
    namespace: String,
}

impl AuditLog {
    fn open() -> Self {
        let path = std::env::var("AUDIT_LOG")
            .expect("AUDIT_LOG names the API server's audit log; `make cluster-up` prints it");
        Self(path.into())
    }

    fn end(&self) -> u64 {
        self.0
            .metadata()
            .unwrap_or_else(|error| panic!("{}: {error}", self.0.display()))
            .len()
    }

    fn of_the_operator_since(&self, from: u64) -> Vec<Request> {
        let mut file = File::open(&self.0).unwrap();
        file.seek(SeekFrom::Start(from)).unwrap();
        let user = format!("system:serviceaccount:{}:segment-counter-operator", SYSTEM.0);
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        let entries = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let own = entries.filter(|entry| entry["user"]["username"] == user.as_str());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        own.map(|entry| Request {
            verb: text(&entry["verb"]),
            resource: text(&entry["objectRef"]["resource"]),
            namespace: text(&entry["objectRef"]["namespace"]),
        })
        .collect()
    }
}
