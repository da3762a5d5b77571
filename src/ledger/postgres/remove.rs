//! Removals: the tombstone is the membership's own row, so that it is set and looked at under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{Connection, FromRow, PgConnection};

use super::session::{ANSWER, over};
use super::{PostgresLedger, counters, partitions, timestamp};
use crate::counting::{Removal, SegmentId, SegmentName};
use crate::ledger::{LedgerError, RemovalOutcome, Removed};

/// Ends memberships and marks their rows; makes the row where there is none. Lock order: memberships (those of users who are
/// being erased, whom nobody writes, after the others), buckets, totals, each sorted.
///
/// `$1` clock, `$2` segment ids, `$3` users, `$4` settle / 2 (µs).
///
/// * An ended row has the epoch in expires_at: nobody can leave then, so it is a member at no instant, even where the clock steps back.
/// * What ended before now - settle / 2 stays for the archive: its bucket is the sweeper's.
/// * Of a user whose erasure is under way (`leaving`) no mark is made: it would be the last thing left of them. What stands of them is ended all the
///   same, since an erasure may break off: where the erasure was there first, there is no row.
/// * prev_expires_at comes back only of rows that this ended, which go into the history here: the archive will not know any more.
const REMOVE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), asked AS MATERIALIZED (
  SELECT DISTINCT u.segment_id, u.user_id COLLATE "C" AS user_id,
         (SELECT EXISTS (SELECT FROM "{base}".suppression WHERE erased_at IS NULL)) AND EXISTS (
           SELECT FROM "{base}".suppression x
            WHERE x.erased_at IS NULL AND x.suppressed_until > (SELECT now FROM instant)
              AND x.user_hash = sha256((SELECT key FROM "{base}".suppression_key) || convert_to(u.user_id, 'UTF8'))) AS leaving
    FROM unnest($2::bigint[], $3::text[]) AS u(segment_id, user_id)
   WHERE (SELECT s.lane FROM "{base}".segment s WHERE s.id = u.segment_id) = {number}
), made AS (
  INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at, removed_at)
  SELECT a.segment_id, a.user_id, timestamptz 'epoch', i.now FROM asked a, instant i WHERE NOT a.leaving ORDER BY a.segment_id, a.user_id
  ON CONFLICT (segment_id, user_id) DO UPDATE
     SET prev_expires_at = CASE WHEN m.expires_at > EXCLUDED.removed_at - $4 * interval '1 microsecond' THEN m.expires_at END,
         expires_at = CASE WHEN m.expires_at > EXCLUDED.removed_at - $4 * interval '1 microsecond' THEN EXCLUDED.expires_at ELSE m.expires_at END,
         removed_at = greatest(m.removed_at, EXCLUDED.removed_at)
  RETURNING m.segment_id, m.user_id, m.prev_expires_at
), locked AS MATERIALIZED (
  SELECT m.segment_id, m.user_id FROM "{lane}".membership m JOIN asked a ON m.segment_id = a.segment_id AND m.user_id = a.user_id
   WHERE a.leaving ORDER BY m.segment_id, m.user_id FOR UPDATE OF m
), ended AS (
  UPDATE "{lane}".membership m
     SET prev_expires_at = CASE WHEN m.expires_at > i.now - $4 * interval '1 microsecond' THEN m.expires_at END,
         expires_at = CASE WHEN m.expires_at > i.now - $4 * interval '1 microsecond' THEN timestamptz 'epoch' ELSE m.expires_at END,
         removed_at = greatest(m.removed_at, i.now)
    FROM locked l, instant i WHERE m.segment_id = l.segment_id AND m.user_id = l.user_id
  RETURNING m.segment_id, m.user_id, m.prev_expires_at
), marked AS MATERIALIZED (
  SELECT * FROM made UNION ALL SELECT * FROM ended
), delta AS MATERIALIZED (
  SELECT segment_id, prev_expires_at AS expires_at, -count(*) AS d FROM marked WHERE prev_expires_at IS NOT NULL GROUP BY 1, 2
), {counters}, kept AS (
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT k.segment_id, k.user_id, least(k.prev_expires_at, i.now), i.now FROM marked k, instant i WHERE k.prev_expires_at IS NOT NULL
)
SELECT (SELECT micros FROM instant) AS now, coalesce(array_agg(segment_id), '{}') AS segments, coalesce(array_agg(user_id), '{}') AS users,
       coalesce(array_agg((extract(epoch FROM prev_expires_at) * 1000000)::bigint), '{}') AS ended,
       -- Not in this lane, or not at all.
       coalesce((SELECT array_agg(u.segment_id) FROM unnest($2::bigint[]) AS u(segment_id)
                  WHERE NOT EXISTS (SELECT FROM "{base}".segment s WHERE s.id = u.segment_id AND s.lane = {number})), '{}') AS gone
  FROM marked
"#;

/// `$1` clock. By the clock, so that no epoch comes round again: a failover may lose the last ones, and a backup that is restored many, while there are
/// processes that remember them.
pub(super) const RAISE_EPOCH: &str = r#"
UPDATE "{base}".removal_epoch SET epoch = greatest(epoch + 1, (extract(epoch FROM coalesce($1, clock_timestamp())) * 1000000)::bigint)
"#;

pub(super) fn text() -> String {
    REMOVE.replace("{counters}", counters::MOVED)
}

#[derive(FromRow)]
struct Answer {
    /// Microseconds, as `ended`.
    now: i64,
    segments: Vec<i64>,
    users: Vec<String>,
    /// When the membership would have ended that the removal took away.
    ended: Vec<Option<i64>>,
    gone: Vec<i64>,
}

/// How often a removal is sent whose segment moves to another lane meanwhile.
const TRIES: u32 = 4;

impl Answer {
    /// When each marked membership would have ended, where the removal ended it.
    fn marked(&self) -> HashMap<(i64, &str), Option<i64>> {
        let keys = self.segments.iter().zip(&self.users);
        keys.zip(&self.ended)
            .map(|((segment, user), ended)| ((*segment, user.as_str()), *ended))
            .collect()
    }
}

impl PostgresLedger {
    pub(super) async fn remove_batch(&self, removals: &[Removal]) -> Result<Removed, LedgerError> {
        self.settings.admit(removals.len())?;
        over!(self, ANSWER, session => partitions::ensure(self, &mut session))?;
        let mut outcomes = vec![RemovalOutcome::NoSegment; removals.len()];
        let mut changed = BTreeSet::new();
        let mut at = None;
        let mut waiting: Vec<usize> = (0..removals.len()).collect();
        for _ in 0..TRIES {
            let names: Vec<&SegmentName> = waiting.iter().map(|index| &removals[*index].segment).collect();
            let homes = self.look_up(&names).await?;
            let mut by_lane: BTreeMap<i32, Vec<(usize, i64)>> = BTreeMap::new();
            for index in waiting {
                if let Some(home) = homes.get(removals[index].segment.as_str()) {
                    by_lane.entry(home.lane).or_default().push((index, home.id.0));
                }
            }
            if by_lane.is_empty() && at.is_some() {
                waiting = Vec::new();
                break;
            }
            let mut again = Vec::new();
            for (sent, answer) in self.send_removals(removals, by_lane).await? {
                at = at.max(Some(answer.now));
                let gone: BTreeSet<i64> = answer.gone.iter().copied().collect();
                let marked = answer.marked();
                for &(index, segment) in &sent {
                    if gone.contains(&segment) {
                        again.push(index);
                        continue;
                    }
                    let ended = marked.get(&(segment, removals[index].user.as_str())).copied().flatten();
                    outcomes[index] = if ended.is_some_and(|end| end > answer.now) {
                        changed.insert(SegmentId(segment));
                        RemovalOutcome::Removed
                    } else {
                        RemovalOutcome::NotMember
                    };
                }
            }
            waiting = again;
            if waiting.is_empty() {
                break;
            }
        }
        if !waiting.is_empty() {
            return Err(LedgerError::Timeout(format!("{} segments keep moving", waiting.len())));
        }
        Ok(Removed {
            at: match at {
                Some(at) => timestamp(at)?,
                None => crate::ledger::Ledger::now(self).await?,
            },
            outcomes,
            changed: changed.into_iter().collect(),
        })
    }

    /// One transaction, a statement for each lane in the order of their numbers; each lane's removals with what became of them.
    async fn send_removals(
        &self,
        removals: &[Removal],
        by_lane: BTreeMap<i32, Vec<(usize, i64)>>,
    ) -> Result<Vec<(Vec<(usize, i64)>, Answer)>, LedgerError> {
        let mut lanes = Vec::with_capacity(by_lane.len());
        for (lane, sent) in by_lane {
            lanes.push((self.lane(lane).await?, sent));
        }
        over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            let mut answers = Vec::with_capacity(lanes.len());
            for (lane, sent) in lanes {
                let segments: Vec<i64> = sent.iter().map(|(_, segment)| *segment).collect();
                let users: Vec<&str> = sent.iter().map(|(index, _)| removals[*index].user.as_str()).collect();
                let answer = sqlx::query_as(lane.remove.clone())
                    .bind(self.clock())
                    .bind(&segments)
                    .bind(&users)
                    .bind(self.settle_micros() / 2)
                    .fetch_one(&mut *transaction)
                    .await?;
                answers.push((sent, answer));
            }
            self.raise_epoch(&mut transaction).await?;
            transaction.commit().await?;
            Ok::<_, LedgerError>(answers)
        })
    }

    /// The last statement of its transaction: those that raise it wait for each other from here to the commit.
    pub(super) async fn raise_epoch(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        let raising = sqlx::query(self.all_lanes().await?.raise_epoch.clone()).bind(self.clock());
        raising.execute(session).await?;
        Ok(())
    }
}
