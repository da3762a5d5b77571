//! Removals, deletions, erasures and changed windows: done in the ledger, told to the cache, and acknowledged only when no replica can answer a pair from before.
//!
//! A replica may answer a repeated pair from memory for [`LEASE`] after the last batch it sent to the ledger, and lets go of what it remembers
//! when a batch brings back another removal epoch. So whoever raised the epoch waits for the lease: every batch sent since then has seen it, and
//! what rests on an earlier one has run out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::counting::{Removal, SegmentName, UserId};
use crate::ledger::{Erasure, LedgerError, NewSegment, PutSegment, RemovalOutcome, SharedLedger};

use super::ServiceError;
use super::invalidator::Invalidator;
use super::metrics::Metrics;

/// How long what a replica knows of committed pairs may answer for the ledger, counted from before the batch that brought it was sent. Part of
/// the protocol between replicas: every version must agree on it.
pub(crate) const LEASE: Duration = Duration::from_millis(100);

/// Changes of the ledger at once, but for erasures, of which the ledger itself admits few. All meet at the epoch until they are committed, so more would only
/// hold sessions that pairs and counts could have.
const AT_ONCE: usize = 4;
/// How many may wait for those, and for how long.
const MAX_WAITERS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What raises the removal epoch.
#[derive(Clone)]
pub(crate) struct Removals {
    ledger: SharedLedger,
    invalidator: Invalidator,
    metrics: Arc<Metrics>,
    /// Removals of one commit.
    chunk: usize,
    tasks: TaskTracker,
    /// Who is being served, and who may wait for that too.
    serving: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Removals {
    pub(crate) fn new(
        ledger: SharedLedger,
        invalidator: Invalidator,
        metrics: Arc<Metrics>,
        flush_pairs: usize,
    ) -> Self {
        Self {
            chunk: flush_pairs.min(ledger.settings().max_batch).max(1),
            ledger,
            invalidator,
            metrics,
            tasks: TaskTracker::new(),
            serving: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + MAX_WAITERS)),
        }
    }

    /// Takes users out of segments, in chunks as large as a flush of pairs, each committed on its own: what a statement may take is the same.
    pub(crate) async fn remove(&self, removals: Vec<Removal>) -> Result<Vec<RemovalOutcome>, ServiceError> {
        let admitted = self.admit().await?;
        let this = self.clone();
        self.apart("remove", Some(admitted), async move {
            let mut outcomes = Vec::with_capacity(removals.len());
            for chunk in removals.chunks(this.chunk) {
                let removed = this.ledger.remove(chunk).await?;
                this.invalidator.tell(&removed.changed);
                outcomes.extend(removed.outcomes);
            }
            Ok(outcomes)
        })
        .await
    }

    /// Creates a segment or changes its settings: another window raises the epoch too.
    pub(crate) async fn put_segment(&self, segment: NewSegment) -> Result<PutSegment, ServiceError> {
        let admitted = self.admit().await?;
        let ledger = Arc::clone(&self.ledger);
        let putting = async move { ledger.put_segment(&segment).await };
        self.apart("put_segment", Some(admitted), putting).await
    }

    /// Deletes a segment; false where there is none.
    pub(crate) async fn delete_segment(&self, name: SegmentName) -> Result<bool, ServiceError> {
        let admitted = self.admit().await?;
        let this = self.clone();
        self.apart("delete_segment", Some(admitted), async move {
            let deleted = this.ledger.delete_segment(&name).await?;
            this.invalidator.tell(deleted.as_slice());
            Ok(deleted.is_some())
        })
        .await
    }

    /// Erases a user.
    pub(crate) async fn erase(&self, user: UserId) -> Result<Erasure, ServiceError> {
        let this = self.clone();
        self.apart("erase", None, async move {
            let erasure = this.ledger.erase(&user).await?;
            this.invalidator.tell(&erasure.changed);
            Ok(erasure)
        })
        .await
    }

    /// Waits for what is under way; nothing is taken afterwards.
    pub(crate) async fn stop(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits for its turn; nothing of it is done before.
    async fn admit(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        let overloaded = || ServiceError::Overloaded {
            retry_after: RETRY_AFTER,
        };
        let _waits = self.waiting.try_acquire().map_err(|_| overloaded())?;
        let turn = Arc::clone(&self.serving).acquire_owned();
        match tokio::time::timeout(PATIENCE, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(overloaded()),
        }
    }

    /// In a task of its own: a client that goes away in the middle must not cut a transaction off from the notice to the cache.
    async fn apart<T: Send + 'static>(
        &self,
        operation: &'static str,
        admitted: Option<OwnedSemaphorePermit>,
        work: impl Future<Output = Result<T, LedgerError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        if self.tasks.is_closed() {
            return Err(ServiceError::ShuttingDown);
        }
        let metrics = Arc::clone(&self.metrics);
        let done = self.tasks.spawn(async move {
            let done = work.await.inspect_err(|error| {
                metrics.ledger_error(operation, error);
                tracing::warn!(%error, operation, "the ledger did not do it");
            })?;
            // The next one's turn: only the answer waits from here on.
            drop(admitted);
            // A moment longer: timers may be early by what they round.
            tokio::time::sleep_until(Instant::now() + LEASE + Duration::from_millis(1)).await;
            Ok::<T, ServiceError>(done)
        });
        done.await
            .unwrap_or_else(|_| Err(LedgerError::Internal(format!("{operation} panicked")).into()))
    }
}
