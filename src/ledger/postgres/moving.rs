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

mod steps;

use std::time::Duration;

use super::guard::Guard;
use super::lanes::{Home, Lane, Lanes};
use super::move_error::MoveError;
use super::pooled::statement_timeout;
use super::session::is_lock_timeout;
use super::{PostgresLedger, Statement, statement};
use crate::counting::SegmentName;
use crate::ledger::LedgerError;

use steps::Move;

/// One move at a time in a database.
const MOVE_LOCK: i64 = 0x5e67_c006;
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
        let mut guard = self.try_guard(MOVE_LOCK).await?.ok_or(MoveError::Busy)?;
        let done = self.move_alone(name, target, &lanes, &mut guard, progress).await;
        // Whether it was lost in the end matters no more: the segment lives where it was to, or the move says why not.
        let _ = guard.end().await;
        done
    }

    /// While no other move is under way.
    async fn move_alone(
        &self,
        name: &SegmentName,
        target: &Lane,
        lanes: &Lanes,
        guard: &mut Guard,
        progress: &(dyn Fn(&MoveProgress) + Send + Sync),
    ) -> Result<bool, MoveError> {
        let to = target.number;
        let mut home = self.home_of(name).await?;
        if home.lane != to && !lanes.distributed {
            self.take_traces_away(guard).await?;
            // That waits for a move that was broken off in its change, whose commit waits for a standby: only now it is known where the segment lives.
            home = self.home_of(name).await?;
        }
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
            held: guard.condition(MOVE_LOCK).await?,
        };
        let mut state = MoveProgress::default();
        moving.clear(target, &mut state, progress).await?;
        // Until the segment lives there, the copy is something left behind.
        moving.note_left(target, &self.pool).await?;
        moving.note_changes(guard).await?;
        let moved = moving.run(&mut state, guard, progress).await;
        // Whatever came of it: without the triggers nothing is noted any more.
        let clean = self.take_traces_away(guard).await;
        self.ids.remove(name);
        self.homes.remove(&home.id);
        if moved == Err(MoveError::NoSegment) {
            // It was deleted meanwhile, and nobody will look for what was copied since.
            moving.clear(target, &mut state, progress).await?;
        }
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
        let Some(mut guard) = self.try_guard(MOVE_LOCK).await? else {
            return Ok(());
        };
        let done = async {
            self.take_traces_away(&mut guard).await?;
            // Where Citus distributes the lanes nothing moves any more that could be in the way, and what is left is deleted on another machine.
            let held = if lanes.distributed {
                "true".to_owned()
            } else {
                guard.condition(MOVE_LOCK).await?
            };
            for lane in lanes.iter() {
                self.clear_deleted(lane, Some(&held)).await?;
            }
            Ok::<_, LedgerError>(())
        };
        let done = done.await;
        let ended = guard.end().await;
        done.and(ended)
    }

    async fn home_of(&self, name: &SegmentName) -> Result<Home, MoveError> {
        let homes = self.look_up(&[name]).await?;
        homes.get(name.as_str()).copied().ok_or(MoveError::NoSegment)
    }

    /// Drops the triggers and forgets what they noted: those of the holder before, or one's own.
    async fn take_traces_away(&self, guard: &mut Guard) -> Result<(), LedgerError> {
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
            self.patiently(&[statement(text)], Some(guard)).await?;
        }
        let held = guard.condition(MOVE_LOCK).await?;
        let forget = format!("DELETE FROM \"{}\".move_log WHERE {held}", self.base);
        self.patiently(&[statement(forget)], None).await
    }

    /// What a transaction of a move begins with: well below what a writer behind it may take, or they would fail in its place.
    pub(super) fn lock_timeout(&self) -> Statement {
        let wait = (statement_timeout(&self.settings) / 4).min(MAX_LOCK_WAIT);
        statement(format!("SET LOCAL lock_timeout = {}", wait.as_millis()))
    }

    /// Runs statements that lock a table, in one transaction, without holding up for long those who come behind; where a guard is given, only if it still
    /// holds once they have their locks.
    async fn patiently(&self, statements: &[Statement], mut guard: Option<&mut Guard>) -> Result<(), LedgerError> {
        for _ in 0..TRIES {
            match self.at_once(statements, guard.as_deref_mut()).await {
                Err(error) if is_lock_timeout(&error) => tokio::time::sleep(Duration::from_millis(200)).await,
                done => return done?,
            }
        }
        Err(LedgerError::Timeout("no moment came free to lock a lane".to_owned()))
    }

    /// The outer error is one to look at for whether a lock did not come free.
    async fn at_once(
        &self,
        statements: &[Statement],
        guard: Option<&mut Guard>,
    ) -> Result<Result<(), LedgerError>, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        // What was noted may be much.
        sqlx::query("SET LOCAL statement_timeout = 0")
            .execute(&mut *transaction)
            .await?;
        sqlx::query(self.lock_timeout()).execute(&mut *transaction).await?;
        for text in statements {
            sqlx::query(text.clone()).execute(&mut *transaction).await?;
        }
        if let Some(guard) = guard
            && let Err(lost) = guard.holds().await
        {
            return Ok(Err(lost));
        }
        transaction.commit().await?;
        Ok(Ok(()))
    }
}
