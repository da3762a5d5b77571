//! The counters: moved in the transaction that moves their memberships, nowhere else.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::{SPAN, json};
use crate::ledger::LedgerError;

/// `?1` a JSON list of [segment, end, difference].
const BUCKETS: &str = "
INSERT INTO segment_bucket (segment_id, expires_at, members)
SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = segment_bucket.members + excluded.members";

/// `?1` a JSON list of [segment, end of the span, difference].
const SPANS: &str = "
INSERT INTO segment_span (segment_id, span_end, members)
SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id, span_end) DO UPDATE SET members = segment_span.members + excluded.members";

/// Adds differences by (segment, end of the bucket) to buckets and spans.
pub(super) async fn move_counters(
    buckets: &BTreeMap<(i64, i64), i64>,
    session: &mut SqliteConnection,
) -> Result<(), LedgerError> {
    let mut spans: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for (&(segment, end), difference) in buckets {
        *spans.entry((segment, span_end(end))).or_default() += difference;
    }
    for (sql, counters) in [(BUCKETS, buckets), (SPANS, &spans)] {
        let list: Vec<_> = counters
            .iter()
            .filter(|(_, d)| **d != 0)
            .map(|(&(segment, end), &d)| (segment, end, d))
            .collect();
        if !list.is_empty() {
            sqlx::query(sql).bind(json(&list)?).execute(&mut *session).await?;
        }
    }
    Ok(())
}

/// The end of the span that a bucket belongs to.
pub(super) fn span_end(end: i64) -> i64 {
    (end - 1).div_euclid(SPAN) * SPAN + SPAN
}
