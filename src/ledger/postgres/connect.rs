//! How a session is made: what every one of them is set to, and what a server must be to be taken.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::PostgresLedger;
use crate::ledger::{LedgerError, Settings};

/// The oldest server that the statements run on.
const OLDEST_VERSION: i32 = 150_000;
/// The longest name of a base schema: its lanes' names (`…_lane_0`) must fit PostgreSQL's 63 bytes.
const MAX_SCHEMA_BYTES: usize = 48;

/// Where the database is, and with what it is opened. Prints no password.
#[derive(Clone)]
pub struct PostgresOptions {
    connect: PgConnectOptions,
    schema: String,
    max_connections: u32,
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("host", &self.connect.get_host())
            .field("port", &self.connect.get_port())
            .field("schema", &self.schema)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// Options for a database, its tables in `schema`, with at most `max_connections` sessions.
    ///
    /// # Errors
    /// [`LedgerError::Schema`] where `schema` is no plain identifier: lower-case letters, digits and `_`, at most 48 bytes.
    pub fn new(connect: PgConnectOptions, schema: &str, max_connections: u32) -> Result<Self, LedgerError> {
        let plain = schema
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && schema.bytes().next().is_some_and(|b| !b.is_ascii_digit())
            && schema.len() <= MAX_SCHEMA_BYTES
            && !schema.starts_with("pg_");
        if !plain {
            return Err(LedgerError::Schema(format!(
                "the schema's name {schema:?} must be lower-case letters, digits and _, begin with a letter and have at most {MAX_SCHEMA_BYTES} bytes"
            )));
        }
        Ok(Self {
            connect,
            schema: schema.to_owned(),
            max_connections: max_connections.max(1),
        })
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    pub(super) fn connect_options(&self, settings: &Settings) -> PgConnectOptions {
        // A writer that outlived settle / 2 could meet the sweeper; a tenth of it leaves no doubt.
        let timeout = (settings.settle / 10)
            .clamp(Duration::from_millis(500), Duration::from_secs(30))
            .as_millis();
        self.connect.clone().application_name("segment-counter").options([
            ("synchronous_commit", "on".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("statement_timeout", timeout.to_string()),
            ("idle_in_transaction_session_timeout", (timeout * 2).to_string()),
            // The statements are planned once for every size of batch: a generic plan is right for all of them.
            ("plan_cache_mode", "force_generic_plan".to_owned()),
        ])
    }

    pub(super) fn pool(&self, settings: &Settings) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(self.connect_options(settings))
    }
}

impl PostgresLedger {
    /// What must hold for a pair to be acknowledged: the server is new enough, takes writes, and keeps them through a crash.
    pub(super) async fn check_database(&self) -> Result<(), LedgerError> {
        let (version, fsync, read_only, commit): (i32, String, bool, String) = sqlx::query_as(
            "SELECT current_setting('server_version_num')::integer,
                    current_setting('fsync'),
                    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
                    current_setting('synchronous_commit')",
        )
        .fetch_one(&self.pool)
        .await?;
        if version < OLDEST_VERSION {
            return Err(LedgerError::UnsupportedVersion(format!(
                "PostgreSQL 15 or newer is needed, this is {version}"
            )));
        }
        if read_only {
            return Err(LedgerError::ReadOnly(
                "it is a standby, or default_transaction_read_only is on".to_owned(),
            ));
        }
        if fsync != "on" {
            return Err(LedgerError::NotDurable(
                "fsync is off: turn it on in the server's configuration".to_owned(),
            ));
        }
        if commit == "off" || commit == "local" {
            return Err(LedgerError::NotDurable(format!(
                "synchronous_commit is {commit} in our own session"
            )));
        }
        Ok(())
    }
}
