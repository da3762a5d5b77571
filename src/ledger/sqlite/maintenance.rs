//! Archive, sweep and recount: short transactions, so that writers wait for none of them long.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::{NOW, SqliteLedger, json, text, timestamp};
use crate::counting::SegmentId;
use crate::ledger::{ArchiveBatch, ArchiveCursor, LedgerError, Recount, Swept};

/// How many row numbers one batch looks at: what bounds a batch in a table where nothing has ended.
const ROWS: i64 = 100_000;
/// How many buckets one statement of the sweep clears.
const SWEEP_CHUNK: i64 = 10_000;
/// How many totals one statement of the sweep moves on.
const TOTALS: i64 = 500;

/// A day, in microseconds.
const DAY: i64 = 86_400_000_000;

/// `?1` clock, `?2` settle (µs), `?3` a JSON list of segments: takes out of their totals what has ended.
pub(super) fn advance_totals() -> String {
    format!(
        "UPDATE segment_total AS t
            SET since = p.until,
                members = members - (SELECT sum(b.members) FROM segment_expiry b
                                      WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= p.until)
           FROM (SELECT {NOW} - ?2 AS until) p
          WHERE t.segment_id IN (SELECT value FROM json_each(?3))
            AND EXISTS (SELECT 1 FROM segment_expiry b
                         WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= p.until)"
    )
}

/// `?1` clock, `?2` settle (µs), `?3` how many: clears buckets that are settled and that no total holds any more.
fn clear_buckets() -> String {
    format!(
        "DELETE FROM segment_expiry WHERE (segment_id, expires_at) IN (
           SELECT b.segment_id, b.expires_at
             FROM segment_total t JOIN segment_expiry b ON b.segment_id = t.segment_id AND b.expires_at <= min(t.since, {NOW} - ?2) LIMIT ?3)"
    )
}

impl SqliteLedger {
    pub(super) async fn archive_one_batch(
        &self,
        cursor: Option<ArchiveCursor>,
        limit: u32,
    ) -> Result<ArchiveBatch, LedgerError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        // From the first row that stands: a table that has seen many has few numbers left, and those are far from 0.
        let first: Option<i64> = sqlx::query_scalar("SELECT min(id) FROM membership WHERE id > ?1")
            .bind(cursor.map_or(0, |cursor| cursor.position))
            .fetch_one(&mut *transaction)
            .await?;
        let Some(first) = first else {
            return Ok(ArchiveBatch { moved: 0, next: None });
        };
        let from = first - 1;
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
        let mut after = i64::MIN;
        loop {
            let next = "SELECT segment_id FROM segment_total WHERE segment_id > ?1 ORDER BY segment_id LIMIT ?2";
            let segments: Vec<i64> = sqlx::query_scalar(next)
                .bind(after)
                .bind(TOTALS)
                .fetch_all(&self.readers)
                .await?;
            let Some(last) = segments.last() else { break };
            after = *last;
            sqlx::query(text(advance_totals()))
                .bind(self.clock())
                .bind(self.settle_micros())
                .bind(json(&segments)?)
                .execute(&self.writer)
                .await?;
        }
        loop {
            let cleared = sqlx::query(text(clear_buckets()))
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
        let standing: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM segment WHERE id = ?1)")
            .bind(segment.0)
            .fetch_one(&mut *transaction)
            .await?;
        if !standing {
            // Deleted, and perhaps half cleared away: nothing that counts.
            return Ok(Recount {
                segment,
                members: 0,
                drift: 0,
                as_of: timestamp(now)?,
            });
        }
        let truth: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT expires_at, count(*) FROM membership WHERE segment_id = ?1 AND expires_at > ?2 GROUP BY 1 ORDER BY 1",
        )
        .bind(segment.0)
        .bind(now)
        .fetch_all(&mut *transaction)
        .await?;
        let members = truth.iter().map(|(_, n)| n).sum();
        let drift = mend_buckets(segment, now, &truth, &mut transaction).await?
            + mend_total(segment, now, &truth, &mut transaction).await?;
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

/// Compares the buckets that end after `now` with the truth, sets those that differ right, and answers by how much they did.
async fn mend_buckets(
    segment: SegmentId,
    now: i64,
    truth: &[(i64, i64)],
    session: &mut SqliteConnection,
) -> Result<i64, LedgerError> {
    let mut differences: BTreeMap<i64, i64> = truth.iter().copied().collect();
    let counted: Vec<(i64, i64)> =
        sqlx::query_as("SELECT expires_at, members FROM segment_expiry WHERE segment_id = ?1 AND expires_at > ?2")
            .bind(segment.0)
            .bind(now)
            .fetch_all(&mut *session)
            .await?;
    for (end, members) in counted {
        *differences.entry(end).or_default() -= members;
    }
    differences.retain(|_, difference| *difference != 0);
    for (end, difference) in &differences {
        sqlx::query(
            "INSERT INTO segment_expiry (segment_id, expires_at, members) VALUES (?1, ?2, ?3)
             ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = segment_expiry.members + excluded.members",
        )
        .bind(segment.0)
        .bind(end)
        .bind(difference)
        .execute(&mut *session)
        .await?;
    }
    Ok(differences.values().map(|difference| difference.abs()).sum())
}

/// Compares the total with the members and those who have left since it was moved on, sets it right, and answers by how much it differed.
async fn mend_total(
    segment: SegmentId,
    now: i64,
    truth: &[(i64, i64)],
    session: &mut SqliteConnection,
) -> Result<i64, LedgerError> {
    let (counted, since): (i64, i64) = sqlx::query_as("SELECT members, since FROM segment_total WHERE segment_id = ?1")
        .bind(segment.0)
        .fetch_optional(&mut *session)
        .await?
        .unwrap_or_default();
    let left: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(members), 0) FROM segment_expiry WHERE segment_id = ?1 AND expires_at > ?2 AND expires_at <= ?3",
    )
    .bind(segment.0)
    .bind(since)
    .bind(now)
    .fetch_one(&mut *session)
    .await?;
    let ahead: i64 = truth
        .iter()
        .filter(|(end, _)| *end > since)
        .map(|(_, members)| members)
        .sum();
    let difference = ahead + left - counted;
    if difference != 0 {
        sqlx::query(
            "INSERT INTO segment_total (segment_id, members) VALUES (?1, ?2)
             ON CONFLICT (segment_id) DO UPDATE SET members = segment_total.members + excluded.members",
        )
        .bind(segment.0)
        .bind(difference)
        .execute(&mut *session)
        .await?;
    }
    Ok(difference.abs())
}
