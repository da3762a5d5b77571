//! The counters: moved in the transaction that moves their memberships, nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::SqliteConnection;

use super::json;
use crate::ledger::LedgerError;

/// `?1` a JSON list of [segment, end, difference].
const BUCKETS: &str = "
INSERT INTO segment_expiry (segment_id, expires_at, members)
SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = segment_expiry.members + excluded.members";

/// `?1` a JSON list of [segment, difference].
const TOTALS: &str = "
INSERT INTO segment_total (segment_id, members)
SELECT e.value ->> 0, e.value ->> 1 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id) DO UPDATE SET members = segment_total.members + excluded.members";

/// `?1` a JSON list of segments. A total holds the buckets that end after its `since`: what ended by then is no part of it any more.
const SINCE: &str = "SELECT segment_id, since FROM segment_total WHERE segment_id IN (SELECT value FROM json_each(?1))";

/// Adds differences by (segment, end of the bucket) to buckets and totals.
pub(super) async fn move_counters(
    buckets: &BTreeMap<(i64, i64), i64>,
    session: &mut SqliteConnection,
) -> Result<(), LedgerError> {
    let moved: Vec<(i64, i64, i64)> = buckets
        .iter()
        .filter(|(_, difference)| **difference != 0)
        .map(|(&(segment, end), &difference)| (segment, end, difference))
        .collect();
    let segments: BTreeSet<i64> = moved.iter().map(|(segment, ..)| *segment).collect();
    let since: Vec<(i64, i64)> = sqlx::query_as(SINCE)
        .bind(json(&segments)?)
        .fetch_all(&mut *session)
        .await?;
    let since: HashMap<i64, i64> = since.into_iter().collect();
    let mut totals: BTreeMap<i64, i64> = BTreeMap::new();
    for (segment, end, difference) in &moved {
        if since.get(segment).is_none_or(|since| end > since) {
            *totals.entry(*segment).or_default() += difference;
        }
    }
    totals.retain(|_, difference| *difference != 0);
    if !moved.is_empty() {
        sqlx::query(BUCKETS).bind(json(&moved)?).execute(&mut *session).await?;
    }
    if !totals.is_empty() {
        let totals: Vec<(i64, i64)> = totals.into_iter().collect();
        sqlx::query(TOTALS).bind(json(&totals)?).execute(&mut *session).await?;
    }
    Ok(())
}
