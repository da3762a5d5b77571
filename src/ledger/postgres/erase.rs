//! The erasure of a user: suppressed first, then every older writer has ended, then nothing of the user is left but a keyed hash.

use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::Connection;

use super::lanes::{LANE_CHANGE_LOCK, Lane};
use super::session::{ANSWER, PART, over};
use super::{PostgresLedger, counters, timestamp};
use crate::counting::{SegmentId, UserId};
use crate::ledger::{Erasure, LedgerError};

/// `$1` user. When the user was erased before: an erasure on a clock that has stepped back since must not let in what that one keeps out.
const BEFORE: &str = r#"
SELECT s.erased_at FROM "{base}".suppression s, "{base}".suppression_key k
 WHERE s.user_hash = sha256(k.key || convert_to($1, 'UTF8')) FOR UPDATE OF s
"#;

/// `$1` clock, `$2` user, `$3` how long the suppression lasts (µs). Nothing of the user is recorded from here on.
const SUPPRESS: &str = r#"
INSERT INTO "{base}".suppression AS s (user_hash, receipt, erased_at, suppressed_until)
SELECT sha256(k.key || convert_to($2, 'UTF8')), gen_random_uuid(), NULL, coalesce($1, clock_timestamp()) + $3 * interval '1 microsecond'
  FROM "{base}".suppression_key k
ON CONFLICT (user_hash) DO UPDATE SET receipt = EXCLUDED.receipt, erased_at = NULL,
  suppressed_until = greatest(s.suppressed_until, EXCLUDED.suppressed_until)
RETURNING receipt::text
"#;

/// `$1` clock, `$2` user, `$3` settle / 2 (µs). Rows sorted, then buckets, then totals: the lock order of every writer.
const DELETE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
), locked AS MATERIALIZED (
  SELECT m.segment_id, m.user_id FROM "{lane}".membership m WHERE m.user_id = $2 COLLATE "C" ORDER BY m.segment_id FOR UPDATE
), gone AS (
  DELETE FROM "{lane}".membership m USING locked l WHERE m.segment_id = l.segment_id AND m.user_id = l.user_id
  RETURNING m.segment_id, m.expires_at
), delta AS MATERIALIZED (
  SELECT g.segment_id, g.expires_at, -1 AS d FROM gone g, instant i WHERE g.expires_at > i.now - $3 * interval '1 microsecond'
), {counters}
SELECT count(*), coalesce(array_agg(g.segment_id ORDER BY g.segment_id) FILTER (WHERE g.expires_at > i.now), '{}')
  FROM gone g, instant i
"#;

pub(super) fn deleting() -> String {
    DELETE.replace("{counters}", counters::MOVED)
}

/// `$1` clock, `$2` user, `$3` receipt, `$4` and `$5` what was deleted, `$6` how long the suppression lasts (µs), `$7` the erasure before.
pub(super) const FINISH: &str = r#"
UPDATE "{base}".suppression s
   SET erased_at = greatest(c.now, $7), suppressed_until = greatest(s.suppressed_until, c.now + $6 * interval '1 microsecond'),
       memberships = s.memberships + $4, history = s.history + $5
  FROM (SELECT coalesce($1, clock_timestamp()) AS now) c, "{base}".suppression_key k
 WHERE s.user_hash = sha256(k.key || convert_to($2, 'UTF8')) AND s.receipt = $3::uuid
RETURNING (extract(epoch FROM s.erased_at) * 1000000)::bigint, (extract(epoch FROM s.suppressed_until) * 1000000)::bigint
"#;

impl PostgresLedger {
    pub(super) async fn erase_user(&self, user: &UserId) -> Result<Erasure, LedgerError> {
        let lanes = self.all_lanes().await?;
        // Before anything of it is done: who is not let in leaves the user as he was.
        let Ok(Ok(_alone)) = tokio::time::timeout(ANSWER, self.erasures.acquire()).await else {
            return Err(LedgerError::Timeout("other erasures are under way".to_owned()));
        };
        let keep = self.settings.rules.memory_micros() + self.settle_micros();
        let looking_back = sqlx::query_scalar(self.sql(BEFORE)).bind(user.as_str());
        let suppressing = sqlx::query_scalar(self.sql(SUPPRESS))
            .bind(self.clock())
            .bind(user.as_str())
            .bind(keep);
        let (before, receipt): (Option<Option<jiff_sqlx::Timestamp>>, String) = over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            let before = looking_back.fetch_optional(&mut *transaction).await?;
            let receipt = suppressing.fetch_one(&mut *transaction).await?;
            self.raise_epoch(&mut transaction).await?;
            transaction.commit().await?;
            Ok::<_, LedgerError>((before, receipt))
        })?;
        // A segment must not change its lane between one lane's part of this and another's.
        let still = self.shared_guard(LANE_CHANGE_LOCK, PART).await?;
        // Not more at once than half of the pool has sessions for, or they would wait for each other's.
        let at_once = usize::try_from(self.pool.options().get_max_connections() / 2).map_or(1, |half| half.max(1));
        let parts: Vec<_> = lanes.iter().map(|lane| self.erase_in(lane, user)).collect();
        let erased: Vec<_> = stream::iter(parts).buffered(at_once).try_collect().await?;
        still.end().await;
        let memberships: i64 = erased.iter().map(|(memberships, _, _)| memberships).sum();
        let history: i64 = erased.iter().map(|(_, history, _)| history).sum();
        let finishing = sqlx::query_as(lanes.finish_erasure.clone())
            .bind(self.clock())
            .bind(user.as_str())
            .bind(&receipt)
            .bind(memberships)
            .bind(history)
            .bind(keep)
            .bind(before.flatten());
        let finished: Option<(i64, i64)> = over!(self, ANSWER, session => finishing.fetch_optional(&mut *session))?;
        let Some((erased_at, suppressed_until)) = finished else {
            return Err(LedgerError::Timeout(
                "another erasure of the same user began meanwhile and goes on".to_owned(),
            ));
        };
        Ok(Erasure {
            receipt,
            erased_at: timestamp(erased_at)?,
            suppressed_until: timestamp(suppressed_until)?,
            memberships,
            history,
            changed: erased
                .into_iter()
                .flat_map(|(_, _, segments)| segments)
                .map(SegmentId)
                .collect(),
        })
    }

    /// Deletes what a lane has of a user: how many memberships, how many rows of the history, and whose counts that changed.
    async fn erase_in(&self, lane: &Lane, user: &UserId) -> Result<(i64, i64, Vec<i64>), LedgerError> {
        self.older_writers_ended(lane, "membership").await?;
        let deleting = sqlx::query_as(lane.erase.clone())
            .bind(self.clock())
            .bind(user.as_str())
            .bind(self.settle_micros() / 2);
        let (memberships, segments): (i64, Vec<i64>) = over!(self, PART, session => deleting.fetch_one(&mut *session))?;
        let history = self
            .clear_history(lane, "user_id = $3 COLLATE \"C\"", user.as_str())
            .await?;
        Ok((memberships, history, segments))
    }
}
