//! Moves a segment to another lane while it is written.
//!
//! 1. Triggers note in `move_log` whose rows change; they stand only meanwhile, so that other writers pay nothing for it.
//! 2. The memberships are copied, in the order of their keys, in short statements.
//! 3. What was noted is copied again, until little is left.
//! 4. The change: for a moment writers of the lane wait, the rest is copied, the counters are taken over as they stand, and the segment's lane is
//!    set. Whoever waited then sees by a fresh snapshot that the segment lives elsewhere, and goes there.
//! 5. The triggers go, and the rows that were left behind.
//!
//! Broken off at any time it leaves the segment where it was, or where it went; the next move or sweep takes the rest away.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};

use super::lanes::{Home, LANE_CHANGE_LOCK, Lane, Lanes};
use super::move_error::MoveError;
use super::pooled::statement_timeout;
use super::session::is_lock_timeout;
use super::{PostgresLedger, Statement, statement};
use crate::counting::{SegmentId, SegmentName};
use crate::ledger::LedgerError;

/// One move at a time in a database.
const MOVE_LOCK: i64 = 0x5e67_c006;
/// How many rows one statement copies.
const CHUNK: i64 = 5_000;
/// With so few noted keys left the change begins: copying them takes milliseconds.
const FEW: usize = 500;
/// The longest that the change waits for the writers that are under way, with the others behind it; then it makes room and tries again.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often.
const TRIES: u32 = 30;

/// How far a move is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveProgress {
    /// Memberships copied.
    pub copied: i64,
    /// Memberships copied again, because they changed meanwhile.
    pub caught_up: i64,
    /// Whether the segment lives in the new lane.
    pub moved: bool,
    /// Memberships cleared away: what an earlier move left in the new lane, and what this one left in the old one.
    pub cleared: i64,
}

/// `$1` segment, `$2` the user after whom to go on, `$3` how many.
const COPY: &str = r#"
WITH next AS MATERIALIZED (
  SELECT segment_id, expires_at, prev_expires_at, removed_at, user_id FROM "{lane}".membership
   WHERE segment_id = $1 AND user_id > $2 COLLATE "C" ORDER BY user_id LIMIT $3
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
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM "{base}".move_log WHERE segment_id = $1 LIMIT $2))
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

impl PostgresLedger {
    /// Moves a segment to another lane while it is written; `progress` is called after each step. False: it lived there already.
    ///
    /// # Errors
    /// [`MoveError`]; the segment stays where it was then, or where it is said to be, and moving it again is safe.
    pub async fn move_segment(
        &self,
        name: &SegmentName,
        to: i32,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<bool, MoveError> {
        let lanes = self.read_lanes(&self.pool).await?;
        let Some(target) = lanes.iter().find(|lane| lane.number == to) else {
            return Err(MoveError::NoLane {
                wanted: to,
                lanes: lanes.len(),
            });
        };
        let guard = self.try_guard(MOVE_LOCK).await?.ok_or(MoveError::Busy)?;
        let done = self.move_alone(name, target, &lanes, progress).await;
        guard.end().await;
        done
    }

    /// While no other move is under way.
    async fn move_alone(
        &self,
        name: &SegmentName,
        target: &Lane,
        lanes: &Lanes,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<bool, MoveError> {
        let to = target.number;
        let homes = self.look_up(&[name]).await?;
        let home = *homes.get(name.as_str()).ok_or(MoveError::NoSegment)?;
        if home.lane == to {
            return Ok(false);
        }
        let source = self.lane(home.lane).await?;
        if lanes.distributed {
            return Err(MoveError::Distributed {
                lane: home.lane,
                schema: source.schema.clone(),
            });
        }
        let moving = Move {
            ledger: self,
            segment: home.id,
            source: &source,
            target,
        };
        let mut state = MoveProgress::default();
        self.take_traces_away().await?;
        moving.clear(target, &mut state, progress).await?;
        // Until the segment lives there, the copy is something left behind.
        moving.note_left(target, &self.pool).await?;
        moving.note_changes().await?;
        let moved = moving.run(&mut state, progress).await;
        // Whatever came of it: without the triggers nothing is noted any more.
        let clean = self.take_traces_away().await;
        self.ids.remove(name);
        self.homes.remove(&home.id);
        moved?;
        clean?;
        self.ids.insert(name.clone(), Home { id: home.id, lane: to });
        state.moved = true;
        progress(&state);
        // No writer is under way that took the segment for living there: the change waited for all of them.
        moving.clear(&source, &mut state, progress).await?;
        Ok(true)
    }

    /// Takes away what moves left, done or broken off; nothing where one is under way.
    pub(super) async fn clear_after_moves(&self, lanes: &Lanes) -> Result<(), LedgerError> {
        let Some(guard) = self.try_guard(MOVE_LOCK).await? else {
            return Ok(());
        };
        let done = async {
            self.take_traces_away().await?;
            for lane in lanes.iter() {
                self.clear_deleted(lane, true).await?;
            }
            Ok(())
        };
        let done = done.await;
        guard.end().await;
        done
    }

    /// Drops the triggers and forgets what they noted.
    async fn take_traces_away(&self) -> Result<(), LedgerError> {
        let standing: Vec<(String, String)> = sqlx::query_as(
            "SELECT quote_ident(t.tgname), t.tgrelid::regclass::text
               FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE t.tgname LIKE 'segment\\_move\\_%' AND n.nspname LIKE $1",
        )
        .bind(format!("{}\\_lane\\_%", self.base.replace('_', "\\_")))
        .fetch_all(&self.pool)
        .await?;
        for (trigger, table) in standing {
            // The names are the catalogue's own, quoted by it.
            let text = format!("DROP TRIGGER IF EXISTS {trigger} ON {table}");
            self.patiently(&[statement(text)]).await?;
        }
        let forget = format!("DELETE FROM \"{}\".move_log", self.base);
        self.patiently(&[statement(forget)]).await
    }

    /// What a transaction of a move begins with: well below what a writer behind it may take, or they would fail in its place.
    fn lock_timeout(&self) -> Statement {
        let wait = (statement_timeout(&self.settings) / 4).min(MAX_LOCK_WAIT);
        statement(format!("SET LOCAL lock_timeout = {}", wait.as_millis()))
    }

    /// Runs statements that lock a table, in one transaction, without holding up for long those who come behind.
    async fn patiently(&self, statements: &[Statement]) -> Result<(), LedgerError> {
        for _ in 0..TRIES {
            match self.at_once(statements).await {
                Err(error) if is_lock_timeout(&error) => tokio::time::sleep(Duration::from_millis(200)).await,
                done => return Ok(done?),
            }
        }
        Err(LedgerError::Timeout("no moment came free to lock a lane".to_owned()))
    }

    async fn at_once(&self, statements: &[Statement]) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        // What was noted may be much.
        sqlx::query("SET LOCAL statement_timeout = 0")
            .execute(&mut *transaction)
            .await?;
        sqlx::query(self.lock_timeout()).execute(&mut *transaction).await?;
        for text in statements {
            sqlx::query(text.clone()).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }
}

struct Move<'a> {
    ledger: &'a PostgresLedger,
    segment: SegmentId,
    source: &'a Lane,
    target: &'a Lane,
}

impl Move<'_> {
    fn sql(&self, text: &str) -> Statement {
        statement(self.source.text(text).replace("{target}", &self.target.schema))
    }

    /// Clears away what a lane holds of the segment, which does not live there; no sweep shall think that there is any.
    async fn clear(
        &self,
        lane: &Lane,
        state: &mut MoveProgress,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<(), LedgerError> {
        let each = |cleared| {
            state.cleared += cleared;
            progress(state);
        };
        self.ledger.clear_rows(lane, self.segment, each).await?;
        Ok(self.forget_left(lane, &self.ledger.pool).await?)
    }

    async fn forget_left(&self, lane: &Lane, session: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
        sqlx::query(lane.sql("DELETE FROM \"{base}\".segment_deleted WHERE id = $1 AND lane = {number}"))
            .bind(self.segment.0)
            .execute(session)
            .await?;
        Ok(())
    }

    /// Notes that what a lane holds of the segment is to be cleared away.
    async fn note_left(&self, lane: &Lane, session: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
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
    async fn note_changes(&self) -> Result<(), LedgerError> {
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
        self.ledger.patiently(&statements).await
    }

    async fn run(
        &self,
        state: &mut MoveProgress,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<(), LedgerError> {
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
            match self.change_over(state).await {
                Err(error) if is_lock_timeout(&error) => tokio::time::sleep(Duration::from_millis(200)).await,
                done => return Ok(done?),
            }
        }
        Err(LedgerError::Timeout(
            "the writers of the lane left no moment for the change; the segment stays where it was".to_owned(),
        ))
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

    async fn change_over(&self, state: &mut MoveProgress) -> Result<(), sqlx::Error> {
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
        loop {
            let taken = self.catch_up(&mut *session).await?;
            state.caught_up += i64::try_from(taken).unwrap_or(i64::MAX);
            if taken == 0 {
                break;
            }
        }
        for (table, column) in [("segment_bucket", "expires_at"), ("segment_span", "span_end")] {
            // An erasure may have counted in the copy: what stands in the source is what holds.
            let clear = format!("DELETE FROM \"{{target}}\".{table} WHERE segment_id = $1");
            let take_over = format!(
                "INSERT INTO \"{{target}}\".{table} (segment_id, {column}, members)
                 SELECT segment_id, {column}, members FROM \"{{lane}}\".{table} WHERE segment_id = $1"
            );
            for text in [clear, take_over] {
                sqlx::query(self.sql(&text))
                    .bind(self.segment.0)
                    .execute(&mut *session)
                    .await?;
            }
        }
        sqlx::query(self.sql("UPDATE \"{base}\".segment SET lane = $2 WHERE id = $1"))
            .bind(self.segment.0)
            .bind(self.target.number)
            .execute(&mut *session)
            .await?;
        self.forget_left(self.target, &mut *session).await?;
        self.note_left(self.source, &mut *session).await?;
        transaction.commit().await
    }
}
