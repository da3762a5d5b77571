//! The statement that counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::connect::not_of_a_standby;
use super::lanes::Lane;
use super::session::{ANSWER, over_kept, session_of, within};
use super::{PostgresLedger, timestamp};
use crate::counting::SegmentId;
use crate::ledger::late::{MOMENT, Overdue};
use crate::ledger::{Count, LedgerError};

/// `$1` clock, `$2` segment ids, `$3` settle (µs).
///
/// * The members of a segment at `now`: its total, less the buckets that have ended since the instant that the total is of; or with those that are to
///   end until then, where the clock has stepped back behind it. `LIMIT 1` keeps them a look-up for each segment: pulled up into a join, the planner
///   reads every counter of every segment.
/// * How many of those are settled comes back too: see [`Late`](crate::ledger::late::Late).
/// * The instant is evaluated inside the statement and so after its snapshot. Never `now()`: the transaction's start lies before the snapshot, and a
///   member that moved between the two would be counted twice.
/// * A standby says that it is one: it lacks what was acknowledged a moment ago, and after a failover everything since.
/// * A segment that has left this lane, or is deleted, does not exist here whatever its counters say.
pub(super) const SQL: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
)
SELECT i.micros, coalesce(c.members, 0), coalesce(c.settled, 0), EXISTS (SELECT FROM "{base}".segment g WHERE g.id = s.id AND g.lane = {number}),
       pg_is_in_recovery()
  FROM unnest($2::bigint[]) WITH ORDINALITY AS s(id, ordinal)
 CROSS JOIN instant i
  LEFT JOIN LATERAL (
         SELECT t.members - e.members AS members, e.settled
           FROM "{lane}".segment_total t
          CROSS JOIN LATERAL (SELECT coalesce(sum(CASE WHEN b.expires_at <= t.since THEN -b.members ELSE b.members END), 0)::bigint AS members,
                                      count(*) FILTER (WHERE b.expires_at <= i.now - $3 * interval '1 microsecond') AS settled
                                 FROM "{lane}".segment_expiry b
                                WHERE b.segment_id = t.segment_id
                                  AND b.expires_at > least(t.since, i.now) AND b.expires_at <= greatest(t.since, i.now)) e
          WHERE t.segment_id = s.id LIMIT 1) c ON true
 ORDER BY s.ordinal
"#;

impl PostgresLedger {
    /// One statement for each lane, all at once.
    pub(super) async fn count_segments(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        let mut counts = self.count_where_they_live(segments).await?;
        let gone = |counts: &BTreeMap<SegmentId, Count>| -> Vec<SegmentId> {
            let absent = counts.values().filter(|count| !count.exists);
            absent.map(|count| count.segment).collect()
        };
        let moved = gone(&counts);
        if !moved.is_empty() {
            // Deleted, or moved to another lane since we learnt where it lives.
            for segment in &moved {
                self.homes.remove(segment);
            }
            counts.extend(self.count_where_they_live(&moved).await?);
        }
        let absent = match counts.values().map(|count| count.as_of).min() {
            Some(at) => at,
            None => crate::ledger::Ledger::now(self).await?,
        };
        Ok(segments
            .iter()
            .map(|segment| {
                counts.get(segment).copied().unwrap_or(Count {
                    segment: *segment,
                    members: 0,
                    as_of: absent,
                    exists: false,
                })
            })
            .collect())
    }

    async fn count_where_they_live(&self, segments: &[SegmentId]) -> Result<BTreeMap<SegmentId, Count>, LedgerError> {
        let mut by_lane: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for (segment, lane) in self.homes_of(segments).await? {
            by_lane.entry(lane).or_default().push(segment.0);
        }
        let counted = by_lane.into_iter().map(|(lane, ids)| async move {
            let lane = self.lane(lane).await?;
            let counting = sqlx::query_as(lane.count.clone())
                .bind(self.clock())
                .bind(&ids)
                .bind(self.settle_micros());
            let rows: Vec<(i64, i64, i64, bool, bool)> = over_kept!(self, ANSWER, session => async {
                let rows: Vec<(i64, i64, i64, bool, bool)> = counting.fetch_all(&mut *session).await?;
                not_of_a_standby(rows.iter().any(|(.., standby)| *standby))?;
                Ok::<_, LedgerError>(rows)
            })?;
            let read = ids.iter().zip(&rows).map(|(id, (_, _, settled, ..))| (*id, *settled));
            if let Some(overdue) = self.late.overdue(read) {
                self.move_on(&lane, overdue);
            }
            ids.into_iter()
                .zip(rows)
                .map(|(id, (at, members, _, exists, _))| {
                    let count = Count {
                        segment: SegmentId(id),
                        members: if exists { members } else { 0 },
                        as_of: timestamp(at)?,
                        exists,
                    };
                    Ok((count.segment, count))
                })
                .collect::<Result<Vec<_>, LedgerError>>()
        });
        Ok(try_join_all(counted).await?.into_iter().flatten().collect())
    }

    /// Moves totals on, while whoever counted goes on: for a moment only, and not now where no session comes free by then. It is not asked for whether one is
    /// free: where little is asked, the only one is the count's.
    fn move_on(&self, lane: &Lane, overdue: Overdue) {
        let (pool, kept) = (self.pool.clone(), Arc::clone(&self.kept));
        let (writers, advance) = (self.writers(lane, "segment_expiry"), lane.advance.clone());
        let (clock, settle) = (self.clock(), self.settle_micros());
        tokio::spawn(async move {
            let Ok(Ok(mut session)) = within(MOMENT, session_of(&pool, &kept)).await else {
                return;
            };
            let asking = sqlx::query_scalar("SELECT coalesce($1, clock_timestamp())").bind(clock);
            let told = within(MOMENT, asking.fetch_one(&mut *session)).await;
            let told: Result<jiff_sqlx::Timestamp, _> = session.hear(told);
            let moving = async {
                let at = told?.to_jiff();
                // Not over the session: they may take as long as all of this, and it may be the only one.
                writers.older_ended(MOMENT).await?;
                let Ok(session) = within(MOMENT, session_of(&pool, &kept)).await else {
                    return Ok(());
                };
                let mut session = session?;
                let answer = within(MOMENT, advance.over(&mut session, at, settle, &overdue.segments)).await;
                session.hear(answer)
            };
            let moved = moving.await;
            overdue.ended(moved);
        });
    }
}
