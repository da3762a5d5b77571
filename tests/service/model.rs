//! A small deterministic ledger in memory: what the tests of the service hold it against.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use segment_counter::cache::{MemoryCache, SharedCache};
use segment_counter::counting::{Outcome, Pair, SegmentId, SegmentName, UserId};
use segment_counter::ledger::{JobReport, JobResult, LedgerError, Recorded, Recording, Settings, SharedLedger};
use segment_counter::service::{Metrics, Service, ServiceConfig};
use tokio::time::Instant;

use crate::watched::Door;

#[path = "model_ledger.rs"]
mod ledger;

pub fn name(text: &str) -> SegmentName {
    SegmentName::new(text).unwrap()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a number or a text reads better than a reference to one"
)]
pub fn pair(user: impl ToString, segment: &str) -> Pair {
    Pair {
        user: UserId::new(user.to_string()).unwrap(),
        segment: name(segment),
        observed_at: None,
        ttl: None,
    }
}

pub fn start(ledger: &Arc<ModelLedger>, cache: SharedCache, config: ServiceConfig) -> Arc<Service> {
    Service::start(
        Arc::clone(ledger) as SharedLedger,
        cache,
        Metrics::register(&mut Registry::default()),
        config,
    )
}

pub fn memory() -> SharedCache {
    Arc::new(MemoryCache::new(10_000, Duration::from_secs(900)))
}

#[derive(Default)]
struct State {
    ids: BTreeMap<SegmentName, SegmentId>,
    members: BTreeMap<SegmentId, BTreeSet<UserId>>,
    recounted: Vec<SegmentId>,
    /// The last number given.
    last: i64,
    epoch: i64,
}

impl State {
    /// A number that was never given.
    fn next(&mut self) -> SegmentId {
        self.last += 1;
        SegmentId(self.last)
    }
}

/// A ledger without expiry: users come and stay.
pub struct ModelLedger {
    settings: Settings,
    born: Instant,
    state: Mutex<State>,
    /// What each call of `record` held.
    pub batches: Mutex<Vec<Vec<Pair>>>,
    /// What each call of `count` asked.
    pub statements: Mutex<Vec<Vec<SegmentId>>>,
    pub resolves: AtomicUsize,
    pub record_door: Door,
    /// Behind the commit: what was recorded is held back.
    pub answer_door: Door,
    /// Behind the snapshot: a held statement answers with what was true when it was sent.
    pub count_door: Door,
    /// Behind the snapshot too.
    pub resolve_door: Door,
    pub record_delay: Mutex<Duration>,
    pub count_delay: Mutex<Duration>,
    pub failure: Mutex<Option<LedgerError>>,
    /// Removals: how long each takes, and the most of them at once.
    pub remove_delay: Mutex<Duration>,
    pub removing: AtomicUsize,
    pub most_removing: AtomicUsize,
    /// Segments whose counts alone fail: they live in a lane of their own.
    pub apart: Mutex<Vec<SegmentId>>,
    /// How long that takes.
    pub apart_delay: Mutex<Duration>,
    pub panics: AtomicBool,
    recording: Mutex<Vec<SegmentName>>,
    /// The most calls of `record` at once, and whether two of them held the same segment.
    pub most_at_once: AtomicUsize,
    pub met: AtomicBool,
    /// What archive batches move; then the pass is over.
    pub to_archive: Mutex<Vec<i64>>,
    pub archive_delay: Mutex<Duration>,
    pub drift: Mutex<BTreeMap<SegmentId, i64>>,
    pub recount_delay: Mutex<Duration>,
    pub typical_members: Mutex<Option<u64>>,
    /// How many segments each call of `recount` held.
    pub recounts: Mutex<Vec<usize>>,
    pub job_running: AtomicBool,
    pub job_ends: Mutex<Vec<(JobResult, JobReport)>>,
    pub heartbeats: AtomicUsize,
    pub closed: AtomicBool,
}

impl ModelLedger {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            settings: Settings::default(),
            born: Instant::now(),
            state: Mutex::default(),
            batches: Mutex::default(),
            statements: Mutex::default(),
            resolves: AtomicUsize::new(0),
            record_door: Door::open(),
            answer_door: Door::open(),
            count_door: Door::open(),
            resolve_door: Door::open(),
            record_delay: Mutex::default(),
            count_delay: Mutex::default(),
            failure: Mutex::default(),
            remove_delay: Mutex::default(),
            removing: AtomicUsize::new(0),
            most_removing: AtomicUsize::new(0),
            apart: Mutex::default(),
            apart_delay: Mutex::default(),
            panics: AtomicBool::new(false),
            recording: Mutex::default(),
            most_at_once: AtomicUsize::new(0),
            met: AtomicBool::new(false),
            to_archive: Mutex::default(),
            archive_delay: Mutex::default(),
            drift: Mutex::default(),
            recount_delay: Mutex::default(),
            typical_members: Mutex::default(),
            recounts: Mutex::default(),
            job_running: AtomicBool::new(false),
            job_ends: Mutex::default(),
            heartbeats: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Its clock: the paused one, in microseconds, from an epoch of its own.
    pub fn instant(&self) -> Timestamp {
        Timestamp::from_microsecond(i64::try_from(self.born.elapsed().as_micros()).unwrap()).unwrap()
    }

    pub fn fail(&self, error: Option<LedgerError>) {
        *self.failure.lock().unwrap() = error;
    }

    /// The segments that were recounted, one after another.
    pub fn recounted(&self) -> Vec<SegmentId> {
        self.state.lock().unwrap().recounted.clone()
    }

    pub fn statements(&self) -> usize {
        self.statements.lock().unwrap().len()
    }

    pub fn members(&self, segment: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.ids.get(&name(segment)).map_or(0, |id| state.members[id].len())
    }

    /// Writes as another process would: this one is not told.
    pub async fn written_elsewhere(&self, user: impl ToString, segment: &str) {
        self.write(&[pair(user, segment)]);
    }

    pub fn id(&self, segment: &str) -> SegmentId {
        self.state.lock().unwrap().ids[&name(segment)]
    }

    fn check(&self) -> Result<(), LedgerError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn write(&self, pairs: &[Pair]) -> Recorded {
        let mut state = self.state.lock().unwrap();
        let mut changed = BTreeSet::new();
        let record = |pair: &Pair| {
            let next = state.next();
            let id = *state.ids.entry(pair.segment.clone()).or_insert(next);
            let created = state.members.entry(id).or_default().insert(pair.user.clone());
            if created {
                changed.insert(id);
            }
            let outcome = if created { Outcome::Created } else { Outcome::Unchanged };
            // The user's name comes back as the end, so that a test sees whose answer it got.
            let expires_at = pair
                .user
                .as_str()
                .parse()
                .ok()
                .map(|second| Timestamp::from_second(second).unwrap());
            Recording { outcome, expires_at }
        };
        let windows = vec![None; pairs.len()];
        let pairs = pairs.iter().map(record).collect();
        Recorded {
            at: self.instant(),
            pairs,
            changed: changed.into_iter().collect(),
            epoch: state.epoch,
            windows,
        }
    }
}
