//! The archive: moves what has ended into the history, and clears the counters of the past.

use sqlx::PgConnection;

use super::session::{STEP, over};
use super::{PostgresLedger, partitions};
use crate::ledger::{ArchiveBatch, ArchiveCursor, LedgerError, Swept};

/// How many heap blocks (8 KiB each) one batch looks at: what bounds a batch in a table where nothing has ended.
const BLOCKS: i64 = 4_096;
/// How many counters one statement of the sweep clears.
const SWEEP_CHUNK: i64 = 10_000;

/// Moves up to `$5` rows of the heap blocks `$3` to `$4` that ended before now - `$2` µs.
///
/// Walks the heap by TID ranges, since there is no index on expires_at. A locked row is being renewed: left alone. A row that was
/// renewed while we waited is checked again under its lock. Answers how many were moved, and the last block moved from.
const MOVE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
), ended AS MATERIALIZED (
  SELECT m.ctid AS tid FROM "{lane}".membership m
   WHERE m.ctid >= format('(%s,0)', $3)::tid AND m.ctid < format('(%s,0)', $4)::tid
     AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond'
   LIMIT $5
   FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM "{lane}".membership m USING ended e WHERE m.ctid = e.tid
  RETURNING m.segment_id, m.user_id, m.expires_at, e.tid
), kept AS (
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT g.segment_id, g.user_id, g.expires_at, i.now FROM gone g, instant i
)
SELECT count(*), coalesce(max((tid::text::point)[0])::bigint, 0) FROM gone
"#;

impl PostgresLedger {
    pub(super) async fn archive_one_batch(
        &self,
        cursor: Option<ArchiveCursor>,
        limit: u32,
    ) -> Result<ArchiveBatch, LedgerError> {
        over!(self, STEP, session => self.move_some(&mut session, cursor, limit))
    }

    async fn move_some(
        &self,
        session: &mut PgConnection,
        cursor: Option<ArchiveCursor>,
        limit: u32,
    ) -> Result<ArchiveBatch, LedgerError> {
        partitions::ensure(self, session).await?;
        let from = cursor.map_or(0, |cursor| cursor.position);
        let to = from + BLOCKS;
        let (moved, last): (i64, i64) = sqlx::query_as(self.sql(MOVE))
            .bind(self.clock())
            .bind(self.settle_micros())
            .bind(from)
            .bind(to)
            .bind(i64::from(limit))
            .fetch_one(&mut *session)
            .await?;
        let blocks: i64 =
            sqlx::query_scalar("SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint")
                .bind(format!("{}.membership", self.lane))
                .fetch_one(&mut *session)
                .await?;
        // A full batch may have left rows of its last block behind: it goes on in that block.
        let position = if moved >= i64::from(limit) { last } else { to };
        let next = (position < blocks).then_some(ArchiveCursor { lane: 0, position });
        Ok(ArchiveBatch { moved, next })
    }

    pub(super) async fn sweep_past(&self, keep_days: u32) -> Result<Swept, LedgerError> {
        let mut counters = 0;
        for (table, column) in [("segment_bucket", "expires_at"), ("segment_span", "span_end")] {
            loop {
                // Writers leave counters alone from settle / 2 on, so nobody waits for these rows. Segment by segment, since the key begins
                // with it: a walk through the whole table for each chunk would grow with what is still to come.
                let text = format!(
                    "DELETE FROM \"{{lane}}\".{table} WHERE ctid = ANY (ARRAY(
                       SELECT c.tid
                         FROM \"{{base}}\".segment s
                        CROSS JOIN LATERAL (
                                SELECT ctid AS tid FROM \"{{lane}}\".{table} t
                                 WHERE t.segment_id = s.id
                                   AND t.{column} <= (SELECT coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond')) c
                        LIMIT $3))"
                );
                let clearing = sqlx::query(self.sql(&text))
                    .bind(self.clock())
                    .bind(self.settle_micros())
                    .bind(SWEEP_CHUNK);
                let cleared = over!(self, STEP, session => clearing.execute(&mut *session))?;
                let cleared = i64::try_from(cleared.rows_affected()).unwrap_or(i64::MAX);
                counters += cleared;
                if cleared < SWEEP_CHUNK {
                    break;
                }
            }
        }
        self.forget_runs(keep_days).await?;
        let partitions = partitions::drop_past(self, keep_days).await?;
        Ok(Swept { counters, partitions })
    }
}
