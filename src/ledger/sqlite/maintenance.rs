//! Archive, sweep and recount: short transactions, so that writers wait for none of them long.

use sqlx::SqliteConnection;

use super::counters::span_end;
use super::{NOW, SPAN, SqliteLedger, text, timestamp};
use crate::counting::SegmentId;
use crate::ledger::{ArchiveBatch, ArchiveCursor, LedgerError, Recount, Swept};

/// How many row numbers one batch looks at: what bounds a batch in a table where nothing has ended.
const ROWS: i64 = 100_000;
/// How many counters one statement of the sweep clears.
const SWEEP_CHUNK: i64 = 10_000;
/// A day, in microseconds.
const DAY: i64 = 86_400_000_000;

impl SqliteLedger {
    pub(super) async fn archive_one_batch(
        &self,
        cursor: Option<ArchiveCursor>,
        limit: u32,
    ) -> Result<ArchiveBatch, LedgerError> {
        let from = cursor.map_or(0, |cursor| cursor.position);
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = self.instant(&mut transaction).await?;
        // A row that also bears a removal stays as its mark until that is spent; a mark alone is no membership and goes into no history.
        let spent = now - self.settings.rules.memory_micros() - self.settle_micros();
        let (until, dealt_with, end): (i64, i64, i64) = sqlx::query_as(
            "SELECT coalesce(max(id), 0), count(*), (SELECT coalesce(max(id), 0) FROM membership)
               FROM (SELECT id FROM membership WHERE id > ?1 AND id <= ?1 + ?2 AND expires_at <= ?3 AND (expires_at > 0 OR removed_at <= ?5)
                      ORDER BY id LIMIT ?4)",
        )
        .bind(from)
        .bind(ROWS)
        .bind(now - self.settle_micros())
        .bind(i64::from(limit))
        .bind(spent)
        .fetch_one(&mut *transaction)
        .await?;
        let moved = sqlx::query(
            "INSERT INTO membership_history (segment_id, user_id, expires_at, archived_at)
             SELECT segment_id, user_id, expires_at, ?4 FROM membership WHERE id > ?1 AND id <= ?2 AND expires_at <= ?3 AND expires_at > 0",
        )
        .bind(from)
        .bind(until)
        .bind(now - self.settle_micros())
        .bind(now)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        for settled in [
            "DELETE FROM membership WHERE id > ?1 AND id <= ?2 AND expires_at <= ?3 AND (removed_at IS NULL OR removed_at <= ?4)",
            "UPDATE membership SET expires_at = 0, prev_expires_at = NULL
              WHERE id > ?1 AND id <= ?2 AND expires_at <= ?3 AND expires_at > 0 AND removed_at > ?4",
        ] {
            sqlx::query(settled)
                .bind(from)
                .bind(until)
                .bind(now - self.settle_micros())
                .bind(spent)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        let moved = i64::try_from(moved).unwrap_or(i64::MAX);
        let position = if dealt_with >= i64::from(limit) {
            until
        } else {
            from + ROWS
        };
        Ok(ArchiveBatch {
            moved,
            next: (position < end).then_some(ArchiveCursor {
                lane: 0,
                position,
                full: 0,
            }),
        })
    }

    pub(super) async fn sweep_past(&self, keep_days: u32) -> Result<Swept, LedgerError> {
        let mut counters = 0;
        for (table, key) in [("segment_bucket", "expires_at"), ("segment_span", "span_end")] {
            loop {
                let cleared = sqlx::query(text(format!(
                    "DELETE FROM {table} WHERE (segment_id, {key}) IN
                       (SELECT segment_id, {key} FROM {table} WHERE {key} <= {NOW} - ?2 LIMIT ?3)"
                )))
                .bind(self.clock())
                .bind(self.settle_micros())
                .bind(SWEEP_CHUNK)
                .execute(&self.writer)
                .await?
                .rows_affected();
                let cleared = i64::try_from(cleared).unwrap_or(i64::MAX);
                counters += cleared;
                if cleared < SWEEP_CHUNK {
                    break;
                }
            }
        }
        for (table, key) in [("membership_history", "archived_at"), ("segment_history", "at")] {
            loop {
                let dropped = sqlx::query(text(format!(
                    "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {key} <= {NOW} - ?2 LIMIT ?3)"
                )))
                .bind(self.clock())
                .bind(i64::from(keep_days) * DAY)
                .bind(SWEEP_CHUNK)
                .execute(&self.writer)
                .await?;
                if dropped.rows_affected() == 0 {
                    break;
                }
            }
        }
        self.clear_deleted().await?;
        sqlx::query(text(format!("DELETE FROM suppression WHERE suppressed_until <= {NOW}")))
            .bind(self.clock())
            .execute(&self.writer)
            .await?;
        self.forget_runs(i64::from(keep_days) * DAY).await?;
        Ok(Swept {
            counters,
            partitions: 0,
        })
    }

    pub(super) async fn longest_unchecked(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError> {
        let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM segment ORDER BY recounted_at NULLS FIRST, id LIMIT ?1")
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        Ok(ids.into_iter().map(SegmentId).collect())
    }

    pub(super) async fn recount_segment(&self, segment: SegmentId) -> Result<Recount, LedgerError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = self.instant(&mut transaction).await?;
        let truth: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT expires_at, count(*) FROM membership WHERE segment_id = ?1 AND expires_at > ?2 GROUP BY 1 ORDER BY 1",
        )
        .bind(segment.0)
        .bind(now)
        .fetch_all(&mut *transaction)
        .await?;
        let members = truth.iter().map(|(_, n)| n).sum();
        let edge = (now.div_euclid(SPAN) + 1) * SPAN;
        let spans: Vec<(i64, i64)> = truth
            .iter()
            .filter(|(end, _)| *end > edge)
            .map(|(end, n)| (span_end(*end), *n))
            .collect();
        let drift = mend("segment_bucket", "expires_at", segment, now, &truth, &mut transaction).await?
            + mend("segment_span", "span_end", segment, edge, &spans, &mut transaction).await?;
        sqlx::query(
            "INSERT INTO segment_history (segment_id, at, members) SELECT id, ?2, ?3 FROM segment WHERE id = ?1",
        )
        .bind(segment.0)
        .bind(now)
        .bind(members)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE segment SET recounted_at = ?2 WHERE id = ?1")
            .bind(segment.0)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Recount {
            segment,
            members,
            drift,
            as_of: timestamp(now)?,
        })
    }
}

/// Compares the counters that end after `after` with the truth, sets those that differ right, and answers by how much they did.
async fn mend(
    table: &str,
    key: &str,
    segment: SegmentId,
    after: i64,
    truth: &[(i64, i64)],
    session: &mut SqliteConnection,
) -> Result<i64, LedgerError> {
    let mut differences = std::collections::BTreeMap::<i64, i64>::new();
    for (end, members) in truth {
        *differences.entry(*end).or_default() += members;
    }
    let counted: Vec<(i64, i64)> = sqlx::query_as(text(format!(
        "SELECT {key}, members FROM {table} WHERE segment_id = ?1 AND {key} > ?2"
    )))
    .bind(segment.0)
    .bind(after)
    .fetch_all(&mut *session)
    .await?;
    for (end, members) in counted {
        *differences.entry(end).or_default() -= members;
    }
    differences.retain(|_, difference| *difference != 0);
    for (end, difference) in &differences {
        sqlx::query(text(format!(
            "INSERT INTO {table} (segment_id, {key}, members) VALUES (?1, ?2, ?3)
             ON CONFLICT (segment_id, {key}) DO UPDATE SET members = {table}.members + excluded.members"
        )))
        .bind(segment.0)
        .bind(end)
        .bind(difference)
        .execute(&mut *session)
        .await?;
    }
    Ok(differences.values().map(|difference| difference.abs()).sum())
}
