//! The sweep: takes what has ended out of the counters, and clears away what else is needed no longer.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::{Connection, PgConnection};

use super::lanes::Lane;
use super::session::{STEP, over};
use super::{PostgresLedger, Statement, partitions};
use crate::ledger::{LedgerError, Swept};

/// How many buckets one statement clears.
const CHUNK: i64 = 10_000;
/// How many totals one transaction moves on: what it adds up is added up under their locks.
const TOTALS: i64 = 200;

/// `$1` clock: forgets the erasures whose suppression keeps nothing out any more.
pub(super) const FORGET_SUPPRESSIONS: &str =
    "DELETE FROM \"{base}\".suppression WHERE suppressed_until <= coalesce($1, clock_timestamp())";

/// `$1` instant, `$2` settle (µs), `$3` segments: locks the totals of those of which something has ended, in the order of writers, and answers which.
///
/// No `EXISTS`, which is planned as a join: of a total that was moved on while its lock was waited for, only the bucket that was joined before would be
/// looked at again, and the total be passed over whose others have ended too.
pub(super) const LOCK_TOTALS: &str = r#"
SELECT t.segment_id FROM "{lane}".segment_total t
 WHERE t.segment_id = ANY ($3::bigint[])
   AND (SELECT true FROM "{lane}".segment_expiry b
         WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= $1 - $2 * interval '1 microsecond' LIMIT 1)
 ORDER BY t.segment_id FOR NO KEY UPDATE OF t
"#;

/// The same parameters: takes out of the locked totals what has ended.
///
/// A statement of its own, so that it sees what was committed while the locks were waited for: a writer with a longer settle time may have moved a bucket that has
/// ended by ours, and did so under its total's lock.
pub(super) const ADVANCE_TOTALS: &str = r#"
UPDATE "{lane}".segment_total t
   SET since = e.until, members = t.members - e.members
  FROM (SELECT k.segment_id, p.until,
               (SELECT sum(b.members)::bigint FROM "{lane}".segment_expiry b
                 WHERE b.segment_id = k.segment_id AND b.expires_at > k.since AND b.expires_at <= p.until) AS members
          FROM "{lane}".segment_total k
         CROSS JOIN (SELECT $1 - $2 * interval '1 microsecond' AS until) p
         WHERE k.segment_id = ANY ($3::bigint[])) e
 WHERE t.segment_id = ANY ($3::bigint[]) AND t.segment_id = e.segment_id AND e.members IS NOT NULL
"#;

/// How totals are moved on.
#[derive(Debug, Clone)]
pub(super) struct Advance {
    /// `None` where `advance` is a function that does both.
    pub(super) lock: Option<Statement>,
    pub(super) advance: Statement,
}

impl Advance {
    /// Takes out of the totals of `segments` what had settled at `at`. Whoever was writing then must have ended: it may have begun long ago, and hold back a
    /// commit. Whoever begins later leaves alone what had settled by then.
    pub(super) async fn over(
        self,
        session: &mut PgConnection,
        at: Timestamp,
        settle: i64,
        segments: &[i64],
    ) -> Result<(), sqlx::Error> {
        let mut transaction = session.begin().await?;
        let locked: Option<Vec<i64>> = match self.lock {
            Some(lock) => {
                let locking = sqlx::query_scalar(lock).bind(at.to_sqlx()).bind(settle).bind(segments);
                Some(locking.fetch_all(&mut *transaction).await?)
            }
            None => None,
        };
        let segments = locked.as_deref().unwrap_or(segments);
        if !segments.is_empty() {
            let advancing = sqlx::query(self.advance).bind(at.to_sqlx()).bind(settle).bind(segments);
            advancing.execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }
}

/// `$1` instant, `$2` settle (µs), `$3` segments, `$4` how many: clears buckets of theirs that are settled and that no total holds any more. Answers how many,
/// and the last segment that had any.
///
/// Segment by segment (`OFFSET 0` keeps it so), since the key begins with it: a walk through the whole table for each chunk would grow with what is still
/// to come, and one from the first segment on with what was cleared before.
pub(super) const CLEAR_BUCKETS: &str = r#"
WITH cleared AS (
  DELETE FROM "{lane}".segment_expiry WHERE ctid = ANY (ARRAY(
    SELECT c.tid
      FROM (SELECT $1 - $2 * interval '1 microsecond' AS until) p
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
        let (mut counters, mut failed) = (0, None);
        let lanes = self.lanes_now().await?;
        for lane in lanes.iter() {
            // What is in the way in one lane is not in that of others, nor of what is to be forgotten.
            match self.sweep_lane(lane).await {
                Ok(cleared) => counters += cleared,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Err(error) = self.clear_after_moves(&lanes).await {
            failed = failed.or(Some(error));
        }
        let spent = sqlx::query(lanes.forget_suppressions.clone()).bind(self.clock());
        over!(self, STEP, session => spent.execute(&mut *session))?;
        self.forget_runs(keep_days).await?;
        let partitions = partitions::drop_past(self, keep_days).await?;
        failed.map_or(Ok(Swept { counters, partitions }), Err)
    }

    async fn sweep_lane(&self, lane: &Lane) -> Result<i64, LedgerError> {
        let at = crate::ledger::Ledger::now(self).await?;
        self.older_writers_ended(lane, "segment_expiry").await?;
        let cleared = self.sweep_counters(lane, at).await?;
        self.clear_deleted(lane, None).await?;
        Ok(cleared)
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
            let (advance, settle) = (lane.advance.clone(), self.settle_micros());
            match over!(self, STEP, session => advance.over(&mut session, at, settle, &segments)) {
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
