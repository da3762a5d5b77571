//! The statement that counts.

use super::session::{ANSWER, over};
use super::{PostgresLedger, timestamp};
use crate::counting::SegmentId;
use crate::ledger::{Count, LedgerError};

/// The members of a segment at `now`: the buckets of the span that is passing, and the spans after it.
///
/// Correlated on purpose: joined, the planner reads every counter of every segment (nine times slower over 300 segments).
pub(super) const MEMBERS: &str = r#"
  coalesce((SELECT sum(b.members) FROM "{lane}".segment_bucket b
             WHERE b.segment_id = s.id AND b.expires_at > i.now AND b.expires_at <= i.edge), 0)::bigint
  + coalesce((SELECT sum(p.members) FROM "{lane}".segment_span p WHERE p.segment_id = s.id AND p.span_end > i.edge), 0)::bigint"#;

/// The instant of a count, evaluated inside the statement and so after its snapshot. Never `now()`: the transaction's start lies before
/// the snapshot, and a member that moved between the two would be counted twice. `edge` ends the span that is passing.
pub(super) const INSTANT: &str = r#"
instant AS MATERIALIZED (
  SELECT now, date_bin('2 hours', now, 'epoch') + interval '2 hours' AS edge, (extract(epoch FROM now) * 1000000)::bigint AS micros
    FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
)"#;

/// `$1` clock, `$2` segment ids.
pub(super) const SQL: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, date_bin('2 hours', now, 'epoch') + interval '2 hours' AS edge, (extract(epoch FROM now) * 1000000)::bigint AS micros
    FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
)
SELECT i.micros,
  coalesce((SELECT sum(b.members) FROM "{lane}".segment_bucket b
             WHERE b.segment_id = s.id AND b.expires_at > i.now AND b.expires_at <= i.edge), 0)::bigint
  + coalesce((SELECT sum(p.members) FROM "{lane}".segment_span p WHERE p.segment_id = s.id AND p.span_end > i.edge), 0)::bigint
  FROM unnest($2::bigint[]) WITH ORDINALITY AS s(id, ordinal), instant i
 ORDER BY s.ordinal
"#;

impl PostgresLedger {
    pub(super) async fn count_segments(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        let ids: Vec<i64> = segments.iter().map(|segment| segment.0).collect();
        let counting = sqlx::query_as(self.sql.count.clone()).bind(self.clock()).bind(&ids);
        let rows: Vec<(i64, i64)> = over!(self, ANSWER, session => counting.fetch_all(&mut *session))?;
        segments
            .iter()
            .zip(rows)
            .map(|(&segment, (at, members))| {
                Ok(Count {
                    segment,
                    members,
                    as_of: timestamp(at)?,
                })
            })
            .collect()
    }
}
