//! The API server's audit log: who asked for what.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use serde_json::Value;

use super::world::SYSTEM;

/// The log, as the API server of the test cluster writes it.
pub struct AuditLog(PathBuf);

/// A request of the operator.
#[derive(Debug)]
pub struct Request {
    pub verb: String,
    pub group: String,
    /// With its subresource, as a role names it.
    pub resource: String,
    pub namespace: String,
}

impl AuditLog {
    /// The one that `AUDIT_LOG` names.
    pub fn open() -> Self {
        let path = std::env::var("AUDIT_LOG")
            .expect("AUDIT_LOG names the API server's audit log; `make cluster-up` prints it");
        Self(path.into())
    }

    /// How long it is by now.
    pub fn end(&self) -> u64 {
        self.0
            .metadata()
            .unwrap_or_else(|error| panic!("{}: {error}", self.0.display()))
            .len()
    }

    /// The requests of the operator that were written after it was that long.
    pub fn of_the_operator_since(&self, from: u64) -> Vec<Request> {
        let mut file = File::open(&self.0).unwrap();
        file.seek(SeekFrom::Start(from)).unwrap();
        let user = format!("system:serviceaccount:{}:segment-counter-operator", SYSTEM.0);
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        let entries = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let own = entries.filter(|entry| entry["user"]["username"] == user.as_str());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        own.map(|entry| Request {
            verb: text(&entry["verb"]),
            group: text(&entry["objectRef"]["apiGroup"]),
            resource: match entry["objectRef"]["subresource"].as_str() {
                Some(sub) => format!("{}/{sub}", text(&entry["objectRef"]["resource"])),
                None => text(&entry["objectRef"]["resource"]),
            },
            namespace: text(&entry["objectRef"]["namespace"]),
        })
        .collect()
    }
}
