//! The sweep: takes what has ended out of the counters, and clears away what else is needed no longer.

use super::lanes::Lane;
use super::session::{STEP, over};
use super::{PostgresLedger, partitions};
use crate::ledger::{LedgerError, Swept};

/// How many buckets one statement clears.
const CHUNK: i64 = 10_000;
/// How many totals one statement looks at: writers wait for those that it moves.
const TOTALS: i64 = 500;

/// `$1` clock: forgets the erasures whose suppression keeps nothing out any more.
pub(super) const FORGET_SUPPRESSIONS: &str =
    "DELETE FROM \"{base}\".suppression WHERE suppressed_until <= coalesce($1, clock_timestamp())";

/// `$1` clock, `$2` settle (µs), `$3` the segment after which to go on, `$4` how many: takes out of totals what has ended. The last segment it looked
/// at, null where there was none.
///
/// Writers leave buckets alone from settle / 2 on, so what it adds up is settled whatever its snapshot. Locked in the order of writers.
pub(super) const ADVANCE_TOTALS: &str = r#"
WITH past AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond' AS until
), next AS MATERIALIZED (
  SELECT t.segment_id, t.since FROM "{lane}".segment_total t WHERE t.segment_id > $3 ORDER BY t.segment_id LIMIT $4
), locked AS MATERIALIZED (
  SELECT t.segment_id FROM "{lane}".segment_total t
   WHERE t.segment_id IN (SELECT n.segment_id FROM next n, past p
                           WHERE EXISTS (SELECT FROM "{lane}".segment_expiry b
                                          WHERE b.segment_id = n.segment_id AND b.expires_at > n.since AND b.expires_at <= p.until))
   ORDER BY t.segment_id FOR NO KEY UPDATE OF t
), advanced AS (
  UPDATE "{lane}".segment_total t
     SET since = p.until,
         members = t.members - (SELECT coalesce(sum(b.members), 0)::bigint FROM "{lane}".segment_expiry b
                                 WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= p.until)
    FROM locked l, past p WHERE t.segment_id = l.segment_id AND t.since < p.until
)
SELECT max(segment_id) FROM next
"#;

/// `$1` how many: clears buckets that no total holds any more. Segment by segment, since the key begins with it: a walk through the whole table for
/// each chunk would grow with what is still to come.
pub(super) const CLEAR_BUCKETS: &str = r#"
DELETE FROM "{lane}".segment_expiry WHERE ctid = ANY (ARRAY(
  SELECT c.tid FROM "{lane}".segment_total t
   CROSS JOIN LATERAL (SELECT b.ctid AS tid FROM "{lane}".segment_expiry b WHERE b.segment_id = t.segment_id AND b.expires_at <= t.since) c
   LIMIT $1))
"#;

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

    /// Takes what has ended out of the totals of up to `most` segments after `segment`; the last of them, `None` where there was none.
    pub(super) async fn advance_totals(
        &self,
        lane: &Lane,
        segment: i64,
        most: i64,
    ) -> Result<Option<i64>, LedgerError> {
        let advancing = sqlx::query_scalar(lane.advance_totals.clone())
            .bind(self.clock())
            .bind(self.settle_micros())
            .bind(segment)
            .bind(most);
        over!(self, STEP, session => advancing.fetch_one(&mut *session))
    }

    async fn sweep_counters(&self, lane: &Lane) -> Result<i64, LedgerError> {
        let mut after = Some(i64::MIN);
        while let Some(segment) = after {
            after = self.advance_totals(lane, segment, TOTALS).await?;
        }
        let mut counters = 0;
        loop {
            let clearing = sqlx::query(lane.clear_buckets.clone()).bind(CHUNK);
            let cleared = over!(self, STEP, session => clearing.execute(&mut *session))?;
            let cleared = i64::try_from(cleared.rows_affected()).unwrap_or(i64::MAX);
            counters += cleared;
            if cleared < CHUNK {
                return Ok(counters);
            }
        }
    }
}
