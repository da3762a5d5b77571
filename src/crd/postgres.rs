//! `spec.postgres`: where the ledger is.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{rules, spec::SecretRef};

/// The ledger: exactly one member.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::POSTGRES_UNION)]
pub struct Postgres {
    /// A PostgreSQL server that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalPostgres>,
}

/// A PostgreSQL server that somebody else runs: version 15 or newer, no extension needed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::LANES)]
pub struct ExternalPostgres {
    /// Secret with `host` or `hostname`, `port`, `database`, `dbname` or `db`, `username` or `user`, and `password`; or with one `uri`.
    pub secret_ref: SecretRef,

    /// Schema of the ledger's tables; a lane's schema is named after it. Two SegmentCounters in one database need two.
    #[serde(default = "schema_name")]
    #[schemars(length(min = 1, max = 48))]
    #[x_kube(validation = rules::SCHEMA_NAME)]
    pub schema: String,

    /// How many lanes the ledger has, each a schema with some of the segments: one for each machine where Citus distributes them, one is right
    /// on a single server. More can be added, none is taken away.
    #[serde(default = "lanes")]
    #[schemars(range(min = 1, max = 1_000))]
    pub lanes: i32,

    /// Connections that each API pod may hold.
    #[serde(default = "max_connections_per_replica")]
    #[schemars(range(min = 2, max = 500))]
    pub max_connections_per_replica: i32,
}

fn schema_name() -> String {
    "segment_counter".to_owned()
}

fn lanes() -> i32 {
    1
}

fn max_connections_per_replica() -> i32 {
    10
}
