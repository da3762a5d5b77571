//! `spec.images`: where the images come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, spec::SecretRef};

/// Where the images come from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Registry, with a path if there is one, in place of that of every image which is not named below. Empty: each image's own.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::REGISTRY)]
    pub registry: String,

    /// Secrets to pull with.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub pull_secret_refs: Vec<SecretRef>,

    /// When to pull.
    #[serde(default)]
    pub pull_policy: PullPolicy,

    /// The image of the API and its jobs.
    #[serde(default)]
    pub api: ApiImage,

    /// The image of the managed cache.
    #[serde(default)]
    pub redis: RedisImage,
}

/// The image of the API and its jobs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiImage {
    /// Name without a tag, which spec.version is. Absent: the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::REPOSITORY)]
    pub repository: Option<String>,
}

/// The image of the managed cache: any server that speaks Redis' protocol and takes its configuration file.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisImage {
    /// Name with a tag or a digest. Absent: the operator's default, Valkey's official image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::IMAGE)]
    pub image: Option<String>,

    /// User, and group, that the server runs as.
    #[serde(default = "uid")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub uid: i64,

    /// Program that serves, and what comes before the configuration file.
    #[serde(default = "command")]
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 256)))]
    pub command: Vec<String>,
}

impl Default for RedisImage {
    fn default() -> Self {
        Self {
            image: None,
            uid: uid(),
            command: command(),
        }
    }
}

fn uid() -> i64 {
    999
}

fn command() -> Vec<String> {
    vec!["valkey-server".to_owned()]
}

/// When to pull an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// When the node has not got it.
    #[default]
    IfNotPresent,
    /// Never: it must be on the node.
    Never,
}
