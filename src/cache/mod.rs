//! What may be lost: counts on their way out, behind one trait that Redis nodes and the memory of one process implement.
//!
//! The cache is never the truth: losing it, wholly or partly, at any moment, changes no answer. Knows only [`crate::counting`].
//! Nothing here compares two machines' clocks: an age is measured by one clock, the cache's own (Redis') or this process' monotonic one.

mod memory;
mod redis;
mod types;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::counting::SegmentId;

pub use memory::MemoryCache;
pub use redis::{NodesChange, OwnerSource, PasswordSource, RedisCache, RedisConfig, RedisConfigError, RedisMode};
pub use types::{CacheError, Cached, Claim, Lookup, NodeHealth};

/// The longest that a claim stands, however wide the bound: a reader that died must not keep others from filling.
pub(crate) const MAX_CLAIM: Duration = Duration::from_secs(10);

/// A cache, shared by everything that serves from it.
pub type SharedCache = Arc<dyn Cache>;

/// A place for counts that any replica may fill and every replica may read.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// `redis` or `memory`: what logs, metrics and readiness call it.
    fn kind(&self) -> &'static str;

    /// Reads a segment's value, and claims the right to refresh it where that is wanted: the value is absent, older than `bound`, or
    /// marked unfresh, and nobody else's claim stands. One atomic command. The claim stands for `bound` at most (and 10 s; not at all where it is zero), and must be had *before*
    /// the ledger's statement is sent: the stored value's age is counted from here.
    ///
    /// # Errors
    /// [`CacheError`]: the node is away (or its circuit is open); the answer then comes from the ledger.
    async fn read(&self, segment: SegmentId, bound: Duration) -> Result<Lookup, CacheError>;

    /// Stores what the ledger answered, only if the very `claim` still stands (a writer or time may have taken it away). One atomic
    /// command. Says whether it was stored.
    ///
    /// # Errors
    /// [`CacheError`]
    async fn store(&self, claim: &Claim, members: i64, as_of: jiff::Timestamp) -> Result<bool, CacheError>;

    /// After a commit: takes any standing claim away and marks the value unfresh; deletes nothing. Segments of one call go out together.
    ///
    /// # Errors
    /// [`CacheError`]; the bound on staleness holds all the same.
    async fn invalidate(&self, segments: &[SegmentId]) -> Result<(), CacheError>;

    /// How each node is; empty where there is no node to be away (memory).
    async fn health(&self) -> Vec<NodeHealth>;
}
