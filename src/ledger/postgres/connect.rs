//! How a session is made: what every one of them is set to, and what a server must be to be taken.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use tokio::time::Instant;

use super::PostgresLedger;
use super::distributed::Found;
use super::lanes::{Lane, Lanes};
use super::pooled;
use super::session::Session;
use crate::ledger::sqlx_error::NO_CONNECTION;
use crate::ledger::{LedgerError, Settings};

/// The oldest server that the statements run on.
const OLDEST_VERSION: i32 = 150_000;
/// The longest name of a base schema: its lanes' names (`…_lane_0`) must fit PostgreSQL's 63 bytes.
const MAX_SCHEMA_BYTES: usize = 48;

/// How long a statement waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(3);
/// How long a connection that was used is believed to live.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long such a connection may take to say that it still does.
const PING: Duration = Duration::from_secs(1);
/// How long the look at a database that gives no connection may take.
const PROBE: Duration = Duration::from_secs(1);
/// How long a check waits for a connection of the pool. With [`PROBE`] it stays below the service's limit on a check (2 s), or readiness would
/// only ever say that it took too long where it could say why.
const CHECK_ACQUIRE: Duration = Duration::from_millis(500);

const STANDBY: &str = "it is a standby";

/// What the last such look found, and when.
pub(super) type Probe = tokio::sync::Mutex<Option<(Instant, LedgerError)>>;

/// Where the database is, and with what it is opened. Prints no password.
#[derive(Clone)]
pub struct PostgresOptions {
    connect: PgConnectOptions,
    schema: String,
    max_connections: u32,
    acquire: Duration,
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
            acquire: ACQUIRE,
        })
    }

    /// The same, with statements that wait so long for a connection (3 s by default).
    #[must_use]
    pub fn waiting(self, acquire: Duration) -> Self {
        Self { acquire, ..self }
    }

    pub(super) fn max_connections(&self) -> u32 {
        self.max_connections
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    pub(super) fn connect_options(&self, settings: &Settings) -> PgConnectOptions {
        let connect = self.connect.clone().application_name("segment-counter");
        // One that takes a second would be logged with its text, and that of an archive is tens of KiB and takes about so long.
        connect
            .options(pooled::session_settings(settings))
            .disable_statement_logging()
    }

    pub(super) fn pool(&self, settings: &Settings, distributed: &Found) -> PgPool {
        let (asked, told) = (distributed.clone(), distributed.clone());
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire)
            // A connection that was used a moment ago needs no question whether it lives: that would be a round trip for every statement.
            .test_before_acquire(false)
            .after_connect(move |session, _| {
                let settings = asked.settings();
                Box::pin(async move {
                    if is_standby(&mut *session).await? {
                        return Err(sqlx::Error::Protocol(STANDBY.to_owned()));
                    }
                    if let Some(settings) = settings {
                        sqlx::query(settings).execute(session).await?;
                    }
                    Ok(())
                })
            })
            .before_acquire(move |session, use_of| {
                let outdated = told.is_younger_than(use_of.age);
                Box::pin(async move {
                    if outdated {
                        return Ok(false);
                    }
                    if use_of.idle_for > TRUSTED {
                        // One that does not answer is closed, and the next one tried.
                        return Ok(tokio::time::timeout(PING, session.ping()).await.is_ok_and(|pong| pong.is_ok()));
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(self.connect_options(settings))
    }
}

/// Whatever reads from one would miss what was acknowledged.
pub(super) fn not_of_a_standby(standby: bool) -> Result<(), LedgerError> {
    if standby {
        return Err(LedgerError::ReadOnly(STANDBY.to_owned()));
    }
    Ok(())
}

pub(super) async fn is_standby(session: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(session)
        .await
}

impl PostgresLedger {
    /// Checks the database over a connection of the pool, or over one of its own where none comes free soon: that all of ours are in use is no
    /// reason to be unready, and a database that is away shall be told from one that is slow.
    pub(super) async fn check_database(&self) -> Result<(), LedgerError> {
        match tokio::time::timeout(CHECK_ACQUIRE, self.pool.acquire()).await {
            Ok(Ok(session)) => {
                let mut session = Session::from(session);
                let checked = self.check_over(&mut session).await;
                // Where the check is given up before this, the session is closed.
                session.give_back();
                checked
            }
            Ok(Err(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => Err(error.into()),
            _ => {
                let mut session = self.connect_once(PROBE).await?;
                let checked = self.check_over(&mut session).await;
                let _ = session.close().await;
                checked
            }
        }
    }

    /// What must hold for a pair to be acknowledged: the server is new enough, takes writes, and keeps them through a crash.
    async fn check_over(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        let (version, fsync, read_only, commit, encoding): (i32, String, bool, String, String) = sqlx::query_as(
            "SELECT current_setting('server_version_num')::integer,
                    current_setting('fsync'),
                    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
                    current_setting('synchronous_commit'),
                    current_setting('server_encoding')",
        )
        .fetch_one(&mut *session)
        .await?;
        if version < OLDEST_VERSION {
            return Err(LedgerError::UnsupportedVersion(format!(
                "PostgreSQL 15 or newer is needed, this is {version}"
            )));
        }
        // In any other a name that it cannot hold would fail, and every pair that shares the flush with it.
        if encoding != "UTF8" {
            return Err(LedgerError::UnsupportedVersion(format!(
                "its encoding is {encoding}: create the database with ENCODING 'UTF8'"
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
        self.check_settings(session).await?;
        let schema = self.schema_state(&mut *session).await?;
        if !schema.is_current() {
            return Err(schema.refusal());
        }
        // Read each time: it is how a process learns of lanes that were added.
        let lanes = self.read_lanes(&mut *session).await?;
        let lacking: Option<String> = sqlx::query_scalar(
            "SELECT string_agg(format('%s on %s', right_of, name), ', ' ORDER BY name, right_of)
               FROM unnest($1::text[]) AS name, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_of
              WHERE NOT has_table_privilege(name, right_of)",
        )
        .bind(self.tables(&lanes))
        .fetch_one(&mut *session)
        .await?;
        lacking.map_or(Ok(()), |lacking| {
            Err(LedgerError::MissingPrivilege(format!("it may not {lacking}")))
        })
    }

    /// The server's version as it tells it itself, such as `15.4 (Debian 15.4-1)`.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub async fn server_version(&self) -> Result<String, LedgerError> {
        let version = sqlx::query_scalar("SHOW server_version").fetch_one(&self.pool).await;
        self.explain(version.map_err(LedgerError::from)).await
    }

    /// The tables that serving writes.
    fn tables(&self, lanes: &Lanes) -> Vec<String> {
        let base = [
            "segment",
            "job_run",
            "lane",
            "move_log",
            "removal_epoch",
            "segment_deleted",
            "suppression",
            "suppression_key",
        ];
        let base = base.map(|table| format!("\"{}\".{table}", self.base));
        let of = |lane: &Arc<Lane>| {
            ["membership", "segment_expiry", "segment_total"].map(|table| format!("\"{}\".{table}", lane.schema))
        };
        base.into_iter().chain(lanes.iter().flat_map(of)).collect()
    }

    /// A pool keeps trying while the port refuses, and then only says that no connection came free: this looks once more and says why.
    /// One look at a time; whoever waited for it takes its answer.
    pub(super) async fn explain<T>(&self, answer: Result<T, LedgerError>) -> Result<T, LedgerError> {
        match answer {
            Err(LedgerError::Timeout(why)) if why == NO_CONNECTION => Err(self.why_no_connection().await),
            answer => answer,
        }
    }

    async fn why_no_connection(&self) -> LedgerError {
        let asked = Instant::now();
        let mut last = self.probe.lock().await;
        if let Some((at, found)) = &*last
            && *at >= asked
        {
            return found.clone();
        }
        let found = match self.connect_once(PROBE).await {
            Ok(mut session) => {
                let standby = tokio::time::timeout(PROBE, is_standby(&mut session)).await;
                let _ = session.close().await;
                match standby {
                    Ok(Ok(true)) => LedgerError::ReadOnly(STANDBY.to_owned()),
                    // It is there: all of ours are in use.
                    _ => LedgerError::Timeout(NO_CONNECTION.to_owned()),
                }
            }
            Err(error) => error,
        };
        *last = Some((Instant::now(), found.clone()));
        found
    }

    /// A connection beside the pool's within `limit`, with the reason where there is none.
    pub(super) async fn connect_once(&self, limit: Duration) -> Result<PgConnection, LedgerError> {
        let options = self.pool.connect_options();
        match tokio::time::timeout(limit, PgConnection::connect_with(&options)).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(LedgerError::Unreachable(format!(
                "no answer within {} s",
                limit.as_secs()
            ))),
        }
    }
}
