//! Objects for the tests of the pure steps: the least that a user may write, and everything.

use std::collections::BTreeMap;

use super::observed::{Observed, PostgresFacts};
use crate::{
    crd::SegmentCounter,
    ledger::{JobState, SchemaState},
};

fn observed() -> Observed {
    let secret = [
        ("host", "pg.growth.svc"),
        ("port", "5432"),
        ("dbname", "app"),
        ("user", "app"),
        ("password", "hunter2"),
    ];
    Observed {
        postgres_secret: Some(
            secret
                .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))
                .into(),
        ),
        redis_secret: Some(BTreeMap::from([("password".to_owned(), b"hunter2".to_vec())])),
        default_image: "ghcr.io/example/segment-counter:0.1.0".to_owned(),
        operator_version: "0.1.0".to_owned(),
        ..Observed::default()
    }
}

fn object(spec: &serde_json::Value) -> SegmentCounter {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "segmentcounter.io/v1alpha1",
        "kind": "SegmentCounter",
        "metadata": {"name": "ads", "namespace": "growth", "uid": "6f1e", "generation": 3},
        "spec": spec,
    }))
    .unwrap()
}

pub(super) fn minimal() -> (SegmentCounter, Observed) {
    let spec =
        serde_json::json!({"postgres": {"external": {"secretRef": {"name": "ads-pg-app"}}}, "redis": {"managed": {}}});
    (object(&spec), observed())
}

pub(super) fn full() -> (SegmentCounter, Observed) {
    let spec = serde_json::json!({
        "version": "0.2.0",
        "counting": {"windowSeconds": 315_360_000, "resolutionSeconds": 3600, "maxStalenessMilliseconds": 0},
        "api": {
            "replicas": 3,
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "64Mi"}},
            "tokensSecretRef": {"name": "ads-tokens"},
        },
        "exposure": {"service": {"type": "LoadBalancer", "annotations": {"example.org/internal": "true"}}},
        "postgres": {"external": {"secretRef": {"name": "ads-pg-app"}, "schema": "ads", "lanes": 4, "maxConnectionsPerReplica": 20}},
        "redis": {"managed": {"nodes": 2, "maxMemory": "1Gi"}},
        "maintenance": {
            "archive": {"schedule": "@daily", "timeZone": "Europe/Berlin", "batchSize": 500, "settleSeconds": 20, "keepDays": 30},
            "refresh": {"schedule": "0 * * * *", "timeoutSeconds": 60},
        },
        "images": {"registry": "mirror.example.org", "pullSecretRefs": [{"name": "pull"}], "pullPolicy": "Always", "redis": {"uid": 1001}},
    });
    let mut observed = observed();
    observed.tokens_secret = Some(BTreeMap::from([("tokens.yaml".to_owned(), b"tokens: []".to_vec())]));
    (object(&spec), observed)
}

/// A ledger whose schema is this version's, and whose jobs never ran.
pub(super) fn facts() -> PostgresFacts {
    PostgresFacts {
        schema: SchemaState {
            installed: Some(3),
            expected: 3,
        },
        archive: JobState::default(),
        refresh: JobState::default(),
        server_version: "17.2".to_owned(),
    }
}
