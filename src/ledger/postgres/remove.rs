//! Removals: the tombstone is the membership's own row, so that it is set and looked at under one lock.

use std::collections::{BTreeSet, HashMap};

use sqlx::{FromRow, PgConnection};

use super::{PostgresLedger, partitions, timestamp};
use crate::counting::{Removal, SegmentId};
use crate::ledger::{LedgerError, RemovalOutcome, Removed};

/// Ends memberships and marks their rows; makes the row where there is none. Lock order: memberships, buckets, spans, each sorted.
///
/// `$1` clock, `$2` segment ids, `$3` users, `$4` settle / 2 (µs).
///
/// * An ended row has the epoch in expires_at: nobody can leave then, so it is a member at no instant, even where the clock steps back.
/// * What ended before now - settle / 2 stays for the archive: its bucket is the sweeper's.
/// * prev_expires_at comes back only of rows that this ended, which go into the history here: the archive will not know any more.
const REMOVE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), asked AS MATERIALIZED (
  SELECT DISTINCT u.segment_id, u.user_id COLLATE "C" AS user_id
    FROM unnest($2::bigint[], $3::text[]) AS u(segment_id, user_id)
   WHERE (SELECT s.lane FROM "{base}".segment s WHERE s.id = u.segment_id) = {number}
     -- A user whose erasure is under way: a mark would be the last thing left of them.
     AND NOT ((SELECT EXISTS (SELECT FROM "{base}".suppression WHERE erased_at IS NULL)) AND EXISTS (
                SELECT FROM "{base}".suppression x
                 WHERE x.erased_at IS NULL
                   AND x.user_hash = sha256((SELECT key FROM "{base}".suppression_key) || convert_to(u.user_id, 'UTF8'))))
), marked AS (
  INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at, removed_at)
  SELECT a.segment_id, a.user_id, timestamptz 'epoch', i.now FROM asked a, instant i ORDER BY a.segment_id, a.user_id
  ON CONFLICT (segment_id, user_id) DO UPDATE
     SET prev_expires_at = CASE WHEN m.expires_at > EXCLUDED.removed_at - $4 * interval '1 microsecond' THEN m.expires_at END,
         expires_at = CASE WHEN m.expires_at > EXCLUDED.removed_at - $4 * interval '1 microsecond' THEN EXCLUDED.expires_at ELSE m.expires_at END,
         removed_at = greatest(m.removed_at, EXCLUDED.removed_at)
  RETURNING m.segment_id, m.user_id, m.prev_expires_at
), delta AS MATERIALIZED (
  SELECT segment_id, prev_expires_at AS expires_at, -count(*) AS d FROM marked WHERE prev_expires_at IS NOT NULL GROUP BY 1, 2
), buckets AS (
  INSERT INTO "{lane}".segment_bucket AS b (segment_id, expires_at, members)
  SELECT segment_id, expires_at, d FROM delta ORDER BY segment_id, expires_at
  ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members
), spans AS (
  INSERT INTO "{lane}".segment_span AS s (segment_id, span_end, members)
  SELECT segment_id, date_bin('2 hours', expires_at - interval '1 microsecond', 'epoch') + interval '2 hours', sum(d)::bigint
    FROM delta GROUP BY 1, 2 ORDER BY 1, 2
  ON CONFLICT (segment_id, span_end) DO UPDATE SET members = s.members + EXCLUDED.members
), kept AS (
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT k.segment_id, k.user_id, least(k.prev_expires_at, i.now), i.now FROM marked k, instant i WHERE k.prev_expires_at IS NOT NULL
)
SELECT (SELECT micros FROM instant) AS now, coalesce(array_agg(segment_id), '{}') AS segments, coalesce(array_agg(user_id), '{}') AS users,
       coalesce(array_agg((extract(epoch FROM prev_expires_at) * 1000000)::bigint), '{}') AS ended
  FROM marked
"#;

#[derive(FromRow)]
struct Answer {
    /// Microseconds, as `ended`.
    now: i64,
    segments: Vec<i64>,
    users: Vec<String>,
    /// When the membership would have ended that the removal took away.
    ended: Vec<Option<i64>>,
}

impl PostgresLedger {
    pub(super) async fn remove_batch(&self, removals: &[Removal]) -> Result<Removed, LedgerError> {
        self.settings.admit(removals.len())?;
        let names: Vec<_> = removals.iter().map(|removal| removal.segment.clone()).collect();
        let ids = self.resolve_names(&names).await?;
        let segments: Vec<i64> = ids.iter().map(|id| id.map_or(0, |id| id.0)).collect();
        let users: Vec<&str> = removals.iter().map(|removal| removal.user.as_str()).collect();
        let mut session = self.pool.acquire().await?;
        partitions::ensure(self, &mut session).await?;
        let mut transaction = sqlx::Connection::begin(&mut *session).await?;
        let answer: Answer = sqlx::query_as(self.sql(REMOVE))
            .bind(self.clock())
            .bind(&segments)
            .bind(&users)
            .bind(self.settle_micros() / 2)
            .fetch_one(&mut *transaction)
            .await?;
        self.raise_epoch(&mut transaction).await?;
        transaction.commit().await?;

        let marked: HashMap<(i64, &str), Option<i64>> = answer
            .segments
            .iter()
            .zip(&answer.users)
            .zip(&answer.ended)
            .map(|((segment, user), ended)| ((*segment, user.as_str()), *ended))
            .collect();
        let mut changed = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(removals.len());
        for (segment, user) in segments.iter().zip(&users) {
            outcomes.push(match marked.get(&(*segment, *user)) {
                None if *segment == 0 => RemovalOutcome::NoSegment,
                Some(Some(end)) if *end > answer.now => {
                    changed.insert(SegmentId(*segment));
                    RemovalOutcome::Removed
                }
                _ => RemovalOutcome::NotMember,
            });
        }
        Ok(Removed {
            at: timestamp(answer.now)?,
            outcomes,
            changed: changed.into_iter().collect(),
        })
    }

    /// The last statement of its transaction: those that raise it wait for each other from here to the commit.
    pub(super) async fn raise_epoch(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        sqlx::query(self.sql("UPDATE \"{base}\".removal_epoch SET epoch = epoch + 1"))
            .execute(session)
            .await?;
        Ok(())
    }
}
