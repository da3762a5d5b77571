//! A small deterministic ledger in memory: what the tests of the service hold it against.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use segment_counter::cache::{MemoryCache, SharedCache};
use segment_counter::counting::{Outcome, Pair, SegmentId, SegmentName, UserId};
use segment_counter::ledger::{
    ArchiveBatch, ArchiveCursor, Count, Job, JobId, JobReport, JobResult, JobState, Ledger, LedgerError, NewSegment,
    PutSegment, Recorded, Recording, Recount, SchemaState, SegmentInfo, SegmentPage, Settings, SharedLedger, Swept,
};
use segment_counter::service::{Metrics, Service, ServiceConfig};
use tokio::time::{Instant, sleep};

use crate::watched::Door;

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
    /// Behind the snapshot: a held statement answers with what was true when it was sent.
    pub count_door: Door,
    /// Behind the snapshot too.
    pub resolve_door: Door,
    pub record_delay: Mutex<Duration>,
    pub count_delay: Mutex<Duration>,
    pub failure: Mutex<Option<LedgerError>>,
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
            count_door: Door::open(),
            resolve_door: Door::open(),
            record_delay: Mutex::default(),
            count_delay: Mutex::default(),
            failure: Mutex::default(),
            panics: AtomicBool::new(false),
            recording: Mutex::default(),
            most_at_once: AtomicUsize::new(0),
            met: AtomicBool::new(false),
            to_archive: Mutex::default(),
            archive_delay: Mutex::default(),
            drift: Mutex::default(),
            recount_delay: Mutex::default(),
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
        let recordings = pairs.iter().map(|pair| {
            let next = SegmentId(i64::try_from(state.ids.len()).unwrap() + 1);
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
        });
        let pairs = recordings.collect();
        Recorded {
            at: self.instant(),
            pairs,
            changed: changed.into_iter().collect(),
        }
    }
}

#[async_trait]
impl Ledger for ModelLedger {
    fn kind(&self) -> &'static str {
        "model"
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn record(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        let segments: BTreeSet<SegmentName> = pairs.iter().map(|pair| pair.segment.clone()).collect();
        self.batches.lock().unwrap().push(pairs.to_vec());
        {
            let mut recording = self.recording.lock().unwrap();
            self.met.fetch_or(
                segments.iter().any(|segment| recording.contains(segment)),
                Ordering::SeqCst,
            );
            recording.extend(segments.iter().cloned());
        }
        let at_once = self.recording.lock().unwrap().len();
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let delay = *self.record_delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.record_door.pass().await;
        self.recording
            .lock()
            .unwrap()
            .retain(|segment| !segments.contains(segment));
        self.check()?;
        assert!(!self.panics.load(Ordering::SeqCst), "a defect");
        Ok(self.write(pairs))
    }

    async fn resolve(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        self.resolves.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        let ids = {
            let state = self.state.lock().unwrap();
            names.iter().map(|name| state.ids.get(name).copied()).collect()
        };
        self.resolve_door.pass().await;
        Ok(ids)
    }

    async fn count(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        self.statements.lock().unwrap().push(segments.to_vec());
        let as_of = self.instant();
        let counts = {
            let state = self.state.lock().unwrap();
            let members = |id| i64::try_from(state.members.get(id).map_or(0, BTreeSet::len)).unwrap();
            segments
                .iter()
                .map(|id| Count {
                    segment: *id,
                    members: members(id),
                    as_of,
                })
                .collect()
        };
        let delay = *self.count_delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.count_door.pass().await;
        self.check()?;
        Ok(counts)
    }

    async fn put_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        let mut state = self.state.lock().unwrap();
        let next = SegmentId(i64::try_from(state.ids.len()).unwrap() + 1);
        let created = !state.ids.contains_key(&segment.name);
        let id = *state.ids.entry(segment.name.clone()).or_insert(next);
        state.members.entry(id).or_default();
        let segment = SegmentInfo {
            id,
            name: segment.name.clone(),
            window: segment.window,
            description: None,
            created_at: self.instant(),
            members: 0,
        };
        Ok(PutSegment { created, segment })
    }

    async fn segment(&self, _: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError> {
        Ok(None)
    }

    async fn segments(&self, _: Option<&SegmentName>, _: u32) -> Result<SegmentPage, LedgerError> {
        Ok(SegmentPage {
            as_of: self.instant(),
            segments: Vec::new(),
            more: false,
        })
    }

    async fn migrate(&self) -> Result<SchemaState, LedgerError> {
        self.schema().await
    }

    async fn schema(&self) -> Result<SchemaState, LedgerError> {
        Ok(SchemaState {
            installed: Some(1),
            expected: 1,
        })
    }

    async fn check(&self) -> Result<(), LedgerError> {
        Self::check(self)
    }

    async fn archive_batch(&self, cursor: Option<ArchiveCursor>, _: u32) -> Result<ArchiveBatch, LedgerError> {
        let delay = *self.archive_delay.lock().unwrap();
        sleep(delay).await;
        Self::check(self)?;
        let position = cursor.map_or(0, |cursor| cursor.position);
        let batches = self.to_archive.lock().unwrap();
        let at = usize::try_from(position).unwrap();
        let next = (at + 1 < batches.len()).then_some(ArchiveCursor {
            lane: 0,
            position: position + 1,
        });
        Ok(ArchiveBatch {
            moved: batches.get(at).copied().unwrap_or(0),
            next,
        })
    }

    async fn sweep(&self, _: u32) -> Result<Swept, LedgerError> {
        Self::check(self)?;
        Ok(Swept {
            counters: 3,
            partitions: 1,
        })
    }

    async fn least_recently_recounted(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError> {
        Self::check(self)?;
        let state = self.state.lock().unwrap();
        let last = |id: &SegmentId| state.recounted.iter().rposition(|done| done == id);
        let mut ids: Vec<SegmentId> = state.members.keys().copied().collect();
        ids.sort_by_key(|id| (last(id), *id));
        ids.truncate(usize::try_from(limit).unwrap());
        Ok(ids)
    }

    async fn recount(&self, segment: SegmentId) -> Result<Recount, LedgerError> {
        let as_of = self.instant();
        let members = {
            let mut state = self.state.lock().unwrap();
            state.recounted.push(segment);
            i64::try_from(state.members[&segment].len()).unwrap()
        };
        let delay = *self.recount_delay.lock().unwrap();
        sleep(delay).await;
        Self::check(self)?;
        let drift = self.drift.lock().unwrap().get(&segment).copied().unwrap_or(0);
        Ok(Recount {
            segment,
            members,
            drift,
            as_of,
        })
    }

    async fn begin_job(&self, _: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError> {
        if exclusive && self.job_running.load(Ordering::SeqCst) {
            return Ok(None);
        }
        self.job_running.store(true, Ordering::SeqCst);
        Ok(Some(JobId(1)))
    }

    async fn job_progress(&self, _: JobId, _: &JobReport) -> Result<(), LedgerError> {
        self.heartbeats.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn end_job(&self, _: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError> {
        self.job_running.store(false, Ordering::SeqCst);
        self.job_ends.lock().unwrap().push((result, report.clone()));
        Ok(())
    }

    async fn job_state(&self, _: Job) -> Result<JobState, LedgerError> {
        Ok(JobState::default())
    }

    async fn now(&self) -> Result<Timestamp, LedgerError> {
        Ok(self.instant())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}
