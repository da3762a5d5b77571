//! `spec.api` and `spec.exposure`: the pods that answer, and how they are reached.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{rules, spec::SecretRef};

/// The pods that answer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// How many pods; what `kubectl scale` sets.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,

    /// CPU and memory of each pod. What is left out has the operator's default.
    #[serde(default)]
    pub resources: Resources,

    /// What a count does that the cache cannot help with: ask Postgres, within bounds, or fail with 503. With Fail, CacheReady is part of
    /// Ready, and a replica that reaches no node of the cache is not ready. Pairs are recorded without the cache.
    #[serde(default)]
    pub on_cache_failure: OnCacheFailure,

    /// What a count does while Postgres is away: answer the last known one, with its age, or fail with 503.
    #[serde(default)]
    pub on_postgres_failure: OnPostgresFailure,

    /// How old the last known count may be that ServeStale answers, in seconds.
    #[serde(default = "serve_stale_seconds")]
    #[schemars(range(min = 1, max = 604_800))]
    pub serve_stale_seconds: i32,

    /// Secret whose key `tokens.yaml` names the tokens and their scopes. Absent: pairs and counts are open to all who reach the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_secret_ref: Option<SecretRef>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            replicas: replicas(),
            resources: Resources::default(),
            on_cache_failure: OnCacheFailure::default(),
            on_postgres_failure: OnPostgresFailure::default(),
            serve_stale_seconds: serve_stale_seconds(),
            tokens_secret_ref: None,
        }
    }
}

fn replicas() -> i32 {
    2
}

fn serve_stale_seconds() -> i32 {
    900
}

/// What a count does that the cache cannot help with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnCacheFailure {
    /// Asks Postgres, a bounded number of statements at once.
    #[default]
    ServeFromPostgres,
    /// Fails with 503, so that Postgres never bears the reads of all clients.
    Fail,
}

/// What a count does while Postgres is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnPostgresFailure {
    /// Answers the last known one, with its age, for `serveStaleSeconds`.
    #[default]
    ServeStale,
    /// Fails with 503.
    Fail,
}

/// What a container is promised and what it may use, by the resource's name.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::REQUESTS_WITHIN_LIMITS)]
pub struct Resources {
    /// What the scheduler sets aside, such as `cpu: 250m`, `memory: 128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantities")]
    #[x_kube(validation = rules::QUANTITIES)]
    pub requests: Option<BTreeMap<String, Quantity>>,

    /// What may not be exceeded, such as `memory: 512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantities")]
    #[x_kube(validation = rules::QUANTITIES)]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

/// A map of quantities with the bounds that make a rule over it affordable to the API server.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 20,
        },
    })
}

/// How the API is reached.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    /// By a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ExposureService>,
}

/// The Service in front of the API.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExposureService {
    /// Type of the Service.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// Annotations of the Service, such as a cloud's load balancer wants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
}

fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 2048 },
    })
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reached from inside the cluster.
    #[default]
    ClusterIP,
    /// Reached by a port of every node.
    NodePort,
    /// Reached through a load balancer of the cluster's provider.
    LoadBalancer,
}
