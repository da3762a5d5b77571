//! Group commit: single pairs share the commits that a crowd needs, and a lone one waits for nothing.
//!
//! An answer goes out only after its commit. What waits is bounded, in number and in the time that it would wait: beyond either a request is
//! refused before anything of it is taken.
//! Nothing may be dropped once taken: a stop flushes and answers all of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counting::{Pair, SegmentName};
use crate::ledger::{LedgerError, Recording, SharedLedger};

use super::held::{Counted, Reserved};
use super::invalidator::Invalidator;
use super::metrics::Metrics;
use super::pace::Pace;
use super::repeats::Repeats;
use super::{ServiceConfig, ServiceError};

/// When an overloaded client should come again: some flushes later, or when what waits is committed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// How often the log says that requests are refused, in seconds: there are as many of them as clients care to send.
const TELL_EVERY: u64 = 10;

type Answer = oneshot::Sender<Result<Recording, ServiceError>>;

struct Waiting {
    pair: Pair,
    answer: Answer,
}

/// A flusher as those who hand in pairs see it.
struct Lane {
    queue: mpsc::Sender<Waiting>,
    pace: Arc<Pace>,
}

pub(crate) struct Recorder {
    lanes: Vec<Lane>,
    queue_wait: Duration,
    committer: Arc<Committer>,
    batch_permits: Arc<Semaphore>,
    batch_waiting: Arc<AtomicUsize>,
    batch_limit: usize,
    /// Single pairs that wait or are being committed.
    singles: AtomicUsize,
    born: Instant,
    /// When the log last said that requests are refused, in seconds since `born`.
    told: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Recorder {
    /// Starts the flushers.
    pub(crate) fn start(
        ledger: SharedLedger,
        invalidator: Invalidator,
        metrics: Arc<Metrics>,
        config: &ServiceConfig,
    ) -> Self {
        let flush_pairs = config.flush_pairs.clamp(1, ledger.settings().max_batch.max(1));
        let ledger_rules = ledger.settings().rules;
        let committer = Arc::new(Committer {
            ledger,
            invalidator,
            repeats: Repeats::new(ledger_rules, config.repeat_entries),
            metrics,
            flush_pairs,
        });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let flushers = config.flushers.max(committer.ledger.lanes());
        let lanes = (0..flushers)
            .map(|_| {
                let (sender, queue) = mpsc::channel(config.queue_pairs.div_ceil(flushers).max(1));
                let pace = Arc::new(Pace::new(flush_pairs));
                let flusher = flush_until_stopped(queue, Arc::clone(&committer), Arc::clone(&pace), stop.clone());
                tasks.spawn(flusher);
                Lane { queue: sender, pace }
            })
            .collect();
        Self {
            lanes,
            queue_wait: config.queue_wait,
            committer,
            batch_permits: Arc::new(Semaphore::new(config.batch_writers.max(1))),
            batch_waiting: Arc::new(AtomicUsize::new(0)),
            batch_limit: config.batch_queue_pairs,
            singles: AtomicUsize::new(0),
            born: Instant::now(),
            told: AtomicU64::new(0),
            stop,
            tasks,
        }
    }

    /// Refuses a single pair where those that wait or are being committed fill two flushes of each flusher.
    pub(crate) fn admit(&self) -> Result<(), ServiceError> {
        if self.singles.load(Ordering::Relaxed) < 2 * self.committer.flush_pairs * self.lanes.len() {
            return Ok(());
        }
        Err(self.overloaded(RETRY_AFTER))
    }

    /// Records one pair with whatever else waits; answers after the commit.
    pub(crate) async fn record(&self, pair: Pair) -> Result<Recording, ServiceError> {
        // The queue itself closes only when its flusher next looks at it.
        if self.stop.is_cancelled() {
            return Err(ServiceError::ShuttingDown);
        }
        if let Some(recording) = self.repeat(&pair) {
            return Ok(recording);
        }
        let lane = self.lane(&pair.segment);
        let ahead = lane.queue.max_capacity() - lane.queue.capacity();
        if let Some(wait) = lane.pace.late(ahead, self.queue_wait) {
            return Err(self.overloaded(wait.clamp(RETRY_AFTER, MAX_RETRY_AFTER)));
        }
        let (answer, answered) = oneshot::channel();
        let _counted = Counted::of(&self.singles);
        let metrics = &self.committer.metrics;
        // Before the send, or the flusher might count the pair out before it was counted in.
        metrics.queue_pairs.inc();
        if let Err(refused) = lane.queue.try_send(Waiting { pair, answer }) {
            metrics.queue_pairs.dec();
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => self.overloaded(RETRY_AFTER),
                mpsc::error::TrySendError::Closed(_) => ServiceError::ShuttingDown,
            });
        }
        answered.await.unwrap_or(Err(ServiceError::ShuttingDown))
    }

    /// What is known of a pair that changes nothing: it needs no commit.
    pub(crate) fn repeat(&self, pair: &Pair) -> Option<Recording> {
        let recording = self.committer.repeats.as_ref()?.find(pair)?;
        self.committer.metrics.repeats.inc();
        self.committer.metrics.pair(recording.outcome);
        Some(recording)
    }

    /// Records many pairs in chunks, each committed on its own, a bounded number of them at once; answers in the order of `pairs`.
    pub(crate) async fn record_many(&self, pairs: Vec<Pair>) -> Result<Vec<Recording>, ServiceError> {
        // The token comes before the look at `stop`: a stop waits for every token that was taken before it.
        let _under_way = self.tasks.token();
        if self.stop.is_cancelled() {
            return Err(ServiceError::ShuttingDown);
        }
        let mut answers: Vec<Option<Recording>> = pairs.iter().map(|pair| self.repeat(pair)).collect();
        let rest: Vec<Pair> = pairs
            .into_iter()
            .zip(&answers)
            .filter_map(|(pair, known)| known.is_none().then_some(pair))
            .collect();
        let committed = self.commit_all(rest).await?;
        let mut committed = committed.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
            *answer = committed.next();
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn commit_all(&self, pairs: Vec<Pair>) -> Result<Vec<Recording>, ServiceError> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let mut reserved = self.reserve(pairs.len())?;
        let mut recordings: Vec<Option<Recording>> = vec![None; pairs.len()];
        for round in self.rounds(pairs) {
            let commits = round.into_iter().map(|(places, chunk)| async move {
                let Ok(permit) = Arc::clone(&self.batch_permits).acquire_owned().await else {
                    return Err(ServiceError::ShuttingDown);
                };
                let committer = Arc::clone(&self.committer);
                // A task of its own: a client that goes away in the middle must not cut a transaction off from the notice to the cache.
                let commit = self.tasks.spawn(async move {
                    let _permit = permit;
                    committer.commit(&chunk).await
                });
                let committed = commit.await.unwrap_or_else(|_| Err(panicked()))?;
                Ok((places, committed))
            });
            for (places, committed) in try_join_all(commits).await? {
                reserved.release(places.len());
                for (place, recording) in places.into_iter().zip(committed) {
                    recordings[place] = Some(recording);
                }
            }
        }
        Ok(recordings.into_iter().flatten().collect())
    }

    /// Cuts pairs into chunks that are committed on their own, each with the places of its pairs: a round holds at most one chunk for each lane
    /// of the ledger, so that those of different lanes are under way at once and those of one lane in their order.
    fn rounds(&self, pairs: Vec<Pair>) -> Vec<Vec<(Vec<usize>, Vec<Pair>)>> {
        let ledger = &self.committer.ledger;
        let lanes = ledger.lanes();
        let mut by_lane: Vec<Vec<(Vec<usize>, Vec<Pair>)>> = vec![Vec::new(); lanes];
        for (place, pair) in pairs.into_iter().enumerate() {
            let lane = if lanes > 1 {
                ledger.lane_of(&pair.segment).min(lanes - 1)
            } else {
                0
            };
            let chunks = &mut by_lane[lane];
            match chunks.last_mut() {
                Some((places, chunk)) if chunk.len() < self.committer.flush_pairs => {
                    places.push(place);
                    chunk.push(pair);
                }
                _ => chunks.push((vec![place], vec![pair])),
            }
        }
        let most = by_lane.iter().map(Vec::len).max().unwrap_or(0);
        let mut lanes: Vec<_> = by_lane.into_iter().map(Vec::into_iter).collect();
        (0..most)
            .map(|_| lanes.iter_mut().filter_map(Iterator::next).collect())
            .collect()
    }

    /// Takes nothing more, then flushes and answers everything that was taken.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many pairs make full commits, one for each lane of the ledger.
    pub(crate) fn flush_pairs(&self) -> usize {
        self.committer.flush_pairs * self.committer.ledger.lanes()
    }

    fn lane(&self, segment: &SegmentName) -> &Lane {
        // Where the ledger has lanes, a flush should hold pairs of one of them.
        let ledger = &self.committer.ledger;
        if ledger.lanes() > 1 {
            return &self.lanes[ledger.lane_of(segment) % self.lanes.len()];
        }
        let mut hasher = DefaultHasher::new();
        segment.hash(&mut hasher);
        let lanes = self.lanes.len() as u64;
        &self.lanes[usize::try_from(hasher.finish() % lanes).unwrap_or(0)]
    }

    fn reserve(&self, pairs: usize) -> Result<Reserved, ServiceError> {
        let before = self.batch_waiting.fetch_add(pairs, Ordering::Relaxed);
        let reserved = Reserved {
            waiting: Arc::clone(&self.batch_waiting),
            pairs,
        };
        // A batch that is alone may be larger than the limit: it is in memory already.
        if before > 0 && before + pairs > self.batch_limit {
            return Err(self.overloaded(RETRY_AFTER));
        }
        Ok(reserved)
    }

    fn overloaded(&self, retry_after: Duration) -> ServiceError {
        self.committer.metrics.overloaded.inc();
        let (now, last) = (
            self.born.elapsed().as_secs() + TELL_EVERY,
            self.told.load(Ordering::Relaxed),
        );
        let due = now >= last + TELL_EVERY;
        if due
            && self
                .told
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!(
                "more pairs come than are committed in time: requests are told to come again (recorder_overloaded counts them)"
            );
        }
        ServiceError::Overloaded { retry_after }
    }
}

async fn flush_until_stopped(
    mut queue: mpsc::Receiver<Waiting>,
    committer: Arc<Committer>,
    pace: Arc<Pace>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(committer.flush_pairs);
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            taken = queue.recv_many(&mut batch, committer.flush_pairs) => taken,
        };
        if taken == 0 {
            return;
        }
        committer.metrics.queue_pairs.dec_by(i64::try_from(taken).unwrap_or(0));
        let (pairs, answers): (Vec<Pair>, Vec<Answer>) = batch.drain(..).map(|w| (w.pair, w.answer)).unzip();
        pace.begin();
        let committed = committer.commit(&pairs).await;
        pace.end();
        match committed {
            Ok(recordings) => {
                for (answer, recording) in answers.into_iter().zip(recordings) {
                    // Who does not wait any longer does not need the answer.
                    let _ = answer.send(Ok(recording));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// One commit: the ledger, then the notice to the cache, which nobody waits for.
struct Committer {
    ledger: SharedLedger,
    invalidator: Invalidator,
    metrics: Arc<Metrics>,
    repeats: Option<Repeats>,
    flush_pairs: usize,
}

impl Committer {
    async fn commit(&self, pairs: &[Pair]) -> Result<Vec<Recording>, ServiceError> {
        let started = Instant::now();
        let recorded = AssertUnwindSafe(self.ledger.record(pairs))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(LedgerError::Internal("recording a batch panicked".to_owned())));
        self.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
        let recorded = recorded.inspect_err(|error| {
            self.metrics.ledger_error("record", error);
            tracing::warn!(%error, pairs = pairs.len(), "a flush failed");
        })?;
        #[expect(clippy::cast_precision_loss, reason = "a flush is far smaller than 2^52 pairs")]
        self.metrics.flush_pairs.observe(pairs.len() as f64);
        self.invalidator.tell(&recorded.changed);
        if recorded.pairs.len() != pairs.len() {
            let text = format!("{} outcomes for {} pairs", recorded.pairs.len(), pairs.len());
            return Err(LedgerError::Internal(text).into());
        }
        if let Some(repeats) = &self.repeats {
            repeats.learn(pairs, &recorded, started);
        }
        for recording in &recorded.pairs {
            self.metrics.pair(recording.outcome);
        }
        Ok(recorded.pairs)
    }
}

fn panicked() -> ServiceError {
    LedgerError::Internal("a task of the recorder panicked".to_owned()).into()
}
