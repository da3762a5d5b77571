//! The steps of one move: copy, catch up, change over, clear away.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};

use super::{MoveError, MoveProgress, TRIES};
use crate::counting::SegmentId;
use crate::ledger::LedgerError;
use crate::ledger::postgres::guard::Guard;
use crate::ledger::postgres::lanes::{LANE_CHANGE_LOCK, Lane};
use crate::ledger::postgres::session::is_lock_timeout;
use crate::ledger::postgres::{PostgresLedger, Statement, statement};

/// How many rows one statement copies.
const CHUNK: i64 = 5_000;
/// With so few noted keys left the change begins: copying them takes milliseconds.
const FEW: usize = 500;
/// `$1` segment, `$2` the user after whom to go on, `$3` how many. Whoever moves the segment next waits for this one, by its lock on the source: see
/// `take_traces_away`.
const COPY: &str = r#"
WITH next AS MATERIALIZED (
  SELECT segment_id, expires_at, prev_expires_at, removed_at, user_id FROM "{lane}".membership
   WHERE segment_id = $1 AND user_id > $2 COLLATE "C" AND {held} ORDER BY user_id LIMIT $3
), put AS (
  INSERT INTO "{target}".membership AS m (segment_id, expires_at, prev_expires_at, removed_at, user_id)
  SELECT segment_id, expires_at, prev_expires_at, removed_at, user_id FROM next
  ON CONFLICT (segment_id, user_id) DO UPDATE
     SET expires_at = EXCLUDED.expires_at, prev_expires_at = EXCLUDED.prev_expires_at, removed_at = EXCLUDED.removed_at
)
SELECT count(*), max(user_id) FROM next
"#;

/// `$1` segment, `$2` how many at most: takes notes out of the log.
const TAKE: &str = r#"
DELETE FROM "{base}".move_log
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM "{base}".move_log WHERE segment_id = $1 AND {held} LIMIT $2))
RETURNING user_id
"#;

/// `$1` segment, `$2` users: makes the copy of each what stands now.
const CATCH_UP: &str = r#"
WITH standing AS MATERIALIZED (
  SELECT m.segment_id, m.expires_at, m.prev_expires_at, m.removed_at, m.user_id FROM "{lane}".membership m
   WHERE m.segment_id = $1 AND m.user_id = ANY ($2::text[])
), gone AS (
  DELETE FROM "{target}".membership t
   WHERE t.segment_id = $1 AND t.user_id = ANY ($2::text[]) AND NOT EXISTS (SELECT FROM standing s WHERE s.user_id = t.user_id)
)
INSERT INTO "{target}".membership AS m (segment_id, expires_at, prev_expires_at, removed_at, user_id)
SELECT segment_id, expires_at, prev_expires_at, removed_at, user_id FROM standing
ON CONFLICT (segment_id, user_id) DO UPDATE
   SET expires_at = EXCLUDED.expires_at, prev_expires_at = EXCLUDED.prev_expires_at, removed_at = EXCLUDED.removed_at
"#;

/// One move.
pub(super) struct Move<'a> {
    pub(super) ledger: &'a PostgresLedger,
    pub(super) segment: SegmentId,
    pub(super) source: &'a Lane,
    pub(super) target: &'a Lane,
    /// That no other move can be under way, as a condition: see [`Guard::condition`].
    pub(super) held: String,
}

impl Move<'_> {
    fn sql(&self, text: &str) -> Statement {
        let text = self.source.text(text).replace("{target}", &self.target.schema);
        statement(text.replace("{held}", &self.held))
    }

    /// Clears away what a lane holds of the segment, which does not live there; no sweep shall think that there is any.
    pub(super) async fn clear(
        &self,
        lane: &Lane,
        state: &mut MoveProgress,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<(), LedgerError> {
        let each = |cleared| {
            state.cleared += cleared;
            progress(state);
        };
        self.ledger
            .clear_rows(lane, self.segment, Some(&self.held), each)
            .await?;
        Ok(self.forget_left(lane, &self.ledger.pool).await?)
    }

    async fn forget_left(&self, lane: &Lane, session: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
        // Not where it says that the segment was deleted: its history in this lane is to be cleared away too.
        let text = "DELETE FROM \"{base}\".segment_deleted WHERE id = $1 AND lane = {number} AND moved AND {held}";
        sqlx::query(lane.sql(&text.replace("{held}", &self.held)))
            .bind(self.segment.0)
            .execute(session)
            .await?;
        Ok(())
    }

    /// Notes that what a lane holds of the segment is to be cleared away.
    pub(super) async fn note_left(&self, lane: &Lane, session: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
        sqlx::query(lane.sql(
            "INSERT INTO \"{base}\".segment_deleted (id, lane, moved, deleted_at)
             VALUES ($1, {number}, true, coalesce($2, clock_timestamp())) ON CONFLICT DO NOTHING",
        ))
        .bind(self.segment.0)
        .bind(self.ledger.clock())
        .execute(session)
        .await?;
        Ok(())
    }

    /// From the commit on every change is noted; making a trigger waits for the writers that are under way.
    pub(super) async fn note_changes(&self, guard: &mut Guard) -> Result<(), LedgerError> {
        let id = self.segment.0;
        let trigger = |name: &str, event: &str, row: &str| {
            self.sql(&format!(
                "CREATE TRIGGER segment_move_{name} AFTER {event} ON \"{{lane}}\".membership
                    FOR EACH ROW WHEN ({row}.segment_id = {id}) EXECUTE FUNCTION \"{{base}}\".note_move()"
            ))
        };
        let function = self.sql(
            r#"CREATE OR REPLACE FUNCTION "{base}".note_move() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN
                 INSERT INTO "{base}".move_log (segment_id, user_id)
                 VALUES (coalesce(NEW.segment_id, OLD.segment_id), coalesce(NEW.user_id, OLD.user_id));
                 RETURN NULL;
               END $$"#,
        );
        let statements = [
            function,
            trigger("written", "INSERT OR UPDATE", "NEW"),
            trigger("deleted", "DELETE", "OLD"),
        ];
        self.ledger.patiently(&statements, Some(guard)).await
    }

    pub(super) async fn run(
        &self,
        state: &mut MoveProgress,
        guard: &mut Guard,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<(), MoveError> {
        let mut after = Some(String::new());
        while let Some(user) = after {
            let (copied, last): (i64, Option<String>) = sqlx::query_as(self.sql(COPY))
                .bind(self.segment.0)
                .bind(&user)
                .bind(CHUNK)
                .fetch_one(&self.ledger.pool)
                .await?;
            state.copied += copied;
            after = last;
            progress(state);
        }
        loop {
            let mut transaction = self.ledger.pool.begin().await?;
            let taken = self.catch_up(&mut transaction).await?;
            transaction.commit().await?;
            state.caught_up += i64::try_from(taken).unwrap_or(i64::MAX);
            progress(state);
            if taken < FEW {
                break;
            }
        }
        for _ in 0..TRIES {
            match self.change_over(state, guard).await {
                Err(error) if is_lock_timeout(&error) => tokio::time::sleep(Duration::from_millis(200)).await,
                done => return done?,
            }
        }
        Err(MoveError::Ledger(LedgerError::Timeout(
            "the writers of the lane left no moment for the change; the segment stays where it was".to_owned(),
        )))
    }

    /// Copies again what was noted, a chunk of it; how many notes that were.
    async fn catch_up(&self, session: &mut PgConnection) -> Result<usize, sqlx::Error> {
        let taken: Vec<String> = sqlx::query_scalar(self.sql(TAKE))
            .bind(self.segment.0)
            .bind(CHUNK)
            .fetch_all(&mut *session)
            .await?;
        let users: BTreeSet<&str> = taken.iter().map(String::as_str).collect();
        let users: Vec<&str> = users.into_iter().collect();
        // By a snapshot of its own: what stands is at least as new as the notes that were taken.
        sqlx::query(self.sql(CATCH_UP))
            .bind(self.segment.0)
            .bind(&users)
            .execute(session)
            .await?;
        Ok(taken.len())
    }

    /// The outer error is one to look at for whether a lock did not come free.
    async fn change_over(
        &self,
        state: &mut MoveProgress,
        guard: &mut Guard,
    ) -> Result<Result<(), MoveError>, sqlx::Error> {
        let mut transaction = self.ledger.pool.begin().await?;
        let session = &mut *transaction;
        sqlx::query(self.ledger.lock_timeout()).execute(&mut *session).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(LANE_CHANGE_LOCK)
            .execute(&mut *session)
            .await?;
        // Writers take their lock on the table before the snapshot that they read by: who waits here will see where the segment lives.
        sqlx::query(self.sql("LOCK TABLE \"{lane}\".membership IN SHARE ROW EXCLUSIVE MODE"))
            .execute(&mut *session)
            .await?;
        // The sweep and the recount move counters without a lock on the memberships, and buckets and total are to be copied as of one instant. Writers
        // wait meanwhile, so that is not waited for as long again.
        sqlx::query("SET LOCAL lock_timeout = '200ms'")
            .execute(&mut *session)
            .await?;
        sqlx::query(
            self.sql("LOCK TABLE \"{lane}\".segment_expiry, \"{lane}\".segment_total IN SHARE ROW EXCLUSIVE MODE"),
        )
        .execute(&mut *session)
        .await?;
        loop {
            let taken = self.catch_up(&mut *session).await?;
            state.caught_up += i64::try_from(taken).unwrap_or(i64::MAX);
            if taken == 0 {
                break;
            }
        }
        for (table, columns) in [
            ("segment_expiry", "expires_at, members"),
            ("segment_total", "members, since"),
        ] {
            // An erasure may have counted in the copy: what stands in the source is what holds.
            let clear = format!("DELETE FROM \"{{target}}\".{table} WHERE segment_id = $1");
            let take_over = format!(
                "INSERT INTO \"{{target}}\".{table} (segment_id, {columns})
                 SELECT segment_id, {columns} FROM \"{{lane}}\".{table} WHERE segment_id = $1"
            );
            for text in [clear, take_over] {
                sqlx::query(self.sql(&text))
                    .bind(self.segment.0)
                    .execute(&mut *session)
                    .await?;
            }
        }
        // Where it was lost, another move or an archive may have dropped the triggers meanwhile, and cleared away the copy. From here on nobody can:
        // for both the lock on the memberships must be free.
        if let Err(lost) = guard.holds().await {
            return Ok(Err(lost.into()));
        }
        let set = sqlx::query(self.sql("UPDATE \"{base}\".segment SET lane = $2 WHERE id = $1 AND lane = {number}"))
            .bind(self.segment.0)
            .bind(self.target.number)
            .execute(&mut *session)
            .await?;
        if set.rows_affected() == 0 {
            // Deleted meanwhile: what was copied is left behind, as it was noted.
            return Ok(Err(MoveError::NoSegment));
        }
        self.forget_left(self.target, &mut *session).await?;
        self.note_left(self.source, &mut *session).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }
}
