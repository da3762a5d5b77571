//! The sweep: clears the counters of the past, and what else is needed no longer.

use super::lanes::Lane;
use super::session::{STEP, over};
use super::{PostgresLedger, partitions};
use crate::ledger::{LedgerError, Swept};

/// How many counters one statement clears.
const CHUNK: i64 = 10_000;

/// `$1` clock: forgets the erasures whose suppression keeps nothing out any more.
pub(super) const FORGET_SUPPRESSIONS: &str =
    "DELETE FROM \"{base}\".suppression WHERE suppressed_until <= coalesce($1, clock_timestamp())";

/// `$1` clock, `$2` settle (µs), `$3` how many: clears counters of the past.
///
/// Writers leave counters alone from settle / 2 on, so nobody waits for these rows. Segment by segment, since the key begins with it: a walk
/// through the whole table for each chunk would grow with what is still to come.
pub(super) fn counters(table: &str, column: &str) -> String {
    format!(
        "DELETE FROM \"{{lane}}\".{table} WHERE ctid = ANY (ARRAY(
           SELECT c.tid
             FROM \"{{base}}\".segment s
            CROSS JOIN LATERAL (
                    SELECT ctid AS tid FROM \"{{lane}}\".{table} t
                     WHERE t.segment_id = s.id
                       AND t.{column} <= (SELECT coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond')) c
            WHERE s.lane = {{number}}
            LIMIT $3))"
    )
}

impl PostgresLedger {
    pub(super) async fn sweep_past(&self, keep_days: u32) -> Result<Swept, LedgerError> {
        let mut counters = 0;
        let lanes = self.all_lanes().await?;
        for lane in lanes.iter() {
            counters += self.sweep_counters(lane).await?;
            self.clear_deleted(lane, false).await?;
        }
        self.clear_after_moves(&lanes).await?;
        let spent = sqlx::query(lanes.forget_suppressions.clone()).bind(self.clock());
        over!(self, STEP, session => spent.execute(&mut *session))?;
        self.forget_runs(keep_days).await?;
        let partitions = partitions::drop_past(self, keep_days).await?;
        Ok(Swept { counters, partitions })
    }

    async fn sweep_counters(&self, lane: &Lane) -> Result<i64, LedgerError> {
        let mut counters = 0;
        for clear in [&lane.sweep_buckets, &lane.sweep_spans] {
            loop {
                let clearing = sqlx::query(clear.clone())
                    .bind(self.clock())
                    .bind(self.settle_micros())
                    .bind(CHUNK);
                let cleared = over!(self, STEP, session => clearing.execute(&mut *session))?;
                let cleared = i64::try_from(cleared.rows_affected()).unwrap_or(i64::MAX);
                counters += cleared;
                if cleared < CHUNK {
                    break;
                }
            }
        }
        Ok(counters)
    }
}
