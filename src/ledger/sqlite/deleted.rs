//! What deleted segments left, cleared away in short transactions.

use super::{SqliteLedger, text};
use crate::ledger::LedgerError;

/// How many rows one statement deletes.
const CHUNK: i64 = 10_000;
/// How many rows of the history one statement looks at.
const HISTORY_ROWS: i64 = 100_000;

/// The tables that find a segment's rows by their key.
const BY_SEGMENT: [(&str, &str); 4] = [
    ("membership", "segment_id, user_id"),
    ("segment_expiry", "segment_id, expires_at"),
    ("segment_total", "segment_id"),
    ("segment_history", "segment_id, at"),
];

impl SqliteLedger {
    /// No writer can be under way that took one of them for existing: there is one writer.
    pub(super) async fn clear_deleted(&self) -> Result<(), LedgerError> {
        let deleted: Vec<i64> = sqlx::query_scalar("SELECT id FROM segment_deleted ORDER BY id")
            .fetch_all(&self.readers)
            .await?;
        if deleted.is_empty() {
            return Ok(());
        }
        for id in &deleted {
            for (table, key) in BY_SEGMENT {
                self.clear_rows(table, key, *id).await?;
            }
        }
        let ids = serde_json::Value::from(deleted).to_string();
        // After the memberships: no archive adds anything of theirs any more.
        self.clear_history(&ids).await?;
        sqlx::query("DELETE FROM segment_deleted WHERE id IN (SELECT value FROM json_each(?1))")
            .bind(&ids)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn clear_rows(&self, table: &str, key: &str, segment: i64) -> Result<(), LedgerError> {
        let some = format!("SELECT {key} FROM {table} WHERE segment_id = ?1 LIMIT {CHUNK}");
        let clear = format!("DELETE FROM {table} WHERE ({key}) IN ({some})");
        loop {
            let cleared = sqlx::query(text(clear.clone()))
                .bind(segment)
                .execute(&self.writer)
                .await?;
            if cleared.rows_affected() == 0 {
                return Ok(());
            }
        }
    }

    /// It has no index by segment, so it is walked once for all of them (`ids`, a JSON list).
    async fn clear_history(&self, ids: &str) -> Result<(), LedgerError> {
        let ends: (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT (SELECT min(rowid) FROM membership_history), (SELECT max(rowid) FROM membership_history)",
        )
        .fetch_one(&self.readers)
        .await?;
        let (Some(mut from), Some(end)) = ends else {
            return Ok(());
        };
        while from <= end {
            sqlx::query(
                "DELETE FROM membership_history
                  WHERE rowid >= ?2 AND rowid < ?3 AND segment_id IN (SELECT value FROM json_each(?1))",
            )
            .bind(ids)
            .bind(from)
            .bind(from + HISTORY_ROWS)
            .execute(&self.writer)
            .await?;
            from += HISTORY_ROWS;
        }
        Ok(())
    }
}
