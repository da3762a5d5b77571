//! Tells the cache which segments changed: at most once per interval a segment, the last change always told, and nobody waits for it.
//!
//! It may forget (too many segments, a cache that is away): a value is then served until its bound ends, never longer.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::SharedCache;
use crate::counting::SegmentId;

use super::metrics::Metrics;

/// Segments that may wait to be told.
const MAX_WAITING: usize = 100_000;
/// Segments of one call: a pipeline of this length is far below a response time-out.
const MAX_CALL: usize = 500;

/// What is told, besides the cache: the segments, and an instant after all the commits that this is about.
pub(crate) type Mark = Arc<dyn Fn(&[SegmentId], Instant) + Send + Sync>;

/// The end that the recorder holds.
#[derive(Clone)]
pub(crate) struct Invalidator {
    inbox: Arc<Inbox>,
}

struct Inbox {
    changed: Mutex<BTreeSet<SegmentId>>,
    wake: Notify,
    metrics: Arc<Metrics>,
}

impl Invalidator {
    /// Starts the task that tells. It ends after `stop`, having told everything it was told.
    pub(crate) fn start(
        cache: SharedCache,
        mark: Mark,
        every: Duration,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let inbox = Arc::new(Inbox {
            changed: Mutex::default(),
            wake: Notify::new(),
            metrics,
        });
        let teller = Teller {
            inbox: Arc::clone(&inbox),
            cache,
            mark,
            every,
            told: VecDeque::new(),
            recent: BTreeSet::new(),
            held: BTreeSet::new(),
        };
        (Self { inbox }, tokio::spawn(teller.run(stop)))
    }

    /// Notes that segments changed. Never waits.
    pub(crate) fn tell(&self, segments: &[SegmentId]) {
        if segments.is_empty() {
            return;
        }
        let mut changed = self.inbox.changed.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in segments {
            if changed.len() < MAX_WAITING || changed.contains(segment) {
                changed.insert(*segment);
            } else {
                self.inbox.metrics.invalidations_dropped.inc();
            }
        }
        drop(changed);
        self.inbox.wake.notify_one();
    }
}

struct Teller {
    inbox: Arc<Inbox>,
    cache: SharedCache,
    mark: Mark,
    every: Duration,
    /// What was told within the interval, oldest first.
    told: VecDeque<(Instant, SegmentId)>,
    recent: BTreeSet<SegmentId>,
    /// What changed again within the interval: told when it ends.
    held: BTreeSet<SegmentId>,
}

impl Teller {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let stopping = stop.is_cancelled();
            let due = self.due(stopping);
            if !due.is_empty() {
                self.send(&due).await;
                continue;
            }
            if stopping {
                return;
            }
            let interval_ends = match (self.held.is_empty(), self.told.front()) {
                (false, Some((at, _))) => Some(*at + self.every),
                _ => None,
            };
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                () = stop.cancelled() => {}
                () = sleep_until(interval_ends) => {}
            }
        }
    }

    /// The segments to tell now.
    fn due(&mut self, all: bool) -> Vec<SegmentId> {
        let now = Instant::now();
        let mut due = BTreeSet::new();
        while let Some((at, segment)) = self.told.front().copied() {
            if now.duration_since(at) < self.every {
                break;
            }
            self.told.pop_front();
            self.recent.remove(&segment);
            if self.held.remove(&segment) {
                due.insert(segment);
            }
        }
        let changed = std::mem::take(&mut *self.inbox.changed.lock().unwrap_or_else(PoisonError::into_inner));
        for segment in changed {
            if self.recent.contains(&segment) {
                self.held.insert(segment);
            } else {
                due.insert(segment);
            }
        }
        if all {
            due.append(&mut self.held);
        }
        due.into_iter().collect()
    }

    async fn send(&mut self, due: &[SegmentId]) {
        for call in due.chunks(MAX_CALL) {
            let at = Instant::now();
            for segment in call {
                if self.recent.insert(*segment) {
                    self.told.push_back((at, *segment));
                }
            }
            if let Err(error) = self.cache.invalidate(call).await {
                self.inbox.metrics.cache_error("invalidate");
                tracing::debug!(%error, segments = call.len(), "the cache was not told; the bound on staleness holds");
            }
            (self.mark)(call, at);
            self.inbox.metrics.invalidations.inc_by(call.len() as u64);
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
