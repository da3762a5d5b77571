//! An advisory lock for work of many transactions.
//!
//! A lock of the session would do on a direct connection. Behind a pooler that shares sessions by the transaction it would stay with whichever
//! session took it, under whoever comes next. So one transaction holds the lock and does nothing else: it has no snapshot that would keep a
//! vacuum back, and the work goes on over other connections.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::PostgresLedger;
use super::session::within;
use crate::ledger::LedgerError;

/// How long a connection for it may take.
const CONNECT: Duration = Duration::from_secs(3);
/// The transaction may wait for as long as it must, and stand idle for as long as the work takes.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

/// Holds the lock until it is dropped, or the connection breaks.
pub(super) struct Guard(PgConnection);

impl Guard {
    /// Ends the transaction in good order: of one that breaks off, a pooler closes the server's session too.
    pub(super) async fn end(mut self) {
        let ended = within(CONNECT, sqlx::raw_sql("ROLLBACK").execute(&mut self.0)).await;
        if matches!(ended, Ok(Ok(_))) {
            let _ = within(CONNECT, self.0.close()).await;
        }
    }
}

impl PostgresLedger {
    /// Waits for a lock.
    pub(super) async fn guard(&self, lock: i64) -> Result<Guard, LedgerError> {
        let mut session = self.begin_guard().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(lock)
            .execute(&mut session)
            .await?;
        Ok(Guard(session))
    }

    /// The same, shared with others who ask for it so, within `limit`.
    pub(super) async fn shared_guard(&self, lock: i64, limit: Duration) -> Result<Guard, LedgerError> {
        let mut session = self.begin_guard().await?;
        let locking = sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(lock);
        match within(limit, locking.execute(&mut session)).await {
            Ok(locked) => locked?,
            Err(_) => return Err(LedgerError::Timeout("a lock did not come free".to_owned())),
        };
        Ok(Guard(session))
    }

    /// The same without waiting; `None`: another one holds it.
    pub(super) async fn try_guard(&self, lock: i64) -> Result<Option<Guard>, LedgerError> {
        let mut session = self.begin_guard().await?;
        let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(lock)
            .fetch_one(&mut session)
            .await?;
        let guard = Guard(session);
        if alone {
            return Ok(Some(guard));
        }
        guard.end().await;
        Ok(None)
    }

    /// A connection beside the pool's: a pool of one must do for the work.
    async fn begin_guard(&self) -> Result<PgConnection, LedgerError> {
        let mut session = self.connect_once(CONNECT).await?;
        match within(CONNECT, sqlx::raw_sql(BEGIN).execute(&mut session)).await {
            Ok(begun) => begun?,
            Err(_) => return Err(LedgerError::Timeout("a new session did not answer".to_owned())),
        };
        Ok(session)
    }
}
