//! Records a batch: one transaction, a handful of statements whatever the size of the batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::SqliteConnection;

use super::counters::move_counters;
use super::{SqliteLedger, json, timestamp};
use crate::counting::{Outcome, Pair, Refusal, SegmentId, Window, expires_at, is_too_far_ahead};
use crate::ledger::{LedgerError, Recorded, Recording};

/// A (segment, user).
type Key<'a> = (i64, &'a str);

/// What stands of a (segment, user): when the membership ends, and when it was last removed.
type Standing<'a> = HashMap<Key<'a>, (i64, Option<i64>)>;

/// The membership that a batch offers: the later of all that its pairs of one (segment, user) would make, and which pair makes it.
type Best<'a> = BTreeMap<Key<'a>, (i64, usize)>;

/// `?1` a JSON list of [segment, user].
const STANDING: &str = "
SELECT m.segment_id, m.user_id, m.expires_at, m.removed_at
  FROM json_each(?1) e JOIN membership m ON m.segment_id = e.value ->> 0 AND m.user_id = e.value ->> 1";

/// `?1` a JSON list of [segment, user, end].
const UPSERT: &str = "
INSERT INTO membership (segment_id, user_id, expires_at)
SELECT e.value ->> 0, e.value ->> 1, e.value ->> 2 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id, user_id) DO UPDATE SET prev_expires_at = membership.expires_at, expires_at = excluded.expires_at";

/// A pair by the rules, before it is weighed against what stands.
enum Offer<'a> {
    Judged(Recording),
    Valid {
        key: Key<'a>,
        observed: Option<i64>,
        end: i64,
    },
}

impl SqliteLedger {
    pub(super) async fn record_batch(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        self.settings.admit(pairs.len())?;
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = self.instant(&mut transaction).await?;
        let segments = self.segments_of(pairs, now, &mut transaction).await?;
        let erased = self.erased(pairs, now, &mut transaction).await?;

        let mut offers = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let offer = self.judge(pair, &segments, now)?;
            offers.push(match offer {
                Offer::Valid { observed, .. }
                    if erased
                        .get(pair.user.as_str())
                        .is_some_and(|at| observed.is_some_and(|o| o <= *at)) =>
                {
                    Offer::Judged(ignored(Outcome::Erased))
                }
                offer => offer,
            });
        }
        let standing = standing(&offers, &mut transaction).await?;
        for offer in &mut offers {
            if let Offer::Valid { key, observed, .. } = offer
                // A pair without an instant is observed now, so after every removal that stands there.
                && standing.get(key).is_some_and(|(_, removed)| observed.is_some_and(|o| removed.is_some_and(|r| o <= r)))
            {
                *offer = Offer::Judged(ignored(Outcome::Removed));
            }
        }
        let best = best(&offers);
        let (recorded, created) = outcomes(&offers, &best, &standing, now)?;
        self.write(&best, &standing, now, &mut transaction).await?;
        let epoch = sqlx::query_scalar("SELECT epoch FROM removal_epoch")
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let own = |pair: &Pair| segments.get(pair.segment.as_str())?.1;
        Ok(Recorded {
            windows: pairs
                .iter()
                .map(|pair| own(pair).and_then(|seconds| Window::from_seconds(seconds).ok()))
                .collect(),
            at: timestamp(now)?,
            epoch,
            pairs: recorded,
            changed: created,
        })
    }

    /// Judges one pair by what it says itself.
    fn judge<'a>(
        &self,
        pair: &'a Pair,
        segments: &HashMap<&str, (i64, Option<i64>)>,
        now: i64,
    ) -> Result<Offer<'a>, LedgerError> {
        let observed = pair.observed_micros();
        if is_too_far_ahead(observed.unwrap_or(now), now) {
            return Ok(Offer::Judged(ignored(Outcome::Refused(Refusal::ObservedInFuture))));
        }
        let Some(&(segment, own)) = segments.get(pair.segment.as_str()) else {
            return Ok(Offer::Judged(ignored(Outcome::Refused(Refusal::SegmentLimit))));
        };
        let own = own
            .map(Window::from_seconds)
            .transpose()
            .map_err(|error| LedgerError::Internal(error.to_string()))?;
        let rules = &self.settings.rules;
        let end = expires_at(
            observed.unwrap_or(now),
            rules.effective(pair.ttl, own),
            rules.resolution(),
        );
        if end <= now {
            return Ok(Offer::Judged(Recording {
                outcome: Outcome::Expired,
                expires_at: Some(timestamp(end)?),
            }));
        }
        Ok(Offer::Valid {
            key: (segment, pair.user.as_str()),
            observed,
            end,
        })
    }

    /// Writes what moves, and its counters.
    async fn write(
        &self,
        best: &Best<'_>,
        standing: &Standing<'_>,
        now: i64,
        session: &mut SqliteConnection,
    ) -> Result<(), LedgerError> {
        // A bucket that ended before now - settle / 2 is left alone: the sweep may have cleared it.
        let kept_from = now - self.settle_micros() / 2;
        let mut rows = Vec::new();
        let mut buckets: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for (key, &(end, _)) in best {
            let previous = standing.get(key).map(|(end, _)| *end);
            if previous.is_some_and(|previous| previous >= end) {
                continue;
            }
            rows.push((key.0, key.1, end));
            *buckets.entry((key.0, end)).or_default() += 1;
            if let Some(previous) = previous.filter(|&previous| previous > kept_from) {
                *buckets.entry((key.0, previous)).or_default() -= 1;
            }
        }
        if !rows.is_empty() {
            sqlx::query(UPSERT).bind(json(&rows)?).execute(&mut *session).await?;
        }
        move_counters(&buckets, session).await
    }
}

/// What is not written and ends nowhere.
fn ignored(outcome: Outcome) -> Recording {
    Recording {
        outcome,
        expires_at: None,
    }
}

async fn standing<'a>(offers: &[Offer<'a>], session: &mut SqliteConnection) -> Result<Standing<'a>, LedgerError> {
    let keys: BTreeSet<Key<'a>> = offers
        .iter()
        .filter_map(|offer| match offer {
            Offer::Valid { key, .. } => Some(*key),
            Offer::Judged(_) => None,
        })
        .collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(i64, String, i64, Option<i64>)> =
        sqlx::query_as(STANDING).bind(json(&keys)?).fetch_all(session).await?;
    let mut found: HashMap<i64, HashMap<String, (i64, Option<i64>)>> = HashMap::new();
    for (segment, user, end, removed) in rows {
        found.entry(segment).or_default().insert(user, (end, removed));
    }
    // Keyed as the batch is: by what it borrows, not by the rows.
    Ok(keys
        .into_iter()
        .filter_map(|(segment, user)| Some(((segment, user), *found.get(&segment)?.get(user)?)))
        .collect())
}

fn best<'a>(offers: &[Offer<'a>]) -> Best<'a> {
    let mut best: Best<'a> = BTreeMap::new();
    for (index, offer) in offers.iter().enumerate() {
        if let Offer::Valid { key, end, .. } = offer {
            let entry = best.entry(*key).or_insert((*end, index));
            if *end > entry.0 {
                *entry = (*end, index);
            }
        }
    }
    best
}

/// What became of each pair, and the segments whose count that changes.
fn outcomes(
    offers: &[Offer<'_>],
    best: &Best<'_>,
    standing: &Standing<'_>,
    now: i64,
) -> Result<(Vec<Recording>, Vec<SegmentId>), LedgerError> {
    let mut created = BTreeSet::new();
    let mut recorded = Vec::with_capacity(offers.len());
    for (index, offer) in offers.iter().enumerate() {
        recorded.push(match offer {
            Offer::Judged(recording) => *recording,
            Offer::Valid { key, .. } => {
                let (end, chosen) = best[key];
                let previous = standing.get(key).map(|(end, _)| *end);
                let outcome = match previous {
                    Some(previous) if previous >= end => Outcome::Unchanged,
                    _ if chosen != index => Outcome::Unchanged,
                    Some(previous) if previous > now => Outcome::Renewed,
                    _ => Outcome::Created,
                };
                if outcome == Outcome::Created {
                    created.insert(SegmentId(key.0));
                }
                Recording {
                    outcome,
                    expires_at: Some(timestamp(previous.map_or(end, |previous| previous.max(end)))?),
                }
            }
        });
    }
    Ok((recorded, created.into_iter().collect()))
}
