//! From a spec and what was observed to values that cannot be wrong, or to the first thing that is.
//!
//! Pure. What the API server's rules can see is refused by them already; here stands what takes parsing or another object.

use crate::crd::{ConditionType, PullPolicy, Reason, SegmentCounterSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// What was proven of an object. It holds no password.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Validated {
    /// Name of the object.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Generation of the spec.
    pub(crate) generation: i64,
    /// What its children carry. Without `blockOwnerDeletion`, which takes a right that nobody needs.
    pub(crate) owner: OwnerReference,
    /// The spec, with one member in each union.
    pub(crate) spec: SegmentCounterSpec,
    /// Image of the API and its jobs.
    pub(crate) image: String,
    /// Tag of it: the version that runs.
    pub(crate) version: String,
    /// The ledger.
    pub(crate) postgres: PostgresTarget,
    /// The cache; `None`: none.
    pub(crate) redis: Option<RedisTarget>,
    /// Secret with the tokens.
    pub(crate) tokens_secret: Option<String>,
    /// When the images are pulled.
    pub(crate) pull_policy: PullPolicy,
}

/// Where the ledger is. Not how to log in: that is read at each login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostgresTarget {
    /// Secret with the login.
    pub(crate) secret: String,
    /// Host.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// Database.
    pub(crate) database: String,
    /// Schema of the tables.
    pub(crate) schema: String,
    /// Connections of each pod.
    pub(crate) max_connections: i32,
}

/// The cache's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisTarget {
    /// Secret with the password, under the key `password`.
    pub(crate) secret: String,
    /// Names of the nodes, as the API reaches them; the port is 6379.
    pub(crate) hosts: Vec<String>,
    /// Image of the server.
    pub(crate) image: String,
    /// Who it runs as.
    pub(crate) uid: i64,
    /// What starts it.
    pub(crate) command: Vec<String>,
    /// Memory for values of each node, in bytes.
    pub(crate) max_memory_bytes: i64,
}

/// What is wrong with an object, or with what it names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct Invalid {
    /// The condition that says so: `Stalled` for the spec itself, `PostgresReady` for its Secret.
    pub(crate) condition: ConditionType,
    /// Why, for programs.
    pub(crate) reason: Reason,
    /// Why, for people. It names fields and keys, never a Secret's values.
    pub(crate) message: String,
}
