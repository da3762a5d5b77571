//! The read path: this process' entries, then the cache, then the ledger; exact, and no older than was asked for.
//!
//! No two machines' clocks are compared: every age is counted by this process' monotonic clock from an instant *before* the request that
//! brought the value, plus what the cache measured by its own clock. Losing the cache changes no answer.

mod flight;
mod local;
mod reads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache as Bounded;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cache::SharedCache;
use crate::counting::{SegmentId, SegmentName};
use crate::ledger::{Count, SharedLedger};

use super::gather::{Gather, Join, Landed, PATIENCE, was_never_sent};
use super::metrics::{Level, Metrics};
use super::{ServiceConfig, ServiceError};

use flight::Landing;
pub(crate) use local::{Entry, Local};

/// How long the reader that refreshes a value waits for it before it takes the unfresh one, which is inside the bound too.
const REFRESH_PATIENCE: Duration = Duration::from_millis(20);
/// After the ledger failed: for so long the last values are served without asking it again.
const LEDGER_PAUSE: Duration = Duration::from_millis(500);

/// A count, exact at `as_of`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountAnswer {
    /// The segment.
    pub segment: SegmentName,
    /// How many users were in it at `as_of`.
    pub count: i64,
    /// The instant at which the count was exact, by the database's clock.
    pub as_of: Timestamp,
    /// An upper bound of the age of the answer.
    pub staleness: Duration,
    /// True while the answer is as fresh as was asked for; false for the last value, served because the ledger is away.
    pub exact: bool,
}

/// What was found for a segment.
#[derive(Debug, Clone, Copy)]
struct Found {
    entry: Entry,
    level: Level,
}

pub(crate) struct Counter {
    local: Local,
    names: Bounded<SegmentName, SegmentId>,
    flights: Mutex<HashMap<SegmentId, Vec<oneshot::Sender<Landing>>>>,
    counts: Gather<SegmentId, Count>,
    resolves: Gather<SegmentName, Option<SegmentId>>,
    cache: SharedCache,
    metrics: Arc<Metrics>,
    serve_stale: Option<Duration>,
    cache_required: bool,
    ledger: SharedLedger,
    /// By lane, since each may live on a machine of its own.
    ledger_failed: Mutex<HashMap<usize, Instant>>,
}

impl Counter {
    pub(crate) fn new(
        ledger: &SharedLedger,
        cache: SharedCache,
        metrics: Arc<Metrics>,
        config: &ServiceConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            local: Local::new(config.local_entries),
            names: Bounded::new(config.local_entries.max(1)),
            flights: Mutex::default(),
            counts: reads::counts(Arc::clone(ledger), Arc::clone(&metrics), config),
            resolves: reads::names(Arc::clone(ledger), Arc::clone(&metrics), config),
            cache,
            metrics,
            serve_stale: config.serve_stale,
            cache_required: config.cache_required,
            ledger: Arc::clone(ledger),
            ledger_failed: Mutex::default(),
        })
    }

    /// The counts of segments, in the order of `names`; `None` where there is no such segment.
    pub(crate) async fn counts(
        self: &Arc<Self>,
        names: &[SegmentName],
        bound: Duration,
    ) -> Result<Vec<Option<CountAnswer>>, ServiceError> {
        let (answers, all_there) = self.counts_of(names, bound).await?;
        if all_there {
            return Ok(answers);
        }
        // Some were deleted since their numbers were learnt, and perhaps created anew under others. All are looked at again: the others' answers have aged.
        Ok(self.counts_of(names, bound).await?.0)
    }

    /// The same, and whether none of them is gone; the numbers of those are forgotten.
    async fn counts_of(
        self: &Arc<Self>,
        names: &[SegmentName],
        bound: Duration,
    ) -> Result<(Vec<Option<CountAnswer>>, bool), ServiceError> {
        let ids = self.resolve(names).await?;
        let known: Vec<SegmentId> = ids.iter().flatten().copied().collect();
        let mut found = self.find(&known, bound).await.into_iter();
        let mut answers = Vec::with_capacity(names.len());
        let mut all_there = true;
        for (name, id) in names.iter().zip(&ids) {
            answers.push(match id.and_then(|_| found.next()).transpose()? {
                Some(found) if found.entry.gone => {
                    self.forget(name);
                    all_there = false;
                    None
                }
                Some(found) => Some(self.answer(name.clone(), found, Instant::now())),
                None => None,
            });
        }
        Ok((answers, all_there))
    }

    /// Forgets the number of a segment that was deleted.
    pub(crate) fn forget(&self, name: &SegmentName) {
        self.names.remove(name);
    }

    /// The count of one segment; `None` where there is no such segment.
    pub(crate) async fn count(
        self: &Arc<Self>,
        name: &SegmentName,
        bound: Duration,
    ) -> Result<Option<CountAnswer>, ServiceError> {
        if let Some(answer) = self.remembered(name, bound, Instant::now()) {
            return Ok(Some(answer));
        }
        Ok(self.counts(std::slice::from_ref(name), bound).await?.pop().flatten())
    }

    /// The hot path: two look-ups in memory. Never for a strict read, however short ago the entry came. The age of the answer is that at `now`,
    /// when it was asked for.
    pub(crate) fn remembered(&self, name: &SegmentName, bound: Duration, now: Instant) -> Option<CountAnswer> {
        if bound.is_zero() {
            return None;
        }
        let found = self.hit(self.names.get(name)?, bound, now)?;
        found.entry.fresh.then(|| self.answer(name.clone(), found, now))
    }

    /// Notes that segments changed before `at`: what is remembered of them is refreshed at the next read.
    pub(crate) fn mark(&self, segments: &[SegmentId], at: Instant) {
        self.local.mark(segments, at);
    }

    /// Whether the last values may answer in the ledger's place for now.
    pub(crate) fn could_answer_alone(&self) -> bool {
        self.serve_stale.is_some() && !self.local.is_empty()
    }

    /// Numbers are remembered: a segment that was deleted is told by its count. That a name has none is not remembered.
    async fn resolve(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, ServiceError> {
        let mut ids: Vec<Option<SegmentId>> = names.iter().map(|name| self.names.get(name)).collect();
        let unknown: Vec<usize> = (0..names.len()).filter(|index| ids[*index].is_none()).collect();
        // Not a look-up that is under way: it may have missed a segment that the caller saw created.
        let asked = unknown.iter().map(|index| (names[*index].clone(), Join::Unsent));
        let landed = if unknown.is_empty() {
            Vec::new()
        } else {
            self.resolves.get_many(asked, PATIENCE).await
        };
        for (index, landed) in unknown.into_iter().zip(landed) {
            ids[index] = landed?.value;
            if let Some(id) = ids[index] {
                self.names.insert(names[index].clone(), id);
            }
        }
        Ok(ids)
    }

    async fn find(self: &Arc<Self>, ids: &[SegmentId], bound: Duration) -> Vec<Result<Found, ServiceError>> {
        let arrived = Instant::now();
        if bound.is_zero() {
            return self
                .strict(ids, PATIENCE)
                .await
                .into_iter()
                .map(|landing| landing.result)
                .collect();
        }
        let mut landings = self.relaxed(ids, bound).await;
        // What a flight with a wider bound brought may be too old for this reader, or grow so while others land; a statement sent after it arrived never is. With one
        // that is too old those are read again that would be so by then; what has all the same become so meanwhile, once more.
        for last in [false, true] {
            let (now, spent) = (Instant::now(), arrived.elapsed());
            let age = |landing: &Landing| {
                let found = landing.result.as_ref().ok()?;
                let from_before = found.level != Level::Stale && found.entry.since < arrived;
                from_before.then(|| found.entry.age_at(now))
            };
            if !landings.iter().filter_map(age).any(|age| age > bound) {
                break;
            }
            let margin = if last { Duration::ZERO } else { 2 * spent };
            let too_old = |index: &usize| age(&landings[*index]).is_some_and(|age| age + margin > bound);
            let places: Vec<usize> = (0..ids.len()).filter(too_old).collect();
            let again: Vec<SegmentId> = places.iter().map(|index| ids[*index]).collect();
            let patience = self.serve_stale.map_or(PATIENCE, |_| flight::LEDGER_PATIENCE);
            for (index, landing) in places.into_iter().zip(self.strict(&again, patience).await) {
                let before = landings[index]
                    .result
                    .as_ref()
                    .is_ok_and(|found| found.entry.age() <= bound);
                if landing.result.is_ok() || !before {
                    landings[index] = landing;
                }
            }
        }
        landings
            .into_iter()
            .map(|landing| landing.or_stale(self.serve_stale))
            .collect()
    }

    /// From the ledger, by statements that are sent after this call.
    async fn strict(&self, ids: &[SegmentId], patience: Duration) -> Vec<Landing> {
        let keys = ids.iter().map(|id| (*id, Join::Unsent));
        let landed = self.counts.get_many(keys, patience).await;
        ids.iter()
            .zip(landed)
            .map(|(id, landed)| self.landing(*id, landed, None))
            .collect()
    }

    /// From wherever the bound allows; one reader of a segment leads, the others follow.
    async fn relaxed(self: &Arc<Self>, ids: &[SegmentId], bound: Duration) -> Vec<Landing> {
        let mut places = Vec::with_capacity(ids.len());
        let mut leads = Vec::new();
        {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                let hit = self.hit(*id, bound, Instant::now());
                if let Some(found) = hit.filter(|found| found.entry.fresh) {
                    places.push(Place::Here(Landing::of(found)));
                    continue;
                }
                let (sender, receiver) = oneshot::channel();
                match (flights.get_mut(id), hit) {
                    (Some(_), Some(found)) => places.push(Place::Here(Landing::of(found))),
                    (Some(readers), None) => {
                        readers.push(sender);
                        places.push(Place::Joined(receiver, None));
                    }
                    (None, hit) => {
                        flights.insert(*id, vec![sender]);
                        leads.push(*id);
                        places.push(Place::Joined(receiver, hit));
                    }
                }
            }
        }
        if !leads.is_empty() {
            // A task of its own: the flight must land for all its readers even if the first of them goes away.
            tokio::spawn(flight::fly(Arc::clone(self), leads, bound));
        }
        let mut landings = Vec::with_capacity(places.len());
        for place in places {
            landings.push(place.arrive(bound).await);
        }
        landings
    }

    /// What is remembered and inside the bound, fresh or not.
    fn hit(&self, id: SegmentId, bound: Duration, now: Instant) -> Option<Found> {
        let entry = self.local.get(id)?;
        (entry.age_at(now) <= bound).then_some(Found {
            entry,
            level: Level::Local,
        })
    }

    /// What the ledger answered, remembered; where it did not, the last value beside the error.
    fn landing(&self, id: SegmentId, landed: Result<Landed<Count>, ServiceError>, cached: Option<Entry>) -> Landing {
        match landed {
            Ok(Landed { value, sent }) => {
                self.note_ledger(id, None);
                let entry = Entry {
                    members: value.members,
                    as_of: value.as_of,
                    since: sent,
                    fresh: true,
                    gone: !value.exists,
                };
                self.local.keep(id, entry);
                Landing::of(Found {
                    entry,
                    level: Level::Ledger,
                })
            }
            Err(error) => {
                if matches!(error, ServiceError::Ledger(_)) && !was_never_sent(&error) {
                    self.note_ledger(id, Some(Instant::now()));
                }
                Landing {
                    result: Err(error),
                    stale: self.last_value(id, cached),
                }
            }
        }
    }

    fn last_value(&self, id: SegmentId, cached: Option<Entry>) -> Option<Entry> {
        self.local
            .get(id)
            .into_iter()
            .chain(cached)
            .max_by_key(|entry| entry.since)
    }

    fn note_ledger(&self, segment: SegmentId, failed: Option<Instant>) {
        let lane = self.ledger.lane_of_id(segment);
        let mut lanes = self.ledger_failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Some(at) => drop(lanes.insert(lane, at)),
            None => drop(lanes.remove(&lane)),
        }
    }

    /// Whether the segment's part of the ledger failed so lately that asking again would only make readers wait.
    fn ledger_pauses(&self, segment: SegmentId) -> bool {
        let lanes = self.ledger_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.is_empty() {
            return false;
        }
        let failed = lanes.get(&self.ledger.lane_of_id(segment));
        failed.is_some_and(|at| at.elapsed() < LEDGER_PAUSE)
    }

    fn answer(&self, segment: SegmentName, found: Found, now: Instant) -> CountAnswer {
        let staleness = found.entry.age_at(now);
        self.metrics.count(found.level, staleness);
        CountAnswer {
            segment,
            count: found.entry.members,
            as_of: found.entry.as_of,
            staleness,
            exact: found.level != Level::Stale,
        }
    }
}

/// Where a reader's answer comes from.
enum Place {
    Here(Landing),
    /// A flight, and what may be served if it takes too long.
    Joined(oneshot::Receiver<Landing>, Option<Found>),
}

impl Place {
    async fn arrive(self, bound: Duration) -> Landing {
        match self {
            Self::Here(landing) => landing,
            Self::Joined(flight, None) => flight.await.unwrap_or_else(|_| Landing::lost()),
            Self::Joined(mut flight, Some(unfresh)) => {
                let patience = REFRESH_PATIENCE.min(bound.saturating_sub(unfresh.entry.age()));
                match tokio::time::timeout(patience, &mut flight).await {
                    Ok(Ok(landing)) if landing.result.is_ok() => landing,
                    _ if unfresh.entry.age() <= bound => Landing::of(unfresh),
                    Ok(landing) => landing.unwrap_or_else(|_| Landing::lost()),
                    Err(_) => flight.await.unwrap_or_else(|_| Landing::lost()),
                }
            }
        }
    }
}
