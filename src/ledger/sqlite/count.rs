//! The statement that counts.

use super::{NOW, SPAN, SqliteLedger, json, text, timestamp};
use crate::counting::SegmentId;
use crate::ledger::{Count, LedgerError};

/// The members of segment `s` at the instant `i`: the buckets of the span that is passing, and the spans after it.
pub(super) const MEMBERS: &str = "
  (SELECT coalesce(sum(b.members), 0) FROM segment_bucket b
    WHERE b.segment_id = s.id AND b.expires_at > i.now AND b.expires_at <= i.edge)
  + (SELECT coalesce(sum(p.members), 0) FROM segment_span p WHERE p.segment_id = s.id AND p.span_end > i.edge)";

/// The instant of a count, and the end of the span that is passing.
pub(super) fn instant() -> String {
    format!("instant AS MATERIALIZED (SELECT now, (now / {SPAN} + 1) * {SPAN} AS edge FROM (SELECT {NOW} AS now))")
}

impl SqliteLedger {
    pub(super) async fn count_segments(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        let ids: Vec<i64> = segments.iter().map(|segment| segment.0).collect();
        let sql = format!(
            "WITH {}, s AS (SELECT e.key AS ordinal, e.value AS id FROM json_each(?2) e)
             SELECT i.now, {MEMBERS}, EXISTS (SELECT 1 FROM segment g WHERE g.id = s.id) FROM s, instant i ORDER BY s.ordinal",
            instant()
        );
        let rows: Vec<(i64, i64, bool)> = sqlx::query_as(text(sql))
            .bind(self.clock())
            .bind(json(&ids)?)
            .fetch_all(&self.readers)
            .await?;
        segments
            .iter()
            .zip(rows)
            .map(|(&segment, (at, members, exists))| {
                Ok(Count {
                    segment,
                    members: if exists { members } else { 0 },
                    as_of: timestamp(at)?,
                    exists,
                })
            })
            .collect()
    }
}
