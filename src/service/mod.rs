//! Ledger and cache made one: recorder (group commit), counter (read path), maintenance (archive, refresh).
//!
//! Knows [`crate::ledger`], [`crate::cache`] and [`crate::counting`]; knows nothing of HTTP. Durations come from the monotonic clock,
//! instants from the database: the machine's own clock is never read.

mod config;
mod counter;
mod error;
mod gather;
mod held;
mod invalidator;
mod maintenance;
mod metrics;
mod pace;
mod readiness;
mod recorder;
mod removals;
mod repeats;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{CacheError, NodeHealth, SharedCache};
use crate::counting::{Pair, Removal, SegmentName, UserId};
use crate::ledger::{
    Erasure, Job, JobReport, JobState, LedgerError, NewSegment, PutSegment, Recording, RemovalOutcome, SegmentPage,
    SharedLedger,
};

pub use config::ServiceConfig;
pub use counter::CountAnswer;
pub use error::ServiceError;
pub use maintenance::{ArchiveOptions, Progress, RefreshOptions};
pub use metrics::{Level, Metrics};
pub use readiness::Readiness;

use counter::Counter;
use invalidator::Invalidator;
use maintenance::Maintenance;
use recorder::Recorder;
use removals::Removals;

/// How long a check of a dependency may take before it counts as failed; below the health server's limit on readiness (2.5 s), and above what a
/// ledger waits for a connection in a check (PostgreSQL: 0.5 s for one of the pool, 1 s for one of its own), so that the answer is a reason.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The service: what records pairs and answers counts.
pub struct Service {
    ledger: SharedLedger,
    cache: SharedCache,
    config: ServiceConfig,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    removals: Removals,
    counter: Arc<Counter>,
    maintenance: Maintenance,
    invalidator_stop: CancellationToken,
    invalidator: Mutex<Option<JoinHandle<()>>>,
    /// When the ledger last passed a check.
    ledger_seen: Mutex<Option<Instant>>,
}

impl Service {
    /// Starts the service's tasks on the current runtime.
    #[must_use]
    pub fn start(ledger: SharedLedger, cache: SharedCache, metrics: Arc<Metrics>, config: ServiceConfig) -> Arc<Self> {
        let counter = Counter::new(&ledger, Arc::clone(&cache), Arc::clone(&metrics), &config);
        let invalidator_stop = CancellationToken::new();
        let marked = Arc::clone(&counter);
        let (told, invalidator) = Invalidator::start(
            Arc::clone(&cache),
            Arc::new(move |segments, at| marked.mark(segments, at)),
            config.invalidate_every,
            Arc::clone(&metrics),
            invalidator_stop.clone(),
        );
        let removals = Removals::new(
            Arc::clone(&ledger),
            told.clone(),
            Arc::clone(&metrics),
            config.flush_pairs,
        );
        let recorder = Recorder::start(Arc::clone(&ledger), told, Arc::clone(&metrics), &config);
        let maintenance = Maintenance {
            ledger: Arc::clone(&ledger),
            cache: Arc::clone(&cache),
            metrics: Arc::clone(&metrics),
            bound: config.max_staleness,
            runs: TaskTracker::new(),
        };
        Arc::new(Self {
            ledger,
            cache,
            config,
            metrics,
            recorder,
            removals,
            counter,
            maintenance,
            invalidator_stop,
            invalidator: Mutex::new(Some(invalidator)),
            ledger_seen: Mutex::default(),
        })
    }

    /// Records one pair; answers after it was committed, together with whatever else was waiting.
    ///
    /// # Errors
    /// [`ServiceError::Overloaded`] and [`ServiceError::ShuttingDown`]: nothing was taken. [`ServiceError::Ledger`]: sending it again is safe.
    pub async fn record(&self, pair: Pair) -> Result<Recording, ServiceError> {
        self.recorder.record(pair).await
    }

    /// Whether one more single pair should come to [`Service::record`].
    ///
    /// # Errors
    /// [`ServiceError::Overloaded`]: there are more in it than two flushes hold. One is under way and the next is full; what comes on top of them only waits.
    pub fn admit_pair(&self) -> Result<(), ServiceError> {
        self.recorder.admit()
    }

    /// Records many pairs, answers in their order; each [`Service::commit_pairs`] of them are committed on their own. A slow ledger makes
    /// this wait, so a stream that hands in one chunk after another stays bounded.
    ///
    /// # Errors
    /// As [`Service::record`]. After an error of the ledger some chunks may stand; sending all again is safe. To know exactly which, hand in
    /// at most [`Service::commit_pairs`] at once.
    pub async fn record_many(&self, pairs: Vec<Pair>) -> Result<Vec<Recording>, ServiceError> {
        self.recorder.record_many(pairs).await
    }

    /// What a pair did that is known to change nothing: it needs no commit. A stream sorts such ones out, so that its chunks are full of others.
    #[must_use]
    pub fn repeat(&self, pair: &Pair) -> Option<Recording> {
        self.recorder.repeat(pair)
    }

    /// How many pairs make full commits; of these a stream should hand in so many at once.
    #[must_use]
    pub fn commit_pairs(&self) -> usize {
        self.recorder.flush_pairs()
    }

    /// The count of a segment, no older than `max_staleness` (the configured one where `None`; zero asks the ledger); `None` where there is
    /// no such segment.
    ///
    /// # Errors
    /// [`ServiceError::Ledger`] where neither ledger nor a last value may answer; [`ServiceError::Cache`] where the cache is required and does
    /// not answer; [`ServiceError::Overloaded`].
    pub async fn count(
        &self,
        segment: &SegmentName,
        max_staleness: Option<Duration>,
    ) -> Result<Option<CountAnswer>, ServiceError> {
        self.counter
            .count(segment, max_staleness.unwrap_or(self.config.max_staleness))
            .await
    }

    /// The count of a segment with the configured staleness `now`, where this process remembers it; `None` where it has to be asked for.
    #[must_use]
    pub fn count_at_once(&self, segment: &SegmentName, now: Instant) -> Option<CountAnswer> {
        self.counter.remembered(segment, self.config.max_staleness, now)
    }

    /// The counts of many segments, in their order.
    ///
    /// # Errors
    /// As [`Service::count`].
    pub async fn counts(
        &self,
        segments: &[SegmentName],
        max_staleness: Option<Duration>,
    ) -> Result<Vec<Option<CountAnswer>>, ServiceError> {
        self.counter
            .counts(segments, max_staleness.unwrap_or(self.config.max_staleness))
            .await
    }

    /// Takes users out of segments; outcomes in the order of `removals`. Whatever was observed before is beaten from then on, sent to whichever
    /// replica; what is sent after the answer counts again.
    ///
    /// # Errors
    /// [`ServiceError::Ledger`], [`ServiceError::ShuttingDown`]; doing it again is safe.
    pub async fn remove(&self, removals: Vec<Removal>) -> Result<Vec<RemovalOutcome>, ServiceError> {
        self.removals.remove(removals).await
    }

    /// Deletes a segment with its members and its history; false where there is none. Its name is free at once; its rows are cleared away by
    /// the next archive.
    ///
    /// # Errors
    /// As [`Service::remove`].
    pub async fn delete_segment(&self, name: &SegmentName) -> Result<bool, ServiceError> {
        let deleted = self.removals.delete_segment(name.clone()).await;
        self.counter.forget(name);
        deleted
    }

    /// Erases a user: nothing is left but a keyed hash that keeps late pairs out.
    ///
    /// # Errors
    /// As [`Service::remove`]; the user may stay suppressed until it is done again.
    pub async fn erase(&self, user: &UserId) -> Result<Erasure, ServiceError> {
        self.removals.erase(user.clone()).await
    }

    /// Creates a segment or changes its settings.
    ///
    /// # Errors
    /// [`ServiceError::Ledger`]
    pub async fn put_segment(&self, segment: &NewSegment) -> Result<PutSegment, ServiceError> {
        self.removals.put_segment(segment.clone()).await
    }

    /// Segments with their counts, by name, those after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`ServiceError::Ledger`]
    pub async fn segments(&self, after: Option<&SegmentName>, limit: u32) -> Result<SegmentPage, ServiceError> {
        Ok(self.ledger.segments(after, limit).await?)
    }

    /// Moves what has ended into the history; `progress` is called after each batch. Ends with the totals.
    ///
    /// # Errors
    /// [`ServiceError::AlreadyRunning`], [`ServiceError::Unfinished`], [`ServiceError::Ledger`]; noted in the ledger too.
    pub async fn archive(&self, options: ArchiveOptions, progress: Progress) -> Result<JobReport, ServiceError> {
        self.maintenance.archive(options, progress).await
    }

    /// Recounts segments, the longest unchecked first, within the budget; `progress` is called after each. Ends with the totals.
    ///
    /// # Errors
    /// As [`Service::archive`].
    pub async fn refresh(&self, options: RefreshOptions, progress: Progress) -> Result<JobReport, ServiceError> {
        self.maintenance.refresh(options, progress).await
    }

    /// What the runs of a job left behind, anywhere.
    ///
    /// # Errors
    /// [`ServiceError::Ledger`]
    pub async fn job_state(&self, job: Job) -> Result<JobState, ServiceError> {
        let state = self.ledger.job_state(job).await?;
        if let Some(seconds) = state.seconds_since_success {
            self.metrics.job_age(job, seconds);
        }
        Ok(state)
    }

    /// Asks each dependency how it is; takes 2 s at most.
    pub async fn readiness(&self) -> Readiness {
        let (ledger, cache) = tokio::join!(self.check_ledger(), self.check_cache());
        let serves_stale = ledger.is_err() && self.may_serve_stale();
        Readiness {
            ledger_kind: self.ledger.kind(),
            ledger,
            cache_kind: self.cache.kind(),
            cache,
            cache_required: self.config.cache_required,
            serves_stale,
        }
    }

    /// The ledger behind it, for what needs no cache.
    #[must_use]
    pub fn ledger(&self) -> &SharedLedger {
        &self.ledger
    }

    /// The bounds that it was started with.
    #[must_use]
    pub fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// Takes nothing more, flushes and answers everything that it took, tells the cache, then closes the ledger. Safe to call twice.
    /// Waits for jobs that run here: whoever began them stops them.
    pub async fn shutdown(&self) {
        tokio::join!(self.recorder.stop(), self.removals.stop(), self.maintenance.ended());
        self.invalidator_stop.cancel();
        let invalidator = self.invalidator.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(invalidator) = invalidator
            && let Err(error) = invalidator.await
        {
            tracing::error!(%error, "the task that tells the cache broke off");
        }
        self.ledger.close().await;
    }

    async fn check_ledger(&self) -> Result<(), LedgerError> {
        let checked = tokio::time::timeout(CHECK_TIMEOUT, self.ledger.check())
            .await
            .unwrap_or_else(|_| Err(LedgerError::Timeout("the check did not end in time".to_owned())));
        self.metrics.ledger_up.set(i64::from(checked.is_ok()));
        if checked.is_ok() {
            *self.ledger_seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        checked
    }

    async fn check_cache(&self) -> Vec<NodeHealth> {
        let nodes = tokio::time::timeout(CHECK_TIMEOUT, self.cache.health())
            .await
            .unwrap_or_else(|_| {
                let error = Some(CacheError::Timeout("the check did not end in time".to_owned()));
                vec![NodeHealth {
                    node: self.cache.kind().to_owned(),
                    error,
                }]
            });
        let up = nodes.iter().filter(|node| node.error.is_none()).count();
        self.metrics
            .cache_nodes
            .set(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
        self.metrics.cache_nodes_up.set(i64::try_from(up).unwrap_or(i64::MAX));
        nodes
    }

    fn may_serve_stale(&self) -> bool {
        let seen = *self.ledger_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = seen
            .zip(self.config.serve_stale)
            .is_some_and(|(seen, limit)| seen.elapsed() <= limit);
        recently && self.counter.could_answer_alone()
    }
}
