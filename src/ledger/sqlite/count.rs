//! The statement that counts.

use super::maintenance::advance_totals;
use super::{NOW, SqliteLedger, json, text, timestamp};
use crate::counting::SegmentId;
use crate::ledger::late::Overdue;
use crate::ledger::{Count, LedgerError};

/// The members of segment `s` at the instant `i`: its total, less the buckets that have ended since the instant that the total is of; or with those
/// that are to end until then, where the clock has stepped back behind it.
pub(super) const MEMBERS: &str = "
  coalesce((SELECT t.members - (SELECT coalesce(sum(iif(b.expires_at <= t.since, -b.members, b.members)), 0) FROM segment_expiry b
                                 WHERE b.segment_id = t.segment_id AND b.expires_at > min(t.since, i.now) AND b.expires_at <= max(t.since, i.now))
              FROM segment_total t WHERE t.segment_id = s.id), 0)";

/// How many of those are settled (`?3`, µs).
const SETTLED: &str = "
  (SELECT count(*) FROM segment_total t JOIN segment_expiry b ON b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= i.now - ?3
    WHERE t.segment_id = s.id)";

/// The instant of a count.
pub(super) fn instant() -> String {
    format!("instant AS MATERIALIZED (SELECT {NOW} AS now)")
}

impl SqliteLedger {
    pub(super) async fn count_segments(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        let ids: Vec<i64> = segments.iter().map(|segment| segment.0).collect();
        let sql = format!(
            "WITH {}, s AS (SELECT e.key AS ordinal, e.value AS id FROM json_each(?2) e)
             SELECT i.now, {MEMBERS}, {SETTLED}, EXISTS (SELECT 1 FROM segment g WHERE g.id = s.id) FROM s, instant i ORDER BY s.ordinal",
            instant()
        );
        let rows: Vec<(i64, i64, i64, bool)> = sqlx::query_as(text(sql))
            .bind(self.clock())
            .bind(json(&ids)?)
            .bind(self.settle_micros())
            .fetch_all(&self.readers)
            .await?;
        let read = ids.iter().zip(&rows).map(|(id, (_, _, settled, _))| (*id, *settled));
        if let Some(overdue) = self.late.overdue(read) {
            self.move_on(overdue)?;
        }
        segments
            .iter()
            .zip(rows)
            .map(|(&segment, (at, members, _, exists))| {
                Ok(Count {
                    segment,
                    members: if exists { members } else { 0 },
                    as_of: timestamp(at)?,
                    exists,
                })
            })
            .collect()
    }

    /// Moves totals on, while whoever counted goes on: where the writer is free.
    fn move_on(&self, overdue: Overdue) -> Result<(), LedgerError> {
        let Some(mut session) = self.writer.try_acquire() else {
            return Ok(());
        };
        let advancing = sqlx::query(text(advance_totals()))
            .bind(self.clock())
            .bind(self.settle_micros())
            .bind(json(&overdue.segments)?);
        tokio::spawn(async move {
            let moved = advancing.execute(&mut *session).await;
            overdue.ended(moved.map_err(LedgerError::from));
        });
        Ok(())
    }
}
