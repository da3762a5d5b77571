//! The archive: moves what has ended into the history.

mod statements;
mod text;

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::lanes::Lane;
use super::session::{STEP, is_lock_timeout, over_kept};
use super::{PostgresLedger, Statement, partitions};
use crate::ledger::{ArchiveBatch, ArchiveCursor, LedgerError};

pub(super) use statements::{HEAP_BLOCKS, MOVE_MARKED, Quick};
use text::Sent;

/// How many heap blocks (8 KiB each) one batch looks at: what bounds a batch in a table where nothing has ended.
const BLOCKS: i64 = 4_096;
/// More memberships than this fit into no block: each takes 48 bytes and its place in the block's list 4.
const ROWS_OF_A_BLOCK: i64 = 157;

/// How long a batch waits for a row that somebody writes. Far shorter than the second after which a server looks for deadlocks: of an archive and a
/// writer that wait for each other, it is the archive that gives up.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '100ms'";

/// How many batches are sent as one text at most.
///
/// Counts on the same processors waited for a session that paused with every batch, for its client and its disk, and hardly do for one that goes on:
/// docs/performance.md has what was measured.
const AT_ONCE: usize = 32;
/// How many at first: half a second's work, and no more than a step may take where each takes seconds.
pub(super) const FIRST: usize = 16;
/// How long a text may take; one that took longer is followed by a shorter one.
const TEXT: Duration = Duration::from_secs(1);
/// About how many rows such a text commits at a time. What is committed without waiting for the disk is written by a process of the server's own, the
/// more at once the longer: with 10,000 it kept a processor from counts for 0.7 ms each time.
const COMMITTED: i64 = 1_000;

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

/// Between which places a text moves: so many batches of `from.full` blocks, each in parts of about [`COMMITTED`] rows.
fn edges(from: Place, batches: usize, limit: i64) -> Vec<i64> {
    let first = block_of(from.position) + 1;
    let end = first + from.full * i64::try_from(batches).unwrap_or(1);
    let step = (from.full * COMMITTED / limit).clamp(1, from.full);
    let between = (first + step..end).step_by(usize::try_from(step).unwrap_or(1));
    std::iter::once(from.position)
        .chain(between.chain([end]).map(start_of))
        .collect()
}

impl PostgresLedger {
    pub(super) async fn archive_one_batch(
        &self,
        cursor: Option<ArchiveCursor>,
        limit: u32,
    ) -> Result<ArchiveBatch, LedgerError> {
        let lanes = match cursor {
            Some(_) => self.all_lanes().await?,
            None => self.lanes_now().await?,
        };
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
        let (moved, next) =
            over_kept!(self, STEP, session => self.move_some(&mut session, lane, from, i64::from(limit)))?;
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
        {
            return self.move_all(session, lane, quick, from, limit).await;
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

    /// Several batches, each all of about as many blocks as a full one took: to see how far so many rows reach is a tenth of the work, and behind a
    /// batch that was full the table is about as dense as in it. Where somebody holds a row for long, as much as came before that.
    async fn move_all(
        &self,
        session: &mut PgConnection,
        lane: &Lane,
        quick: &Quick<Statement>,
        from: Place,
        limit: i64,
    ) -> Result<(i64, Option<Place>), LedgerError> {
        let at_once = self.archive_at_once.load(Ordering::Relaxed).clamp(1, AT_ONCE);
        let begun = Instant::now();
        let edges = edges(from, at_once, limit);
        let Sent {
            mut moved,
            done,
            marked,
            blocks,
        } = self.move_between(session, lane, quick, &edges).await?;
        if marked {
            let (mut start, reached) = (from.position, block_of(edges[done]));
            while block_of(start) < reached {
                let to = reached.min(block_of(start) + from.full + 1);
                let all_of_them = (from.full + 1) * ROWS_OF_A_BLOCK;
                moved += self.move_marked(session, lane, start, to, all_of_them).await?.0;
                start = start_of(to);
            }
        }
        if done < edges.len() - 1 {
            let next = Place {
                position: edges[done],
                full: 0,
            };
            return Ok((moved, Some(next)));
        }
        let took = begun.elapsed();
        let next = if took > TEXT {
            at_once / 2
        } else if took < TEXT / 2 {
            at_once * 2
        } else {
            at_once
        };
        self.archive_at_once.store(next, Ordering::Relaxed);
        // Where it thins out, the next batch looks again.
        let wanted = limit * i64::try_from(at_once).unwrap_or(1);
        let full = if moved * 2 < wanted {
            0
        } else {
            (from.full * wanted / moved).max(1).min(most_blocks(limit))
        };
        let end = block_of(edges[done]);
        let next = (end < blocks).then_some(Place {
            position: start_of(end),
            full,
        });
        Ok((moved, next))
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

    /// [`statements::MOVE`], which waits for a row for a moment only: `None` where somebody holds one for longer.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_over_its_batches_in_parts_and_leaves_nothing_out() {
        for (position, full, batches, limit) in [
            (start_of(7) + 3, 100, 32, 10_000),
            (start_of(0), 1, 1, 40),
            (start_of(0), 5, 2, 200),
            (start_of(9) + 156, 33, 3, 3_300),
            (start_of(9), 11, 16, 1_001),
            (start_of(1), 2_547, 32, 100_000),
        ] {
            let edges = edges(Place { position, full }, batches, limit);
            assert_eq!(edges[0], position);
            let end = block_of(position) + 1 + full * i64::try_from(batches).unwrap();
            assert_eq!(edges.last(), Some(&start_of(end)));
            assert!(edges.is_sorted_by(|a, b| a < b));
            // The first has what is left of its block as well.
            let most = (full * COMMITTED / limit).clamp(1, full);
            let blocks = |part: &[i64]| block_of(part[1]) - block_of(part[0]);
            assert!((1..=most + 1).contains(&blocks(&edges[..2])));
            assert!(edges[1..].windows(2).all(|part| (1..=most).contains(&blocks(part))));
        }
    }
}
