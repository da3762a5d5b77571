//! The sweep: takes what has ended out of the counters, and clears away what else is needed no longer.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;

use super::lanes::Lane;
use super::session::{STEP, over};
use super::{PostgresLedger, partitions};
use crate::ledger::{LedgerError, Swept};

/// How many buckets one statement clears.
const CHUNK: i64 = 10_000;
/// How many totals one statement moves on.
const TOTALS: i64 = 500;

/// `$1` clock: forgets the erasures whose suppression keeps nothing out any more.
pub(super) const FORGET_SUPPRESSIONS: &str =
    "DELETE FROM \"{base}\".suppression WHERE suppressed_until <= coalesce($1, clock_timestamp())";

/// `$1` clock, `$2` settle (µs), `$3` segments: takes out of their totals what has ended.
///
/// Writers leave buckets alone from settle / 2 on, and those that were under way at the clock's instant have ended, so what is added up is settled, and
/// no row is locked for it. Then totals are locked in the order of writers; one that somebody else moved on meanwhile is left as it is.
pub(super) const ADVANCE_TOTALS: &str = r#"
WITH past AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond' AS until
), ended AS MATERIALIZED (
  SELECT t.segment_id, t.since, p.until, e.members
    FROM "{lane}".segment_total t
   CROSS JOIN past p
   CROSS JOIN LATERAL (SELECT sum(b.members)::bigint AS members FROM "{lane}".segment_expiry b
                        WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= p.until) e
   WHERE t.segment_id = ANY ($3::bigint[]) AND e.members IS NOT NULL
), locked AS MATERIALIZED (
  SELECT t.segment_id FROM "{lane}".segment_total t
   WHERE t.segment_id = ANY ($3::bigint[]) AND (t.segment_id, t.since) IN (SELECT e.segment_id, e.since FROM ended e)
   ORDER BY t.segment_id FOR NO KEY UPDATE OF t
)
UPDATE "{lane}".segment_total t
   SET since = e.until, members = t.members - e.members
  FROM ended e
 WHERE t.segment_id = ANY ($3::bigint[]) AND t.segment_id = e.segment_id AND t.since = e.since
   AND t.segment_id IN (SELECT l.segment_id FROM locked l)
"#;

/// `$1` clock, `$2` settle (µs), `$3` segments, `$4` how many: clears buckets of theirs that are settled and that no total holds any more. Answers how many,
/// and the last segment that had any.
///
/// Segment by segment (`OFFSET 0` keeps it so), since the key begins with it: a walk through the whole table for each chunk would grow with what is still
/// to come, and one from the first segment on with what was cleared before.
pub(super) const CLEAR_BUCKETS: &str = r#"
WITH cleared AS (
  DELETE FROM "{lane}".segment_expiry WHERE ctid = ANY (ARRAY(
    SELECT c.tid
      FROM (SELECT coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond' AS until) p
     CROSS JOIN (SELECT s.segment_id, s.since FROM "{lane}".segment_total s WHERE s.segment_id = ANY ($3::bigint[]) ORDER BY s.segment_id) t
     CROSS JOIN LATERAL (SELECT b.ctid AS tid FROM "{lane}".segment_expiry b
                          WHERE b.segment_id = t.segment_id AND b.expires_at <= least(t.since, p.until) OFFSET 0) c
     LIMIT $4))
  RETURNING segment_id
)
SELECT count(*), max(segment_id) FROM cleared
"#;

impl PostgresLedger {
    pub(super) async fn sweep_past(&self, keep_days: u32) -> Result<Swept, LedgerError> {
        let mut counters = 0;
        let lanes = self.all_lanes().await?;
        for lane in lanes.iter() {
            // A writer that begins after this instant leaves alone what had settled by then; whoever is under way may have begun long ago, and hold
            // back a commit. So they end first, and every statement after this goes by this instant.
            let at = crate::ledger::Ledger::now(self).await?;
            let so = "nothing is taken out of the totals until it does";
            self.older_writers_ended(lane, "segment_expiry", so).await?;
            counters += self.sweep_counters(lane, at).await?;
            self.clear_deleted(lane, false).await?;
        }
        self.clear_after_moves(&lanes).await?;
        let spent = sqlx::query(lanes.forget_suppressions.clone()).bind(self.clock());
        over!(self, STEP, session => spent.execute(&mut *session))?;
        self.forget_runs(keep_days).await?;
        let partitions = partitions::drop_past(self, keep_days).await?;
        Ok(Swept { counters, partitions })
    }

    async fn sweep_counters(&self, lane: &Lane, at: Timestamp) -> Result<i64, LedgerError> {
        let (mut counters, mut after, mut at_once) = (0, i64::MIN, TOTALS);
        loop {
            let next = sqlx::query_scalar(lane.sql(
                "SELECT segment_id FROM \"{lane}\".segment_total WHERE segment_id > $1 ORDER BY segment_id LIMIT $2",
            ))
            .bind(after)
            .bind(at_once);
            let segments: Vec<i64> = over!(self, STEP, session => next.fetch_all(&mut *session))?;
            let Some(last) = segments.last().copied() else {
                return Ok(counters);
            };
            let advancing = sqlx::query(lane.advance_totals.clone())
                .bind(at.to_sqlx())
                .bind(self.settle_micros())
                .bind(&segments);
            match over!(self, STEP, session => advancing.execute(&mut *session)) {
                // Much has ended since the last time: fewer take less.
                Err(LedgerError::Timeout(_)) if at_once > 1 => {
                    at_once = (at_once / 4).max(1);
                    continue;
                }
                moved => moved?,
            };
            counters += self.clear_buckets(lane, at, &segments).await?;
            after = last;
        }
    }

    /// Of these segments, in their order.
    async fn clear_buckets(&self, lane: &Lane, at: Timestamp, mut segments: &[i64]) -> Result<i64, LedgerError> {
        let (mut counters, mut at_once) = (0, CHUNK);
        loop {
            let clearing = sqlx::query_as(lane.clear_buckets.clone())
                .bind(at.to_sqlx())
                .bind(self.settle_micros())
                .bind(segments)
                .bind(at_once);
            let (cleared, last): (i64, Option<i64>) = match over!(self, STEP, session => clearing.fetch_one(&mut *session))
            {
                Err(LedgerError::Timeout(_)) if at_once > 1 => {
                    at_once = (at_once / 4).max(1);
                    continue;
                }
                cleared => cleared?,
            };
            counters += cleared;
            let Some(last) = last.filter(|_| cleared >= at_once) else {
                return Ok(counters);
            };
            segments = &segments[segments.partition_point(|segment| *segment < last)..];
        }
    }
}
