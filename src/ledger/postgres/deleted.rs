//! What is left of segments that were deleted, or moved to another lane, cleared away in short statements.

use super::PostgresLedger;
use super::lanes::Lane;
use super::session::{PART, STEP, UNHEARD, over};
use crate::counting::SegmentId;
use crate::ledger::LedgerError;

/// How many rows one statement deletes.
const CHUNK: i64 = 10_000;
/// How many heap blocks (8 KiB each) of the history one statement looks at.
const BLOCKS: i64 = 16_384;

/// Up to `$3` memberships of segment `$1`, which does not live here, those of users after `$2`; answers how many, and the last of them, null where there was none.
const MEMBERSHIPS: &str = r#"
WITH next AS MATERIALIZED (
  SELECT user_id FROM "{lane}".membership WHERE segment_id = $1 AND user_id > $2 COLLATE "C"
     AND NOT EXISTS (SELECT FROM "{base}".segment s WHERE s.id = $1 AND s.lane = {number})
     AND {held}
   ORDER BY user_id LIMIT $3
), gone AS (
  DELETE FROM "{lane}".membership m USING next n WHERE m.segment_id = $1 AND m.user_id = n.user_id
)
SELECT count(*), max(user_id) FROM next
"#;

/// Up to `$2` buckets of segment `$1`, the same; answers how many.
const BUCKETS: &str = r#"
WITH next AS MATERIALIZED (
  SELECT expires_at FROM "{lane}".segment_expiry WHERE segment_id = $1
     AND NOT EXISTS (SELECT FROM "{base}".segment s WHERE s.id = $1 AND s.lane = {number})
     AND {held}
   ORDER BY expires_at LIMIT $2
), gone AS (
  DELETE FROM "{lane}".segment_expiry b USING next n WHERE b.segment_id = $1 AND b.expires_at = n.expires_at
)
SELECT count(*) FROM next
"#;

/// The total of segment `$1`, the same.
const TOTAL: &str = r#"
DELETE FROM "{lane}".segment_total
 WHERE segment_id = $1 AND NOT EXISTS (SELECT FROM "{base}".segment s WHERE s.id = $1 AND s.lane = {number}) AND {held}
"#;

/// `$1` the history of a lane: its partitions with how many heap blocks each has, and a number that changes where its rows are copied to another
/// machine: on one server none is.
pub(super) const PARTITIONS: &str = "
SELECT inhrelid::regclass::text, pg_relation_size(inhrelid) / current_setting('block_size')::bigint, 0::bigint
  FROM pg_inherits WHERE inhparent = to_regclass($1) ORDER BY 1";

impl PostgresLedger {
    /// Clears away what segments left that were deleted before now - settle, once no writer is under way that may have taken them for existing.
    /// `held`: of those that live in another lane instead, which is to be done only while no move is under way, as that condition says.
    pub(super) async fn clear_deleted(&self, lane: &Lane, held: Option<&str>) -> Result<(), LedgerError> {
        let moved = held.is_some();
        let looking = sqlx::query_scalar(lane.sql(
            "SELECT id FROM \"{base}\".segment_deleted
              WHERE lane = {number} AND moved = $3 AND deleted_at <= coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond' ORDER BY id",
        ))
        .bind(self.clock())
        .bind(self.settle_micros())
        .bind(moved);
        let ids: Vec<i64> = over!(self, STEP, session => looking.fetch_all(&mut *session))?;
        if ids.is_empty() {
            return Ok(());
        }
        // Whoever begins now sees the deletion; whoever began before may hold back a commit for longer than the settle time.
        self.older_writers_ended(lane, "membership").await?;
        for id in &ids {
            self.clear_rows(lane, SegmentId(*id), held, |_| ()).await?;
        }
        // What moved to another lane keeps its history where it was made.
        if !moved {
            let deleting = sqlx::query(self.sql("DELETE FROM \"{base}\".segment_history WHERE segment_id = ANY($1)"));
            let deleting = deleting.bind(&ids);
            over!(self, STEP, session => deleting.execute(&mut *session))?;
            self.clear_history(lane, "segment_id = ANY($3)", &ids).await?;
        }
        // One that was moved may have been deleted meanwhile: then its history is to go too.
        let deleting = sqlx::query(lane.sql(&format!(
            "DELETE FROM \"{{base}}\".segment_deleted WHERE id = ANY($1) AND lane = {{number}} AND moved = $2 AND {}",
            held.unwrap_or("true")
        )));
        let deleting = deleting.bind(&ids).bind(moved);
        over!(self, STEP, session => deleting.execute(&mut *session))?;
        Ok(())
    }

    /// Deletes the memberships and counters that a lane holds of a segment that does not live there; `each` hears how many went in one statement.
    pub(super) async fn clear_rows(
        &self,
        lane: &Lane,
        segment: SegmentId,
        held: Option<&str>,
        mut each: impl FnMut(i64),
    ) -> Result<(), LedgerError> {
        let held = held.unwrap_or("true");
        let memberships = MEMBERSHIPS.replace("{held}", held);
        let mut after = Some(String::new());
        while let Some(user) = after {
            let clearing = sqlx::query_as(lane.sql(&memberships))
                .bind(segment.0)
                .bind(&user)
                .bind(CHUNK);
            let (cleared, last): (i64, Option<String>) =
                over!(self, STEP, session => clearing.fetch_one(&mut *session))?;
            after = last;
            each(cleared);
        }
        let buckets = BUCKETS.replace("{held}", held);
        loop {
            let clearing = sqlx::query_scalar(lane.sql(&buckets)).bind(segment.0).bind(CHUNK);
            let cleared: i64 = over!(self, STEP, session => clearing.fetch_one(&mut *session))?;
            if cleared < CHUNK {
                break;
            }
        }
        let clearing = sqlx::query(lane.sql(&TOTAL.replace("{held}", held))).bind(segment.0);
        over!(self, STEP, session => clearing.execute(&mut *session))?;
        Ok(())
    }

    /// Deletes rows of the history by a condition on `$3`, block by block: it has no index, which would cost the archive more than this does.
    pub(super) async fn clear_history<'v, V>(
        &self,
        lane: &Lane,
        condition: &str,
        value: &'v V,
    ) -> Result<i64, LedgerError>
    where
        V: ?Sized + Sync,
        &'v V: sqlx::Encode<'v, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send,
    {
        let mut deleted = 0;
        let mut partitions = self.partitions_of(lane).await?;
        loop {
            deleted += self.clear_partitions(&partitions, condition, value).await?;
            // Rows that were copied to another machine meanwhile lie in other blocks there, some of which were passed already.
            if partitions.iter().all(|(_, _, place)| *place == 0) {
                return Ok(deleted);
            }
            let before: Vec<i64> = partitions.iter().map(|(_, _, place)| *place).collect();
            partitions = self.partitions_of(lane).await?;
            partitions.retain(|(_, _, place)| !before.contains(place));
            if partitions.is_empty() {
                return Ok(deleted);
            }
        }
    }

    async fn partitions_of(&self, lane: &Lane) -> Result<Vec<(String, i64, i64)>, LedgerError> {
        let history = format!("{}.membership_history", lane.schema);
        let finding = sqlx::query_as(lane.partitions.clone()).bind(history);
        over!(self, PART, session => finding.fetch_all(&mut *session))
    }

    async fn clear_partitions<'v, V>(
        &self,
        partitions: &[(String, i64, i64)],
        condition: &str,
        value: &'v V,
    ) -> Result<i64, LedgerError>
    where
        V: ?Sized + Sync,
        &'v V: sqlx::Encode<'v, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send,
    {
        let mut deleted = 0;
        for (partition, blocks, _) in partitions {
            // The name is the catalogue's own, quoted by it.
            let text = format!(
                "DELETE FROM {partition} WHERE ctid >= format('(%s,0)', $1)::tid AND ctid < format('(%s,0)', $2)::tid AND {condition}"
            );
            let (mut from, mut at_once) = (0, BLOCKS);
            while from <= *blocks {
                let deleting = sqlx::query(sqlx::AssertSqlSafe(text.clone()))
                    .bind(from)
                    .bind(from + at_once)
                    .bind(value);
                let done = match over!(self, PART, session => deleting.execute(&mut *session)) {
                    // A slow disk: fewer take less.
                    Err(LedgerError::Timeout(why)) if at_once > 1 && why != UNHEARD => {
                        at_once = (at_once / 4).max(1);
                        continue;
                    }
                    done => done?,
                };
                deleted += i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
                from += at_once;
            }
        }
        Ok(deleted)
    }
}
