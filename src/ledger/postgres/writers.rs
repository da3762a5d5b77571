//! Who is writing: what an erasure and a sweep wait for, since no limit on statements bounds how long a commit takes that waits for a standby.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

use super::lanes::Lane;
use super::session::{ANSWER, Kept, session_of, within};
use super::{PostgresLedger, Statement};
use crate::ledger::LedgerError;

/// `$1` a table. Who may be writing it: whoever holds the lock that writing takes before the snapshot it reads by, and until its commit is seen.
pub(super) const WRITERS: &str = r#"
SELECT virtualtransaction FROM pg_locks
 WHERE locktype = 'relation' AND relation = to_regclass($1) AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"#;

/// How soon it is looked again whether the older writers have ended, and at longest where one does not.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LOOK_AT_LONGEST: Duration = Duration::from_millis(200);
/// Longer than a statement of a writer may take, and than a transaction whose client has gone: beyond it what is in the way is a recount that mends much, or
/// nothing of ours.
const PATIENCE: Duration = Duration::from_secs(75);

/// Those who write one table of a lane.
pub(super) struct Writers {
    pool: PgPool,
    kept: Arc<Kept>,
    looking: Statement,
    table: String,
}

impl Writers {
    async fn look(&self) -> Result<Vec<String>, LedgerError> {
        let mut session = session_of(&self.pool, &self.kept).await?;
        let looking = sqlx::query_scalar(self.looking.clone()).bind(&self.table);
        let answer = within(ANSWER, looking.fetch_all(&mut *session)).await;
        session.hear(answer)
    }

    /// Waits for whoever may write by a snapshot from before this call; those who come later see what is committed, and nobody is held up.
    /// [`LedgerError::Timeout`] where somebody does not end in time.
    pub(super) async fn older_ended(&self, patience: Duration) -> Result<(), LedgerError> {
        let until = Instant::now() + patience;
        // And for what those leave prepared on another machine, under another name than their own.
        for _ in 0..2 {
            let mut older = self.look().await?;
            if older.is_empty() {
                return Ok(());
            }
            let mut pause = LOOK_AGAIN;
            while !older.is_empty() {
                if Instant::now() > until {
                    let table = &self.table;
                    return Err(LedgerError::Timeout(format!(
                        "a transaction that writes {table} does not end: one that is idle, or whose commit waits for a standby"
                    )));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_AT_LONGEST);
                let now = self.look().await?;
                older.retain(|writer| now.contains(writer));
            }
        }
        Ok(())
    }
}

impl PostgresLedger {
    pub(super) fn writers(&self, lane: &Lane, table: &str) -> Writers {
        Writers {
            pool: self.pool.clone(),
            kept: Arc::clone(&self.kept),
            looking: lane.writers.clone(),
            table: format!("{}.{table}", lane.schema),
        }
    }

    /// [`Writers::older_ended`], with all the patience that there is.
    pub(super) async fn older_writers_ended(&self, lane: &Lane, table: &str) -> Result<(), LedgerError> {
        self.writers(lane, table).older_ended(PATIENCE).await
    }
}
