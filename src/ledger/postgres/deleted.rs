//! What is left of deleted segments, cleared away in short statements.

use super::PostgresLedger;
use crate::ledger::LedgerError;

/// How many rows one statement deletes.
const CHUNK: i64 = 10_000;
/// How many heap blocks (8 KiB each) of the history one statement looks at.
const BLOCKS: i64 = 16_384;

/// Up to `$3` memberships of segment `$1`, those of users after `$2`; answers the last of them, null where there was none.
const MEMBERSHIPS: &str = r#"
WITH next AS MATERIALIZED (
  SELECT user_id FROM "{lane}".membership WHERE segment_id = $1 AND user_id > $2 COLLATE "C" ORDER BY user_id LIMIT $3
), gone AS (
  DELETE FROM "{lane}".membership m USING next n WHERE m.segment_id = $1 AND m.user_id = n.user_id
)
SELECT max(user_id) FROM next
"#;

impl PostgresLedger {
    /// Clears away what segments left that were deleted before now - settle: by then no writer is under way that took them for existing.
    pub(super) async fn clear_deleted(&self) -> Result<(), LedgerError> {
        let deleted: Vec<i64> = sqlx::query_scalar(self.sql(
            "SELECT id FROM \"{base}\".segment_deleted
              WHERE lane = {number} AND deleted_at <= coalesce($1, clock_timestamp()) - $2 * interval '1 microsecond' ORDER BY id",
        ))
        .bind(self.clock())
        .bind(self.settle_micros())
        .fetch_all(&self.pool)
        .await?;
        if deleted.is_empty() {
            return Ok(());
        }
        for id in &deleted {
            let mut after = String::new();
            loop {
                let last: Option<String> = sqlx::query_scalar(self.sql(MEMBERSHIPS))
                    .bind(id)
                    .bind(&after)
                    .bind(CHUNK)
                    .fetch_one(&self.pool)
                    .await?;
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        for table in [
            "\"{lane}\".segment_bucket",
            "\"{lane}\".segment_span",
            "\"{base}\".segment_history",
        ] {
            sqlx::query(self.sql(&format!("DELETE FROM {table} WHERE segment_id = ANY($1)")))
                .bind(&deleted)
                .execute(&self.pool)
                .await?;
        }
        self.clear_history("segment_id = ANY($3)", &deleted).await?;
        sqlx::query(self.sql("DELETE FROM \"{base}\".segment_deleted WHERE id = ANY($1)"))
            .bind(&deleted)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Deletes rows of the history by a condition on `$3`, block by block: it has no index, which would cost the archive more than this does.
    pub(super) async fn clear_history<'v, V>(&self, condition: &str, value: &'v V) -> Result<i64, LedgerError>
    where
        V: ?Sized + Sync,
        &'v V: sqlx::Encode<'v, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send,
    {
        let partitions: Vec<(String, i64)> = sqlx::query_as(
            "SELECT inhrelid::regclass::text, pg_relation_size(inhrelid) / current_setting('block_size')::bigint
               FROM pg_inherits WHERE inhparent = to_regclass($1) ORDER BY 1",
        )
        .bind(format!("{}.membership_history", self.lane))
        .fetch_all(&self.pool)
        .await?;
        let mut deleted = 0;
        for (partition, blocks) in partitions {
            // The name is the catalogue's own, quoted by it.
            let text = format!(
                "DELETE FROM {partition} WHERE ctid >= format('(%s,0)', $1)::tid AND ctid < format('(%s,0)', $2)::tid AND {condition}"
            );
            let mut from = 0;
            while from <= blocks {
                let done = sqlx::query(sqlx::AssertSqlSafe(text.clone()))
                    .bind(from)
                    .bind(from + BLOCKS)
                    .bind(value)
                    .execute(&self.pool)
                    .await?;
                deleted += i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
                from += BLOCKS;
            }
        }
        Ok(deleted)
    }
}
