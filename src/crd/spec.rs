//! The object as a whole, and what several parts of its spec share.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    api::{Api, Exposure},
    counting::Counting,
    images::Images,
    maintenance::Maintenance,
    postgres::Postgres,
    redis::Redis,
    rules,
    status::SegmentCounterStatus,
};

/// Exact counts of the users in a segment: an API, its ledger in PostgreSQL, its cache and its maintenance jobs.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "segmentcounter.io",
    version = "v1alpha1",
    kind = "SegmentCounter",
    plural = "segmentcounters",
    singular = "segmentcounter",
    shortname = "segc",
    category = "segments",
    namespaced,
    doc = "A SegmentCounter runs the segment counter: an HTTP API that takes (user, segment) pairs and answers exactly how many users are in a segment now.",
    status = "SegmentCounterStatus",
    derive = "PartialEq",
    validation = rules::NAME,
    scale(
        spec_replicas_path = ".spec.api.replicas",
        status_replicas_path = ".status.api.replicas",
        label_selector_path = ".status.api.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "API", type_ = "string", json_path = ".status.api.ready", description = "Replicas that are ready, of those wanted."),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Postgres", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"PostgresReady\")].reason"),
    printcolumn(name = "Redis", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"CacheReady\")].reason"),
    printcolumn(name = "Archived", type_ = "date", priority = 1, json_path = ".status.maintenance.archive.lastSuccessTime"),
    printcolumn(name = "Counted", type_ = "date", priority = 1, json_path = ".status.maintenance.refresh.lastSuccessTime"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::CACHE_TO_FAIL_WITHOUT)]
pub struct SegmentCounterSpec {
    /// Tag of the API's image. Absent: the operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::VERSION)]
    pub version: Option<String>,

    /// How long a pair counts, how finely it expires and how old an answer may be.
    #[serde(default)]
    pub counting: Counting,

    /// The pods that answer.
    #[serde(default)]
    pub api: Api,

    /// How the API is reached. Absent: by a Service of type ClusterIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,

    /// The ledger: exactly one member.
    pub postgres: Postgres,

    /// The cache: exactly one member.
    pub redis: Redis,

    /// The jobs that keep the ledger small and prove its counters.
    #[serde(default)]
    pub maintenance: Maintenance,

    /// Where the images come from.
    #[serde(default)]
    pub images: Images,
}

/// A Secret in the object's own namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::OBJECT_NAME)]
    pub name: String,
}
