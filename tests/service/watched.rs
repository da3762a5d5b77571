//! What the tests of the service watch and hold up: a cache, and doors.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use segment_counter::cache::{Cache, CacheError, Claim, Lookup, MemoryCache, NodeHealth};
use segment_counter::counting::SegmentId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

/// Doors that a test may close: who comes waits until it opens.
pub struct Door(Semaphore, AtomicBool);

impl Door {
    pub fn open() -> Self {
        Self(Semaphore::new(0), AtomicBool::new(false))
    }

    pub fn close(&self) {
        self.1.store(true, Ordering::SeqCst);
    }

    /// Lets everyone through, from now on too.
    pub fn release(&self) {
        self.1.store(false, Ordering::SeqCst);
        self.0.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub async fn pass(&self) {
        if self.1.load(Ordering::SeqCst) {
            self.0.acquire().await.unwrap().forget();
        }
    }
}

/// A cache in memory that is watched, slowed and broken.
pub struct WatchedCache {
    inner: MemoryCache,
    pub reads: AtomicUsize,
    /// Each store, and whether the value was taken.
    pub stores: Mutex<Vec<bool>>,
    /// Each notice: when it went out, and what it held.
    pub notices: Mutex<Vec<(Instant, Vec<SegmentId>)>>,
    pub delay: Mutex<Duration>,
    pub broken: AtomicBool,
}

impl WatchedCache {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryCache::new(10_000, Duration::from_secs(900)),
            reads: AtomicUsize::new(0),
            stores: Mutex::default(),
            notices: Mutex::default(),
            delay: Mutex::default(),
            broken: AtomicBool::new(false),
        })
    }

    async fn answer(&self) -> Result<(), CacheError> {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(CacheError::Unreachable("broken by the test".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Cache for WatchedCache {
    fn kind(&self) -> &'static str {
        "watched"
    }

    async fn read(&self, segment: SegmentId, bound: Duration) -> Result<Lookup, CacheError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer().await?;
        self.inner.read(segment, bound).await
    }

    async fn store(&self, claim: &Claim, members: i64, as_of: Timestamp) -> Result<bool, CacheError> {
        self.answer().await?;
        let stored = self.inner.store(claim, members, as_of).await?;
        self.stores.lock().unwrap().push(stored);
        Ok(stored)
    }

    async fn invalidate(&self, segments: &[SegmentId]) -> Result<(), CacheError> {
        self.notices.lock().unwrap().push((Instant::now(), segments.to_vec()));
        self.answer().await?;
        self.inner.invalidate(segments).await
    }

    async fn health(&self) -> Vec<NodeHealth> {
        let error = self.answer().await.err();
        vec![NodeHealth {
            node: "watched".to_owned(),
            error,
        }]
    }
}
