//! Records a batch: one transaction, five statements whatever the size of the batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::SqliteConnection;

use super::{SPAN, SqliteLedger, json, timestamp};
use crate::counting::{Outcome, Pair, Refusal, SegmentId, UserId, Window, expires_at, is_too_far_ahead};
use crate::ledger::{LedgerError, Recorded, Recording};

/// The membership that a batch offers: the later of all that its pairs of one (segment, user) would make, and which pair makes it.
type Best<'a> = BTreeMap<(i64, &'a str), (i64, usize)>;

/// `?1` a JSON list of [segment, user, end].
const UPSERT: &str = "
INSERT INTO membership (segment_id, user_id, expires_at)
SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id, user_id) DO UPDATE SET prev_expires_at = membership.expires_at, expires_at = excluded.expires_at
 WHERE membership.expires_at < excluded.expires_at
RETURNING segment_id, user_id, prev_expires_at";

/// `?1` a JSON list of [segment, user].
const STANDING: &str = "
SELECT m.segment_id, m.user_id, m.expires_at
  FROM json_each(?1) e JOIN membership m ON m.segment_id = e.value ->> 0 AND m.user_id = e.value ->> 1";

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

impl SqliteLedger {
    pub(super) async fn record_batch(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        self.settings.admit(pairs)?;
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = self.instant(&mut transaction).await?;
        let segments = self.segments_of(pairs, now, &mut transaction).await?;

        let mut recorded = Vec::with_capacity(pairs.len());
        let mut best: Best<'_> = BTreeMap::new();
        let mut changed = BTreeSet::new();
        for (index, pair) in pairs.iter().enumerate() {
            recorded.push(self.offer(index, pair, &segments, now, &mut best)?);
        }
        let moved = write(&best, &mut transaction).await?;
        for (key, (end, index)) in &best {
            let outcome = match moved.get(key) {
                None => Outcome::Unchanged,
                Some(Some(previous)) if *previous > now => Outcome::Renewed,
                Some(_) => Outcome::Created,
            };
            if outcome == Outcome::Created {
                changed.insert(SegmentId(key.0));
            }
            recorded[*index] = Recording {
                outcome,
                expires_at: Some(timestamp(*end)?),
            };
        }
        self.move_counters(&best, &moved, now, &mut transaction).await?;
        stand(pairs, &segments, &best, &mut recorded, &mut transaction).await?;
        transaction.commit().await?;
        Ok(Recorded {
            at: timestamp(now)?,
            pairs: recorded,
            changed: changed.into_iter().collect(),
        })
    }

    /// Judges one pair by the rules, and keeps it where it is the best of its (segment, user) so far.
    fn offer<'a>(
        &self,
        index: usize,
        pair: &'a Pair,
        segments: &HashMap<&str, (i64, Option<i64>)>,
        now: i64,
        best: &mut Best<'a>,
    ) -> Result<Recording, LedgerError> {
        let observed = pair.observed_micros().unwrap_or(now);
        if is_too_far_ahead(observed, now) {
            return Ok(Recording {
                outcome: Outcome::Refused(Refusal::ObservedInFuture),
                expires_at: None,
            });
        }
        let Some(&(segment, own)) = segments.get(pair.segment.as_str()) else {
            return Ok(Recording {
                outcome: Outcome::Refused(Refusal::SegmentLimit),
                expires_at: None,
            });
        };
        let own = own
            .map(Window::from_seconds)
            .transpose()
            .map_err(|error| LedgerError::Internal(error.to_string()))?;
        let window = pair.ttl.or(own).unwrap_or_else(|| self.settings.rules.window());
        let end = expires_at(observed, window, self.settings.rules.resolution());
        if end <= now {
            return Ok(Recording {
                outcome: Outcome::Expired,
                expires_at: Some(timestamp(end)?),
            });
        }
        let entry = best.entry((segment, pair.user.as_str())).or_insert((end, index));
        if end > entry.0 {
            *entry = (end, index);
        }
        Ok(Recording {
            outcome: Outcome::Unchanged,
            expires_at: None,
        })
    }

    async fn move_counters(
        &self,
        best: &Best<'_>,
        moved: &HashMap<(i64, &str), Option<i64>>,
        now: i64,
        session: &mut SqliteConnection,
    ) -> Result<(), LedgerError> {
        // A bucket that ended before now - settle / 2 is left alone: the sweep may have cleared it.
        let kept_from = now - self.settle_micros() / 2;
        let mut buckets: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for (key, previous) in moved {
            *buckets.entry((key.0, best[key].0)).or_default() += 1;
            if let Some(previous) = previous.filter(|&previous| previous > kept_from) {
                *buckets.entry((key.0, previous)).or_default() -= 1;
            }
        }
        let mut spans: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for ((segment, end), difference) in &buckets {
            *spans.entry((*segment, span_end(*end))).or_default() += difference;
        }
        for (sql, counters) in [(BUCKETS, buckets), (SPANS, spans)] {
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
}

/// The end of the span that a bucket belongs to.
pub(super) fn span_end(end: i64) -> i64 {
    (end - 1).div_euclid(SPAN) * SPAN + SPAN
}

/// Writes what a batch offers; answers what moved, and where from.
async fn write<'a>(
    best: &Best<'a>,
    session: &mut SqliteConnection,
) -> Result<HashMap<(i64, &'a str), Option<i64>>, LedgerError> {
    if best.is_empty() {
        return Ok(HashMap::new());
    }
    let list: Vec<_> = best
        .iter()
        .map(|(&(segment, user), &(end, _))| (segment, user, end))
        .collect();
    let rows: Vec<(i64, String, Option<i64>)> = sqlx::query_as(UPSERT).bind(json(&list)?).fetch_all(session).await?;
    let mut previous: HashMap<i64, HashMap<String, Option<i64>>> = HashMap::new();
    for (segment, user, end) in rows {
        previous.entry(segment).or_default().insert(user, end);
    }
    // Keyed as the batch is: by what it borrows, not by the rows.
    let moved = best
        .keys()
        .filter_map(|&(segment, user)| Some(((segment, user), *previous.get(&segment)?.get(user)?)))
        .collect();
    Ok(moved)
}

/// Fills in, for the pairs that changed nothing, when the membership ends that stands now.
async fn stand(
    pairs: &[Pair],
    segments: &HashMap<&str, (i64, Option<i64>)>,
    best: &Best<'_>,
    recorded: &mut [Recording],
    session: &mut SqliteConnection,
) -> Result<(), LedgerError> {
    let unchanged = |recording: &Recording| recording.outcome == Outcome::Unchanged;
    let keys: BTreeSet<(i64, &str)> = pairs
        .iter()
        .zip(recorded.iter())
        .filter(|(_, recording)| unchanged(recording))
        .filter_map(|(pair, _)| Some((segments.get(pair.segment.as_str())?.0, pair.user.as_str())))
        .filter(|key| best.contains_key(key))
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, String, i64)> = sqlx::query_as(STANDING).bind(json(&keys)?).fetch_all(session).await?;
    let ends: HashMap<(i64, UserId), i64> = rows
        .into_iter()
        .filter_map(|(segment, user, end)| Some(((segment, UserId::new(user).ok()?), end)))
        .collect();
    for (pair, recording) in pairs.iter().zip(recorded).filter(|(_, recording)| unchanged(recording)) {
        let Some(&(segment, _)) = segments.get(pair.segment.as_str()) else {
            continue;
        };
        if let Some(&end) = ends.get(&(segment, pair.user.clone())) {
            recording.expires_at = Some(timestamp(end)?);
        }
    }
    Ok(())
}
