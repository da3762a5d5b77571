//! The erasure of a user: suppressed first, then every older writer has ended, then nothing of the user is left but a keyed hash.

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::Connection;

use super::lanes::{LANE_CHANGE_LOCK, Lane, Lanes};
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

/// `$1` clock, `$2` user, `$3` settle / 2 (µs). Rows sorted, then buckets, then totals: the lock order of every writer. Answers the last removal of
/// the user too, whose mark goes.
const DELETE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
), locked AS MATERIALIZED (
  SELECT m.segment_id, m.user_id FROM "{lane}".membership m WHERE m.user_id = $2 COLLATE "C" ORDER BY m.segment_id FOR UPDATE
), gone AS (
  DELETE FROM "{lane}".membership m USING locked l WHERE m.segment_id = l.segment_id AND m.user_id = l.user_id
  RETURNING m.segment_id, m.expires_at, m.removed_at
), delta AS MATERIALIZED (
  SELECT g.segment_id, g.expires_at, -1 AS d FROM gone g, instant i WHERE g.expires_at > i.now - $3 * interval '1 microsecond'
), {counters}
SELECT count(*), coalesce(array_agg(g.segment_id ORDER BY g.segment_id) FILTER (WHERE g.expires_at > i.now), '{}'),
       (extract(epoch FROM max(g.removed_at)) * 1000000)::bigint
  FROM gone g, instant i
"#;

pub(super) fn deleting() -> String {
    DELETE.replace("{counters}", counters::MOVED)
}

/// Whether there is a copy that a move makes, or has left: it is noted before anything is copied.
const COPIES: &str = r#"SELECT EXISTS (SELECT FROM "{base}".segment_deleted WHERE moved)"#;

/// `$1` user, `$2` receipt: what moves noted of the user, who is kept out until the erasure of that receipt ends. Afterwards notes may be of a pair that came after it.
const FORGET_NOTES: &str = r#"
WITH kept_out AS MATERIALIZED (
  SELECT FROM "{base}".suppression s
   WHERE s.user_hash = sha256((SELECT key FROM "{base}".suppression_key) || convert_to($1, 'UTF8')) AND s.receipt = $2::uuid AND s.erased_at IS NULL
     FOR SHARE OF s
)
DELETE FROM "{base}".move_log WHERE user_id = $1 AND EXISTS (SELECT FROM kept_out)
"#;

/// `$1` clock, `$2` user, `$3` receipt, `$4` and `$5` what was deleted, `$6` how long the suppression lasts (µs), `$7` the last removal or erasure
/// before, which may be later than this one where the clock has stepped back: what that kept out stays out.
pub(super) const FINISH: &str = r#"
UPDATE "{base}".suppression s
   SET erased_at = greatest(c.now, $7), suppressed_until = greatest(s.suppressed_until, c.now + $6 * interval '1 microsecond'),
       memberships = s.memberships + $4, history = s.history + $5
  FROM (SELECT coalesce($1, clock_timestamp()) AS now) c, "{base}".suppression_key k
 WHERE s.user_hash = sha256(k.key || convert_to($2, 'UTF8')) AND s.receipt = $3::uuid
RETURNING (extract(epoch FROM s.erased_at) * 1000000)::bigint, (extract(epoch FROM s.suppressed_until) * 1000000)::bigint
"#;

/// What a lane had of a user.
#[derive(Debug, Default)]
struct Gone {
    memberships: i64,
    history: i64,
    /// Whose counts changed.
    segments: Vec<i64>,
    removed_at: Option<Timestamp>,
}

impl PostgresLedger {
    pub(super) async fn erase_user(&self, user: &UserId) -> Result<Erasure, LedgerError> {
        // Before anything of it is done: who is not let in leaves the user as he was.
        let Ok(Ok(_alone)) = tokio::time::timeout(ANSWER, self.erasures.acquire()).await else {
            return Err(LedgerError::Timeout("other erasures are under way".to_owned()));
        };
        // Where Citus distributes them, sessions are set otherwise from here on.
        self.all_lanes().await?;
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
        // Not those that were known before: a lane that is added from here on has only writers who see the suppression.
        let lanes = self.lanes_now().await?;
        let gone = self.erase_everywhere(&lanes, user, &receipt).await?;
        let before = before.flatten().map(jiff_sqlx::Timestamp::to_jiff).max(gone.removed_at);
        let finishing = sqlx::query_as(lanes.finish_erasure.clone())
            .bind(self.clock())
            .bind(user.as_str())
            .bind(&receipt)
            .bind(gone.memberships)
            .bind(gone.history)
            .bind(keep)
            .bind(before.map(ToSqlx::to_sqlx));
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
            memberships: gone.memberships,
            history: gone.history,
            changed: gone.segments.into_iter().map(SegmentId).collect(),
        })
    }

    async fn erase_everywhere(&self, lanes: &Lanes, user: &UserId, receipt: &str) -> Result<Gone, LedgerError> {
        // A segment must not change its lane between one lane's part of this and another's.
        let still = self.shared_guard(LANE_CHANGE_LOCK, PART).await?;
        // Not more at once than half of the pool has sessions for, or they would wait for each other's.
        let at_once = usize::try_from(self.pool.options().get_max_connections() / 2).map_or(1, |half| half.max(1));
        let parts: Vec<_> = lanes.iter().map(|lane| self.erase_in(lane, user)).collect();
        let parts: Vec<Gone> = stream::iter(parts).buffered(at_once).try_collect().await?;
        self.erase_copies(lanes, user, receipt).await?;
        // Where it was lost meanwhile, a segment may have gone from a lane that was still to come to one that was done.
        still.end().await?;
        let mut all = Gone::default();
        for part in parts {
            all.memberships += part.memberships;
            all.history += part.history;
            all.segments.extend(part.segments);
            all.removed_at = all.removed_at.max(part.removed_at);
        }
        Ok(all)
    }

    async fn erase_in(&self, lane: &Lane, user: &UserId) -> Result<Gone, LedgerError> {
        let mut gone = self.erase_memberships(lane, user).await?;
        gone.history = self
            .clear_history(lane, "user_id = $3 COLLATE \"C\"", user.as_str())
            .await?;
        Ok(gone)
    }

    async fn erase_memberships(&self, lane: &Lane, user: &UserId) -> Result<Gone, LedgerError> {
        self.older_writers_ended(lane, "membership").await?;
        let deleting = sqlx::query_as(lane.erase.clone())
            .bind(self.clock())
            .bind(user.as_str())
            .bind(self.settle_micros() / 2);
        let (memberships, segments, removed_at): (i64, Vec<i64>, Option<i64>) =
            over!(self, PART, session => deleting.fetch_one(&mut *session))?;
        Ok(Gone {
            memberships,
            history: 0,
            segments,
            removed_at: removed_at.map(timestamp).transpose()?,
        })
    }

    /// A statement of a move that had read the user before the lanes were worked through may have written the copy after its lane was; and the
    /// triggers of a move note whose rows are deleted. Now that no lane has the user, no statement that begins copies anything of them.
    async fn erase_copies(&self, lanes: &Lanes, user: &UserId, receipt: &str) -> Result<(), LedgerError> {
        // Citus moves lanes whole, and itself.
        if lanes.distributed {
            return Ok(());
        }
        let asking = sqlx::query_scalar(self.sql(COPIES));
        let copies: bool = over!(self, ANSWER, session => asking.fetch_one(&mut *session))?;
        if !copies {
            return Ok(());
        }
        for lane in lanes.iter() {
            self.erase_memberships(lane, user).await?;
        }
        let forgetting = sqlx::query(self.sql(FORGET_NOTES)).bind(user.as_str()).bind(receipt);
        over!(self, PART, session => forgetting.execute(&mut *session))?;
        Ok(())
    }
}
