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
    ///
    /// # Errors
    /// [`LedgerError::Timeout`] where the lock was lost before, whenever that was.
    pub(super) async fn end(mut self) -> Result<(), LedgerError> {
        self.ask("ROLLBACK").await?;
        let _ = within(CONNECT, self.0.close()).await;
        Ok(())
    }

    /// Whether the lock has been held until now: who kills sessions that idle in a transaction kills this one, and nothing tells.
    ///
    /// # Errors
    /// [`LedgerError::Timeout`] where it was lost, or may have been.
    pub(super) async fn holds(&mut self) -> Result<(), LedgerError> {
        self.ask("SELECT 1").await
    }

    /// The same as a condition for a statement, with which it leaves alone what the next holder does: where the condition held, the statement's snapshot
    /// is older than all of that.
    pub(super) async fn condition(&mut self, lock: i64) -> Result<String, LedgerError> {
        let asking = sqlx::query_scalar("SELECT pg_backend_pid()");
        let pid: i32 = match within(CONNECT, asking.fetch_one(&mut self.0)).await {
            Ok(told) => told?,
            Err(_) => return Err(LedgerError::Timeout("a session did not answer".to_owned())),
        };
        let (high, low) = (lock >> 32, lock & 0xffff_ffff);
        Ok(format!(
            "EXISTS (SELECT FROM pg_locks h JOIN pg_database d ON d.oid = h.database AND d.datname = current_database()
                      WHERE h.locktype = 'advisory' AND h.classid = {high} AND h.objid = {low} AND h.objsubid = 1 AND h.granted AND h.pid = {pid})"
        ))
    }

    /// A session that answers, without an error, is in the transaction that took the lock.
    async fn ask(&mut self, text: &'static str) -> Result<(), LedgerError> {
        match within(CONNECT, sqlx::raw_sql(text).execute(&mut self.0)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(LedgerError::Timeout(
                "the session that held a lock for this was ended from outside: do it again".to_owned(),
            )),
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
        guard.end().await?;
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
