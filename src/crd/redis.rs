//! `spec.redis`: the cache, which may be lost at any moment without changing an answer.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// The cache: exactly one member.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::REDIS_UNION)]
pub struct Redis {
    /// Cache servers that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedRedis>,

    /// No cache server: each API pod caches in its own memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<DisabledRedis>,
}

/// Cache servers that the operator runs.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedRedis {
    /// How many independent nodes share the keys. Scale the cache by adding nodes.
    #[serde(default = "nodes")]
    #[schemars(range(min = 1, max = 32))]
    pub nodes: i32,

    /// Memory that each node may fill with values before it evicts the least used.
    #[serde(default = "max_memory")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = rules::MAX_MEMORY)]
    pub max_memory: String,
}

impl Default for ManagedRedis {
    fn default() -> Self {
        Self {
            nodes: nodes(),
            max_memory: max_memory(),
        }
    }
}

fn nodes() -> i32 {
    1
}

fn max_memory() -> String {
    "256Mi".to_owned()
}

/// No cache server. It has no settings.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisabledRedis {}
