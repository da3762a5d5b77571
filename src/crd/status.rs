//! `status`: what the operator answers. No per-segment data and no secret may stand here, and a time moves only when a job ends.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What is true of the object, as of `observedGeneration`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentCounterStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// What is true, one for each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,

    /// URL of the API, as its clients inside the cluster reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub endpoint: Option<String>,

    /// Version of the API that all its pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,

    /// The pods that answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiStatus>,

    /// What the jobs did last, as the ledger tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
}

/// The pods that answer.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiStatus {
    /// Replicas that are ready, of those wanted, for people: `2/2`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub ready: String,

    /// Pods that exist; what an autoscaler reads.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the pods, as text; what an autoscaler reads.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub selector: String,
}

/// What the jobs did last.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// The last archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<JobStatus>,

    /// The last refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<JobStatus>,
}

/// What one job did last.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// When it last ended well. Absent: never yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub last_success_time: Option<Time>,

    /// How its last run ended, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_result: Option<String>,
}

fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": 64 })
}

/// `metav1.Condition` with the bounds that its Go type declares, as a map by type so that one writer may own one condition.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "minLength": 1, "maxLength": 316, "description": "What is said to be true or not." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "maxLength": 7, "description": "Whether it is." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "Generation of the spec that this speaks of." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "maxLength": 64, "description": "When the status changed last." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "Why, in one word for programs." },
                "message": { "type": "string", "maxLength": 32768, "description": "Why, in words for people." },
            },
        },
    })
}
