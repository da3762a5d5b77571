//! One flight: segments that nobody else is reading, through the cache and, where that does not help, the ledger.
//!
//! The order matters: the claim in the cache is had *before* the ledger's statement is sent, so that a slow reader's value, or one that a
//! writer has overtaken, is not stored.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::cache::{CacheError, Cached, Claim, Lookup};
use crate::counting::SegmentId;
use crate::ledger::{Count, LedgerError};

use super::super::ServiceError;
use super::super::gather::{Join, Landed, PATIENCE};
use super::super::metrics::Level;
use super::{Counter, Entry, Found};

/// How long a ledger that hangs is waited for where the last value may be served.
pub(super) const LEDGER_PATIENCE: Duration = Duration::from_secs(1);

/// While another replica holds the claim it reads the very value that is wanted here: the pauses before each further look for it. Then the
/// ledger is asked all the same, since that replica may have died.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
];

/// How an answer came about.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) result: Result<Found, ServiceError>,
    /// Beside an error of the ledger: the last value, of any age.
    pub(super) stale: Option<Entry>,
}

impl Landing {
    pub(super) fn of(found: Found) -> Self {
        Self {
            result: Ok(found),
            stale: None,
        }
    }

    /// The cache did not answer, and nothing may answer in its place.
    fn refused(error: CacheError) -> Self {
        Self {
            result: Err(error.into()),
            stale: None,
        }
    }

    /// The flight broke off; a defect.
    pub(super) fn lost() -> Self {
        let error = LedgerError::Internal("a count's flight ended without an answer".to_owned());
        Self {
            result: Err(error.into()),
            stale: None,
        }
    }

    /// The answer, or while the ledger is away the last value, if it is not older than `limit`.
    pub(super) fn or_stale(self, limit: Option<Duration>) -> Result<Found, ServiceError> {
        match (self.result, self.stale, limit) {
            (Err(ServiceError::Ledger(_)), Some(entry), Some(limit)) if entry.age() <= limit => Ok(Found {
                entry,
                level: Level::Stale,
            }),
            (result, _, _) => result,
        }
    }
}

/// A segment that the cache alone could not answer.
struct Wanted {
    segment: SegmentId,
    claim: Option<Claim>,
    cached: Option<Entry>,
    /// Whether another replica's claim stands.
    elsewhere: bool,
}

/// Reads `segments` and lands each.
pub(super) async fn fly(counter: Arc<Counter>, segments: Vec<SegmentId>, bound: Duration) {
    let runway = Runway {
        counter: &counter,
        open: Mutex::new(segments.iter().copied().collect()),
    };
    let wanted = look(&counter, &runway, segments, bound).await;
    let wanted = skip_while_ledger_pauses(&counter, &runway, wanted);
    // What is claimed here is what other replicas wait for: it waits for nothing itself.
    let (elsewhere, here): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|wanted| wanted.elsewhere);
    tokio::join!(
        land_from_ledger(&counter, &runway, here),
        land_from_elsewhere(&counter, &runway, elsewhere, bound)
    );
}

/// Asks the cache; what it can answer lands.
async fn look(counter: &Counter, runway: &Runway<'_>, segments: Vec<SegmentId>, bound: Duration) -> Vec<Wanted> {
    let asked = Instant::now();
    let lookups = join_all(segments.iter().map(|segment| counter.cache.read(*segment, bound))).await;
    let mut wanted = Vec::new();
    for (segment, lookup) in segments.into_iter().zip(lookups) {
        match sort(counter, segment, lookup, asked, bound) {
            Sorted::Answered(entry) => {
                counter.local.keep(segment, entry);
                runway.land(
                    segment,
                    &Landing::of(Found {
                        entry,
                        level: Level::Cache,
                    }),
                );
            }
            Sorted::Wanted(segment) => wanted.push(segment),
            Sorted::Refused(error) => runway.land(segment, &Landing::refused(error)),
        }
    }
    wanted
}

/// Looks a few times for what another replica is reading; what does not come, or may be claimed here meanwhile, the ledger is asked for.
async fn land_from_elsewhere(counter: &Counter, runway: &Runway<'_>, mut elsewhere: Vec<Wanted>, bound: Duration) {
    let mut here = Vec::new();
    for pause in PAUSES {
        if elsewhere.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        let segments = elsewhere.iter().map(|wanted| wanted.segment).collect();
        let (still, claimed): (Vec<_>, Vec<_>) = look(counter, runway, segments, bound)
            .await
            .into_iter()
            .partition(|wanted| wanted.elsewhere);
        elsewhere = still;
        here.extend(claimed);
        if !here.is_empty() {
            break;
        }
    }
    here.append(&mut elsewhere);
    land_from_ledger(counter, runway, here).await;
}

/// Asks the ledger, and stores what was claimed.
async fn land_from_ledger(counter: &Counter, runway: &Runway<'_>, wanted: Vec<Wanted>) {
    let landed = ask_ledger(counter, &wanted).await;
    let mut stores = Vec::new();
    for (wanted, landed) in wanted.into_iter().zip(landed) {
        let landing = counter.landing(wanted.segment, landed, wanted.cached);
        runway.land(wanted.segment, &landing);
        if let (Ok(found), Some(claim)) = (&landing.result, wanted.claim)
            && !found.entry.gone
        {
            stores.push((claim, found.entry));
        }
    }
    // Nobody waits for this.
    let store = |(claim, entry): (Claim, Entry)| {
        let cache = &counter.cache;
        async move { cache.store(&claim, entry.members, entry.as_of).await }
    };
    for stored in join_all(stores.into_iter().map(store)).await {
        if let Err(error) = stored {
            counter.metrics.cache_error("store");
            tracing::debug!(%error, "a count was not cached");
        }
    }
}

enum Sorted {
    Answered(Entry),
    Wanted(Wanted),
    Refused(CacheError),
}

fn sort(
    counter: &Counter,
    segment: SegmentId,
    lookup: Result<Lookup, CacheError>,
    asked: Instant,
    bound: Duration,
) -> Sorted {
    let answered = lookup.is_ok();
    let Lookup { value, claim } = match lookup {
        Ok(lookup) => lookup,
        Err(error) => {
            counter.metrics.cache_error("read");
            if counter.cache_required {
                return Sorted::Refused(error);
            }
            tracing::debug!(%error, "the cache did not answer; the ledger will");
            Lookup {
                value: None,
                claim: None,
            }
        }
    };
    let cached = value.and_then(|value| entry(value, asked));
    match cached {
        Some(entry) if claim.is_none() && entry.age() <= bound => Sorted::Answered(entry),
        cached => Sorted::Wanted(Wanted {
            segment,
            elsewhere: answered && claim.is_none(),
            claim,
            cached,
        }),
    }
}

/// The age is counted from before the cache was asked; `None` where it reaches further back than this machine's clock.
fn entry(value: Cached, asked: Instant) -> Option<Entry> {
    let since = asked.checked_sub(value.age)?;
    Some(Entry {
        members: value.members,
        as_of: value.as_of,
        since,
        fresh: value.fresh,
        gone: false,
    })
}

/// Right after the ledger failed, segments whose last value may be served are served so, rather than have each reader wait for a time-out.
fn skip_while_ledger_pauses(counter: &Counter, runway: &Runway<'_>, wanted: Vec<Wanted>) -> Vec<Wanted> {
    let Some(limit) = counter.serve_stale else {
        return wanted;
    };
    let mut rest = Vec::new();
    for wanted in wanted {
        if !counter.ledger_pauses(wanted.segment) {
            rest.push(wanted);
            continue;
        }
        match counter.last_value(wanted.segment, wanted.cached) {
            Some(entry) if entry.age() <= limit => {
                runway.land(
                    wanted.segment,
                    &Landing::of(Found {
                        entry,
                        level: Level::Stale,
                    }),
                );
            }
            _ => rest.push(wanted),
        }
    }
    rest
}

async fn ask_ledger(counter: &Counter, wanted: &[Wanted]) -> Vec<Result<Landed<Count>, ServiceError>> {
    if wanted.is_empty() {
        return Vec::new();
    }
    // A claimed value must come from a statement sent after the claim; without one any statement under way will do.
    let join = |wanted: &Wanted| {
        if wanted.claim.is_some() {
            Join::Unsent
        } else {
            Join::Any
        }
    };
    let has_last_value = |wanted: &Wanted| {
        let last = counter.last_value(wanted.segment, wanted.cached);
        last.is_some_and(|entry| counter.serve_stale.is_some_and(|limit| entry.age() <= limit))
    };
    let patience = if wanted.iter().all(has_last_value) {
        LEDGER_PATIENCE
    } else {
        PATIENCE
    };
    let keys = wanted.iter().map(|wanted| (wanted.segment, join(wanted)));
    counter.counts.get_many(keys, patience).await
}

/// The segments of a flight that have not landed. Whatever ends the flight opens them for the next: none may stay closed for ever.
struct Runway<'a> {
    counter: &'a Counter,
    open: Mutex<BTreeSet<SegmentId>>,
}

impl Runway<'_> {
    fn land(&self, segment: SegmentId, landing: &Landing) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&segment);
        let mut flights = self.counter.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = flights.remove(&segment).unwrap_or_default();
        drop(flights);
        for reader in readers {
            // Who does not wait any longer does not need the answer.
            let _ = reader.send(landing.clone());
        }
    }
}

impl Drop for Runway<'_> {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        if open.is_empty() {
            return;
        }
        let mut flights = self.counter.flights.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in open.iter() {
            flights.remove(segment);
        }
    }
}
