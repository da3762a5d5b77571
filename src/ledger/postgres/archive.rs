//! The archive: moves what has ended into the history.

use sqlx::{Connection, PgConnection};

use super::lanes::Lane;
use super::session::{STEP, is_lock_timeout, over};
use super::{PostgresLedger, Statement, partitions};
use crate::ledger::{ArchiveBatch, ArchiveCursor, LedgerError};

/// How many heap blocks (8 KiB each) one batch looks at: what bounds a batch in a table where nothing has ended.
const BLOCKS: i64 = 4_096;
/// More memberships than this fit into no block: each takes 48 bytes and its place in the block's list 4.
const ROWS_OF_A_BLOCK: i64 = 157;

/// How long a batch waits for a row that somebody writes. Far shorter than the second after which a server looks for deadlocks: of an archive and a
/// writer that wait for each other, it is the archive that gives up.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '100ms'";

/// Moves rows that ended before now - `$2` µs into the history, from the place `$3` of the heap to the one before `$4`.
///
/// Walks the heap by TID ranges, since there is no index on expires_at, and deletes what it finds: half the work of locking rows first and then
/// deleting what was locked. A row that is being renewed is waited for, and looked at again. What was moved is told by the command's own count:
/// to count what was deleted costs a tenth more.
///
/// Rows of a segment that was deleted, or lives in another lane, are left alone: they are the sweep's, or a copy that is being made.
/// So are those that bear a removal: [`MOVE_MARKED`] is for them.
const MOVE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, now - $2 * interval '1 microsecond' AS ended_by FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), gone AS (
  DELETE FROM "{lane}".membership m
   WHERE {place}
     AND m.expires_at <= (SELECT ended_by FROM instant) AND m.removed_at IS NULL
     AND EXISTS (SELECT FROM "{base}".segment s WHERE s.id = m.segment_id AND s.lane = {number})
  RETURNING m.segment_id, m.user_id, m.expires_at
)
INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
SELECT g.segment_id, g.user_id, g.expires_at, i.now FROM gone g, instant i
"#;

/// How far the first `$6` rows reach that ended in that range: how many there are, the place of the last of them, whether any of them is for
/// [`MOVE_MARKED`] (`$5`: its `$6`), and when they were looked for.
const REACH: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
)
SELECT count(*), ((max(tid)::text::point)[0])::bigint << 16 | ((max(tid)::text::point)[1])::bigint, coalesce(bool_or(marked), false),
       (SELECT now FROM instant)
  FROM (SELECT m.ctid AS tid, m.removed_at IS NOT NULL AS marked FROM "{lane}".membership m
         WHERE {place}
           AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond' AND {due}
         LIMIT $6) first
"#;

/// Whether any row that ended in that range is for [`MOVE_MARKED`].
const MARKED: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
)
SELECT EXISTS (
  SELECT FROM "{lane}".membership m
   WHERE {place} AND m.removed_at IS NOT NULL
     AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond' AND {due})
"#;

/// A mark alone stays until it is spent.
const DUE: &str = "(m.removed_at IS NULL OR m.expires_at > timestamptz 'epoch'
       OR m.removed_at <= (SELECT now FROM instant) - $5 * interval '1 microsecond')";

const PLACE: &str =
    "m.ctid > format('(%s,%s)', $3 >> 16, $3 & 65535)::tid AND m.ctid < format('(%s,%s)', $4 >> 16, $4 & 65535)::tid";

/// The statements that move what bears no removal, where nobody holds it for long.
#[derive(Debug)]
pub(super) struct Quick<T> {
    all: T,
    reach: T,
    marked: T,
}

impl Quick<String> {
    pub(super) fn new() -> Self {
        let text = |template: &str| template.replace("{place}", PLACE).replace("{due}", DUE);
        Self {
            all: text(MOVE),
            reach: text(REACH),
            marked: text(MARKED),
        }
    }
}

impl<T> Quick<T> {
    pub(super) fn map<U>(&self, change: impl Fn(&T) -> U) -> Quick<U> {
        Quick {
            all: change(&self.all),
            reach: change(&self.reach),
            marked: change(&self.marked),
        }
    }
}

/// The same for rows that bear removals, and where a row is locked for longer than a batch may wait: it locks what it finds, and leaves alone what
/// somebody else has locked. `$6`: how long a removal is remembered (µs).
///
/// Where a segment lives is looked up for each row: as a join, the rows may come in another order than they lie, and a full batch would go on
/// behind rows that it never saw.
///
/// A row that also bears a removal stays as its mark until that is spent; a mark alone (which ended at the epoch) is no membership and goes into no
/// history.
pub(super) const MOVE_MARKED: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
), ended AS MATERIALIZED (
  SELECT m.ctid AS tid, m.segment_id, m.user_id, m.expires_at,
         m.removed_at IS NULL OR m.removed_at <= (SELECT now FROM instant) - $6 * interval '1 microsecond' AS spent
    FROM "{lane}".membership m
   WHERE m.ctid > format('(%s,%s)', $3 >> 16, $3 & 65535)::tid AND m.ctid < format('(%s,0)', $4)::tid
     AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond'
     AND (m.expires_at > timestamptz 'epoch' OR m.removed_at <= (SELECT now FROM instant) - $6 * interval '1 microsecond')
     AND (SELECT s.lane = {number} FROM "{base}".segment s WHERE s.id = m.segment_id)
   LIMIT $5
   FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM "{lane}".membership m USING ended e WHERE m.ctid = e.tid AND e.spent
  RETURNING m.segment_id, m.user_id, m.expires_at, e.tid
), marks AS (
  UPDATE "{lane}".membership m SET expires_at = timestamptz 'epoch', prev_expires_at = NULL FROM ended e WHERE m.ctid = e.tid AND NOT e.spent
  RETURNING e.segment_id, e.user_id, e.expires_at, e.tid
), dealt_with AS MATERIALIZED (
  SELECT * FROM gone UNION ALL SELECT * FROM marks
), kept AS (
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT d.segment_id, d.user_id, d.expires_at, i.now FROM dealt_with d, instant i WHERE d.expires_at > timestamptz 'epoch'
)
SELECT count(*) FILTER (WHERE expires_at > timestamptz 'epoch'), count(*),
       ((max(tid)::text::point)[0])::bigint << 16 | ((max(tid)::text::point)[1])::bigint, false FROM dealt_with
"#;

/// What a batch answers: memberships moved, rows that were dealt with, the place of the last of them, and whether some are left that bear removals.
type Moved = (i64, i64, Option<i64>, bool);

/// Where a batch begins: block and row of the heap in one number, and how many blocks a full batch took before it (0: it was not full, or what it
/// found lay scattered).
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    position: i64,
    full: i64,
}

/// The block that a place is in, and the place where a block begins.
fn block_of(position: i64) -> i64 {
    position >> 16
}

fn start_of(block: i64) -> i64 {
    block << 16
}

/// So many blocks are moved without a look at most: what is in them is four batches at worst.
fn most_blocks(limit: i64) -> i64 {
    4 * limit / ROWS_OF_A_BLOCK
}

/// `$1` the table of a lane's memberships: how many heap blocks it has.
pub(super) const HEAP_BLOCKS: &str = "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint";

impl PostgresLedger {
    pub(super) async fn archive_one_batch(
        &self,
        cursor: Option<ArchiveCursor>,
        limit: u32,
    ) -> Result<ArchiveBatch, LedgerError> {
        let lanes = self.all_lanes().await?;
        let mut rest = lanes
            .iter()
            .filter(|lane| cursor.is_none_or(|cursor| i64::from(lane.number) >= i64::from(cursor.lane)));
        let Some(lane) = rest.next() else {
            return Ok(ArchiveBatch { moved: 0, next: None });
        };
        let cursor = cursor.filter(|cursor| i64::from(cursor.lane) == i64::from(lane.number));
        let from = Place {
            position: cursor.map_or(0, |cursor| cursor.position),
            full: cursor.map_or(0, |cursor| cursor.full),
        };
        let (moved, next) = over!(self, STEP, session => self.move_some(&mut session, lane, from, i64::from(limit)))?;
        let at = |lane: &Lane, place: Place| ArchiveCursor {
            lane: u32::try_from(lane.number).unwrap_or(0),
            position: place.position,
            full: place.full,
        };
        let next = match next {
            Some(place) => Some(at(lane, place)),
            None => rest.next().map(|lane| at(lane, Place::default())),
        };
        Ok(ArchiveBatch { moved, next })
    }

    /// One batch of a lane: how many memberships were moved, and where to go on in it.
    async fn move_some(
        &self,
        session: &mut PgConnection,
        lane: &Lane,
        from: Place,
        limit: i64,
    ) -> Result<(i64, Option<Place>), LedgerError> {
        partitions::ensure(self, session).await?;
        if let Some(quick) = &lane.archive
            && from.full > 0
            && let Some(done) = self.move_all(session, lane, quick, from, limit).await?
        {
            return Ok(done);
        }
        let from = from.position;
        let to = block_of(from) + BLOCKS;
        let tried = match &lane.archive {
            Some(quick) => self.move_first(session, quick, from, to, limit).await?,
            None => None,
        };
        let (mut moved, dealt_with, last, marked) = match tried {
            Some(moved) => moved,
            None => self.move_marked(session, lane, from, to, limit).await?,
        };
        // A full batch goes on after its last row.
        let next = last.filter(|_| dealt_with >= limit);
        if marked {
            let to = next.map_or(to, |last| block_of(last) + 1);
            moved += self.move_marked(session, lane, from, to, limit).await?.0;
        }
        if let Some(position) = next {
            let full = block_of(position) - block_of(from) + 1;
            let full = if full <= most_blocks(limit) { full } else { 0 };
            return Ok((moved, Some(Place { position, full })));
        }
        let next = self.block(session, lane, to).await?;
        Ok((moved, next.map(|position| Place { position, full: 0 })))
    }

    /// All of about as many blocks as a full batch took: to see how far so many rows reach is a tenth of the work, and behind a batch that was full
    /// the table is about as dense as in it. `None` where somebody holds a row for long.
    async fn move_all(
        &self,
        session: &mut PgConnection,
        lane: &Lane,
        quick: &Quick<Statement>,
        from: Place,
        limit: i64,
    ) -> Result<Option<(i64, Option<Place>)>, LedgerError> {
        let to = block_of(from.position) + 1 + from.full;
        // Before the move: afterwards its own dead rows would be in the way.
        let marked: bool = sqlx::query_scalar(quick.marked.clone())
            .bind(self.clock())
            .bind(self.settle_micros())
            .bind(from.position)
            .bind(start_of(to))
            .bind(self.mark_micros())
            .fetch_one(&mut *session)
            .await?;
        let tried = self
            .try_to_move(session, quick, self.clock(), from.position, start_of(to))
            .await?;
        let Some(mut moved) = tried else {
            return Ok(None);
        };
        if marked {
            let all_of_them = (from.full + 1) * ROWS_OF_A_BLOCK;
            moved += self.move_marked(session, lane, from.position, to, all_of_them).await?.0;
        }
        // Where it thins out, the next batch looks again.
        let full = if moved * 2 < limit {
            0
        } else {
            (from.full * limit / moved).max(1).min(most_blocks(limit))
        };
        let next = self.block(session, lane, to).await?;
        Ok(Some((moved, next.map(|position| Place { position, full }))))
    }

    /// At most about `limit` rows of the blocks before `to`; `None` where somebody holds one for long.
    async fn move_first(
        &self,
        session: &mut PgConnection,
        quick: &Quick<Statement>,
        from: i64,
        to: i64,
        limit: i64,
    ) -> Result<Option<Moved>, LedgerError> {
        let (ended, last, marked, at): (i64, Option<i64>, bool, jiff_sqlx::Timestamp) =
            sqlx::query_as(quick.reach.clone())
                .bind(self.clock())
                .bind(self.settle_micros())
                .bind(from)
                .bind(start_of(to))
                .bind(self.mark_micros())
                .bind(limit)
                .fetch_one(&mut *session)
                .await?;
        let Some(last) = last else {
            return Ok(Some((0, 0, None, false)));
        };
        // What ends after the look is not counted in it: all of a minute could.
        let moved = self.try_to_move(session, quick, Some(at), from, last + 1).await?;
        Ok(moved.map(|moved| (moved, ended, Some(last), marked)))
    }

    /// The place where a block begins; `None` behind the last one.
    async fn block(&self, session: &mut PgConnection, lane: &Lane, block: i64) -> Result<Option<i64>, LedgerError> {
        let blocks: i64 = sqlx::query_scalar(lane.heap_blocks.clone())
            .bind(format!("{}.membership", lane.schema))
            .fetch_one(session)
            .await?;
        Ok((block < blocks).then_some(start_of(block)))
    }

    /// [`MOVE`], which waits for a row for a moment only: `None` where somebody holds one for longer.
    async fn try_to_move(
        &self,
        session: &mut PgConnection,
        quick: &Quick<Statement>,
        clock: Option<jiff_sqlx::Timestamp>,
        from: i64,
        until: i64,
    ) -> Result<Option<i64>, LedgerError> {
        let mut transaction = session.begin_with(BEGIN).await?;
        let moving = sqlx::query(quick.all.clone())
            .bind(clock)
            .bind(self.settle_micros())
            .bind(from)
            .bind(until);
        match moving.execute(&mut *transaction).await {
            Err(error) if is_lock_timeout(&error) => {
                transaction.rollback().await?;
                Ok(None)
            }
            moved => {
                let moved = moved?.rows_affected();
                transaction.commit().await?;
                Ok(Some(i64::try_from(moved).unwrap_or(i64::MAX)))
            }
        }
    }

    /// [`MOVE_MARKED`], which waits for nobody.
    async fn move_marked(
        &self,
        session: &mut PgConnection,
        lane: &Lane,
        from: i64,
        to: i64,
        limit: i64,
    ) -> Result<Moved, sqlx::Error> {
        sqlx::query_as(lane.archive_marked.clone())
            .bind(self.clock())
            .bind(self.settle_micros())
            .bind(from)
            .bind(to)
            .bind(limit)
            .bind(self.mark_micros())
            .fetch_one(session)
            .await
    }

    /// How long a removal is remembered (µs).
    fn mark_micros(&self) -> i64 {
        self.settings.rules.memory_micros() + self.settle_micros()
    }
}
