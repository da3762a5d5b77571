//! The recount: memberships against counters, in one short snapshot after another.
//!
//! Two looks. The first tells for many segments at once whether all of their counters agree, by sums and fingerprints: rows that lie scattered over
//! the tables are then read block by block and not segment by segment, and nothing is sorted or joined. Only a segment that does not agree is
//! looked at by itself, counter by counter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Postgres, Transaction};

use super::lanes::Lane;
use super::session::{STEP, over};
use super::{PostgresLedger, Statement, partitions, timestamp};
use crate::counting::SegmentId;
use crate::ledger::{Extent, LedgerError, READ_WHOLE, Recount};

/// Whether counters agree with memberships: `$1` clock, `$2` segments, `$3` what the fingerprints are seeded with (s).
///
/// A fingerprint is the sum of a hash of each member's end (of a counter: as often as it counts), so it does not depend on an order and adds up.
/// That counters which differ have the fingerprint of the memberships happens once in 2^31; with another seed the next time, it does not happen to
/// the same ones again. Buckets are held against memberships, a segment's total against the sum of its buckets.
///
/// `AT TIME ZONE` an interval is an addition that makes of an instant what PostgreSQL 15 has a hash for that it lets be called: the seed is what is
/// added. Ends by `date_part` take three times as long.
const AGREE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now, interval '1 second' * $3 AS seed
), truth AS MATERIALIZED (
  SELECT segment_id, count(*) AS n, sum(timestamp_hash(expires_at AT TIME ZONE (SELECT seed FROM instant))) AS print
    FROM "{lane}".membership WHERE {theirs}expires_at > (SELECT now FROM instant)
   GROUP BY segment_id
), buckets AS MATERIALIZED (
  SELECT segment_id, sum(members) AS n, sum(members * timestamp_hash(expires_at AT TIME ZONE (SELECT seed FROM instant))) AS print
    FROM "{lane}".segment_expiry WHERE {theirs}expires_at > (SELECT now FROM instant)
   GROUP BY segment_id
)
SELECT s.id, coalesce(t.n, 0), (SELECT (extract(epoch FROM now) * 1000000)::bigint FROM instant)
  FROM "{base}".segment s
  LEFT JOIN truth t ON t.segment_id = s.id LEFT JOIN buckets b ON b.segment_id = s.id LEFT JOIN "{lane}".segment_total k ON k.segment_id = s.id
 WHERE s.id = ANY($2) AND s.lane = {number}
   AND coalesce(t.print, 0) = coalesce(b.print, 0)
   AND coalesce(k.members, 0) = coalesce(b.n, 0) + coalesce((SELECT sum(CASE WHEN e.expires_at <= k.since THEN -e.members ELSE e.members END)
         FROM "{lane}".segment_expiry e, instant i
        WHERE e.segment_id = s.id AND e.expires_at > least(k.since, i.now) AND e.expires_at <= greatest(k.since, i.now)), 0)
"#;

/// By the rows of those segments, found by key; and by all rows of the lane, whosever they are: read as they lie, with whatever workers the server has
/// for it, they take a third less.
pub(super) fn agree() -> [String; 2] {
    ["segment_id = ANY($2) AND ", ""].map(|theirs| AGREE.replace("{theirs}", theirs))
}

/// Whether a lane is to be read whole for `$1` of its segments: these are three in four of all, and by the server's statistics there are at most `$2`
/// memberships.
const WHOLE: &str = r#"
SELECT (SELECT count(*) FROM (SELECT FROM "{base}".segment WHERE lane = {number} LIMIT $1 * 4 / 3 + 1) s) * 3 <= $1 * 4
   AND (SELECT c.reltuples BETWEEN 0 AND $2 FROM pg_class c WHERE c.oid = '"{lane}".membership'::regclass)
"#;
/// Our sessions find rows by key only; this is for one that reads a lane whole.
const BEGIN_WHOLE: &str = "BEGIN; SET LOCAL enable_seqscan = on";

/// Notes what was found of segments that agree: a point of the trend for each, and when it was (`$1`, µs). `$2` segments, `$3` their members.
/// Answers those that are still there. Locked in the order of their numbers: another refresh may note the same ones.
const NOTE: &str = r#"
WITH here AS MATERIALIZED (
  SELECT s.id, n.members, timestamptz 'epoch' + $1 * interval '1 microsecond' AS at
    FROM unnest($2::bigint[], $3::bigint[]) AS n(id, members) JOIN "{base}".segment s ON s.id = n.id
   WHERE s.lane = {number} ORDER BY s.id FOR NO KEY UPDATE OF s
), points AS (
  INSERT INTO "{base}".segment_history (segment_id, at, members) SELECT id, at, members FROM here
), noted AS (
  UPDATE "{base}".segment s SET recounted_at = h.at FROM here h WHERE s.id = h.id
)
SELECT id FROM here
"#;

/// How many memberships and segments there are. `$1` tables.
const ESTIMATE: &str = r#"
SELECT sum(greatest(c.reltuples, 0))::bigint, (SELECT count(*) FROM "{base}".segment)
  FROM pg_class c WHERE c.oid = ANY($1::text[]::regclass[])
"#;

/// What differs, over the buckets still to come and the total. `$1` clock, `$2` segment.
const DIFFERENCES: &str = r#"
instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
), truth AS MATERIALIZED (
  SELECT m.expires_at, count(*) AS n FROM "{lane}".membership m
   WHERE m.segment_id = $2 AND m.expires_at > (SELECT now FROM instant) GROUP BY 1
), bucket_difference AS MATERIALIZED (
  SELECT coalesce(t.expires_at, b.expires_at) AS at, coalesce(t.n, 0) - coalesce(b.members, 0) AS d
    FROM truth t
    FULL JOIN (SELECT expires_at, members FROM "{lane}".segment_expiry
                WHERE segment_id = $2 AND expires_at > (SELECT now FROM instant)) b ON b.expires_at = t.expires_at
   WHERE coalesce(t.n, 0) <> coalesce(b.members, 0)
), total_difference AS MATERIALIZED (
  SELECT coalesce((SELECT sum(t.n) FROM truth t WHERE t.expires_at > coalesce(k.since, 'epoch')), 0)
         + coalesce((SELECT sum(b.members) FROM "{lane}".segment_expiry b
                      WHERE b.segment_id = $2 AND b.expires_at <= i.now AND b.expires_at > coalesce(k.since, 'epoch')), 0)
         - coalesce(k.members, 0) AS d
    FROM instant i LEFT JOIN "{lane}".segment_total k ON k.segment_id = $2
)"#;

/// What was found, noted in the same statement: a point of the trend, and when it was. Differences that are not being mended are not noted:
/// they are looked at again under a lock.
const FOUND: &str = r#"
, found AS MATERIALIZED (
  SELECT i.now, coalesce((SELECT sum(n) FROM truth), 0)::bigint AS members,
         (coalesce((SELECT sum(abs(d)) FROM bucket_difference), 0) + (SELECT abs(d) FROM total_difference))::bigint AS drift,
         EXISTS (SELECT FROM "{base}".segment s WHERE s.id = $2 AND s.lane = {number}) AS here
    FROM instant i
), point AS (
  INSERT INTO "{base}".segment_history (segment_id, at, members) SELECT $2, f.now, f.members FROM found f WHERE f.here AND {settled}
), noted AS (
  UPDATE "{base}".segment s SET recounted_at = f.now FROM found f WHERE s.id = $2 AND f.here AND {settled}
)
SELECT (extract(epoch FROM now) * 1000000)::bigint, members, drift, here FROM found
"#;

/// What the recount of one segment may take: by the half second of 1,000,000 members, 100,000,000 take about a minute, which is more than other
/// statements may.
const ONE: Duration = Duration::from_secs(1_200);
const BEGIN_ONE: &str = "SET LOCAL statement_timeout = '10 min'";
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '1 s'";

/// How often a segment is looked for that moves from lane to lane.
const TRIES: u32 = 4;

const MEND: &str = r#"
, mended_buckets AS (
  INSERT INTO "{lane}".segment_expiry AS b (segment_id, expires_at, members)
  SELECT $2, at, d FROM bucket_difference ORDER BY at
  ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members
), mended_total AS (
  INSERT INTO "{lane}".segment_total AS t (segment_id, members) SELECT $2, d FROM total_difference WHERE d <> 0
  ON CONFLICT (segment_id) DO UPDATE SET members = t.members + EXCLUDED.members
)"#;

/// `$1` clock, `$2` segment: compares, and notes what was found where nothing differs.
pub(super) fn comparing() -> String {
    format!("WITH {DIFFERENCES} {}", FOUND.replace("{settled}", "f.drift = 0"))
}

/// The same, with what differs mended and noted.
pub(super) fn mending() -> String {
    format!("WITH {DIFFERENCES} {MEND} {}", FOUND.replace("{settled}", "true"))
}

impl PostgresLedger {
    pub(super) async fn longest_unchecked(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError> {
        let choosing = sqlx::query_scalar(
            self.sql("SELECT id FROM \"{base}\".segment ORDER BY recounted_at NULLS FIRST, id LIMIT $1"),
        )
        .bind(i64::from(limit));
        let ids: Vec<i64> = over!(self, STEP, session => choosing.fetch_all(&mut *session))?;
        Ok(ids.into_iter().map(SegmentId).collect())
    }

    /// By what the server's statistics say of the tables; `None` where they say nothing, or Citus has the tables elsewhere.
    pub(super) async fn estimate(&self) -> Result<Option<Extent>, LedgerError> {
        let lanes = self.all_lanes().await?;
        if lanes.distributed {
            return Ok(None);
        }
        let tables: Vec<String> = lanes
            .iter()
            .map(|lane| format!("\"{}\".membership", lane.schema))
            .collect();
        let estimating = sqlx::query_as(self.sql(ESTIMATE)).bind(tables);
        let (members, segments): (i64, i64) = over!(self, STEP, session => estimating.fetch_one(&mut *session))?;
        Ok((members > 0).then_some(Extent {
            members: members.unsigned_abs(),
            segments: segments.unsigned_abs(),
        }))
    }

    pub(super) async fn recount_segments(&self, segments: &[SegmentId]) -> Result<Vec<Recount>, LedgerError> {
        let mut by_lane: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for (segment, lane) in self.homes_of(segments).await? {
            by_lane.entry(lane).or_default().push(segment.0);
        }
        let mut agreeing = BTreeMap::new();
        for (lane, ids) in by_lane {
            let lane = self.lane(lane).await?;
            let found = over!(self, STEP, session => self.those_that_agree(&lane, &mut session, &ids));
            match found {
                Ok(found) => agreeing.extend(found.into_iter().map(|recount| (recount.segment, recount))),
                // Too much for the time that a statement has: by itself it has more.
                Err(LedgerError::Timeout(_)) if segments.len() == 1 => {}
                Err(error) => return Err(error),
            }
        }
        let mut recounts = Vec::with_capacity(segments.len());
        for segment in segments {
            recounts.push(match agreeing.get(segment) {
                Some(recount) => *recount,
                // Its counters differ; or it moved, or is gone.
                None => self.recount_segment(*segment).await?,
            });
        }
        Ok(recounts)
    }

    /// The recounts of those segments of a lane whose counters all agree, noted.
    async fn those_that_agree(
        &self,
        lane: &Lane,
        session: &mut PgConnection,
        segments: &[i64],
    ) -> Result<Vec<Recount>, LedgerError> {
        let Some([by_key, of_all]) = &lane.agree else {
            return Ok(Vec::new());
        };
        partitions::ensure(self, session).await?;
        let whole: bool = sqlx::query_scalar(lane.sql(WHOLE))
            .bind(i64::try_from(segments.len()).unwrap_or(i64::MAX / 4))
            .bind(READ_WHOLE as f64)
            .fetch_one(&mut *session)
            .await?;
        let (begin, agree) = if whole {
            (BEGIN_WHOLE, of_all)
        } else {
            ("BEGIN", by_key)
        };
        let mut snapshot = session.begin_with(begin).await?;
        let found: Vec<(i64, i64, i64)> = sqlx::query_as(agree.clone())
            .bind(self.clock())
            .bind(segments)
            .bind(f64::from(rand::random::<i32>() / 2))
            .fetch_all(&mut *snapshot)
            .await?;
        snapshot.commit().await?;
        let Some((_, _, at)) = found.first().copied() else {
            return Ok(Vec::new());
        };
        let (ids, members): (Vec<i64>, Vec<i64>) = found.iter().map(|(id, members, _)| (*id, *members)).unzip();
        let noted: BTreeSet<i64> = sqlx::query_scalar(lane.sql(NOTE))
            .bind(at)
            .bind(&ids)
            .bind(&members)
            .fetch_all(&mut *session)
            .await?
            .into_iter()
            .collect();
        let as_of = timestamp(at)?;
        let still_there = found.into_iter().filter(|(id, ..)| noted.contains(id));
        Ok(still_there
            .map(|(id, members, _)| Recount {
                segment: SegmentId(id),
                members,
                drift: 0,
                as_of,
            })
            .collect())
    }

    async fn recount_segment(&self, segment: SegmentId) -> Result<Recount, LedgerError> {
        for _ in 0..TRIES {
            let homes = self.homes_of(&[segment]).await?;
            let Some(lane) = homes.get(&segment) else { break };
            let lane = self.lane(*lane).await?;
            let found = over!(self, ONE, session => self.recount_in(&lane, &mut session, segment))?;
            if let Some(found) = found {
                return Ok(found);
            }
            self.homes.remove(&segment);
        }
        // It was deleted: nobody is in it, and nothing is to be noted.
        Ok(Recount {
            segment,
            members: 0,
            drift: 0,
            as_of: crate::ledger::Ledger::now(self).await?,
        })
    }

    async fn recount_in(
        &self,
        lane: &Lane,
        session: &mut PgConnection,
        segment: SegmentId,
    ) -> Result<Option<Recount>, LedgerError> {
        partitions::ensure(self, session).await?;
        let mut transaction = begin(session).await?;
        let found = self.compare(segment, &lane.compare, &mut *transaction).await?;
        transaction.commit().await?;
        match found {
            Some(found) if found.drift != 0 => self.mend(lane, session, segment).await,
            found => Ok(found),
        }
    }

    /// By [`comparing`] or [`mending`]. `None`: the segment does not live in this lane, whatever rows it may have left there.
    async fn compare<'e>(
        &self,
        segment: SegmentId,
        comparison: &Statement,
        executor: impl Executor<'e, Database = Postgres>,
    ) -> Result<Option<Recount>, LedgerError> {
        let (at, members, drift, here): (i64, i64, i64, bool) = sqlx::query_as(comparison.clone())
            .bind(self.clock())
            .bind(segment.0)
            .fetch_one(executor)
            .await?;
        if !here {
            return Ok(None);
        }
        Ok(Some(Recount {
            segment,
            members,
            drift,
            as_of: timestamp(at)?,
        }))
    }

    /// Adds what is missing while no writer moves a counter. Writers wait for the table's lock with their memberships uncommitted, so
    /// memberships and counters that this sees belong together. They wait behind whoever waits for it too, so that is not for long.
    async fn mend(
        &self,
        lane: &Lane,
        session: &mut PgConnection,
        segment: SegmentId,
    ) -> Result<Option<Recount>, LedgerError> {
        let mut transaction = begin(session).await?;
        sqlx::query(LOCK_WAIT).execute(&mut *transaction).await?;
        sqlx::query(
            lane.sql("LOCK TABLE \"{lane}\".segment_expiry, \"{lane}\".segment_total IN SHARE ROW EXCLUSIVE MODE"),
        )
        .execute(&mut *transaction)
        .await?;
        let found = self.compare(segment, &lane.mend, &mut *transaction).await?;
        transaction.commit().await?;
        Ok(found)
    }
}

/// A transaction whose statements may take as long as a large segment needs.
async fn begin(session: &mut PgConnection) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    let mut transaction = session.begin().await?;
    sqlx::query(BEGIN_ONE).execute(&mut *transaction).await?;
    Ok(transaction)
}
