//! Who is writing: what an erasure and a sweep wait for, since no limit on statements bounds how long a commit takes that waits for a standby.

use std::time::Duration;

use tokio::time::Instant;

use super::PostgresLedger;
use super::lanes::Lane;
use super::session::{ANSWER, over};
use crate::ledger::LedgerError;

/// `$1` a table. Who may be writing it: whoever holds the lock that writing takes before the snapshot it reads by, and until its commit is seen.
pub(super) const WRITERS: &str = r#"
SELECT virtualtransaction FROM pg_locks
 WHERE locktype = 'relation' AND relation = to_regclass($1) AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"#;

/// How often it is looked whether the older writers have ended.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longer than any statement of a writer may take: beyond it what is in the way is no statement of ours.
const PATIENCE: Duration = Duration::from_secs(45);

/// Those whom the first look saw, and every look since.
#[derive(Debug, Default)]
pub(super) struct Older(Option<Vec<String>>);

impl Older {
    /// Whether nobody is left of them; `now`: whom this look sees.
    pub(super) fn have_ended(&mut self, now: Vec<String>) -> bool {
        let left = match self.0.take() {
            None => now,
            Some(mut older) => {
                older.retain(|writer| now.contains(writer));
                older
            }
        };
        self.0.insert(left).is_empty()
    }
}

impl PostgresLedger {
    /// Waits for whoever may write `table` by a snapshot from before this call. Those who come later see what is committed; nobody is held up.
    /// [`LedgerError::Timeout`] where one does not end; `so` says what becomes of it.
    pub(super) async fn older_writers_ended(&self, lane: &Lane, table: &str, so: &str) -> Result<(), LedgerError> {
        let table = format!("{}.{table}", lane.schema);
        let (mut older, until) = (Older::default(), Instant::now() + PATIENCE);
        loop {
            let looking = sqlx::query_scalar(lane.writers.clone()).bind(&table);
            if older.have_ended(over!(self, ANSWER, session => looking.fetch_all(&mut *session))?) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(LedgerError::Timeout(format!(
                    "a transaction that writes {table} does not end, one that is idle or whose commit waits for a standby; {so}"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(writers: &[&str]) -> Vec<String> {
        writers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_comes_later_is_not_waited_for() {
        let mut older = Older::default();
        assert!(!older.have_ended(named(&["1", "2"])));
        assert!(!older.have_ended(named(&["2", "3"])));
        assert!(older.have_ended(named(&["3", "4"])));
        assert!(Older::default().have_ended(vec![]));
    }
}
