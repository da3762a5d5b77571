//! The service's own bounds, each with the value it has where nothing else is said.

use std::time::Duration;

/// The service's bounds.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// How old an answer may be where the request says nothing.
    pub max_staleness: Duration,
    /// While the ledger is away: how old the last value may be to be served in its place; `None`: not at all.
    pub serve_stale: Option<Duration>,
    /// Whether a count that the cache cannot help with fails, rather than cost the ledger a statement; strict reads always ask the ledger.
    pub cache_required: bool,
    /// Single pairs that may wait for a flush; beyond it a request is told to come again.
    pub queue_pairs: usize,
    /// How long a single pair may wait for its commit, by the pace of the flushes before; where it would be longer, and the next flush is full
    /// already, the request is told to come again.
    pub queue_wait: Duration,
    /// The most pairs of one flush, and of one statement of a batch: beyond 500 a commit shared by more gains nothing (measured).
    pub flush_pairs: usize,
    /// Flushers at once. A segment's pairs always go through the same one, so that two flushes seldom meet at one counter.
    pub flushers: usize,
    /// Statements of batches ([`super::Service::record_many`]) at once.
    pub batch_writers: usize,
    /// Pairs of batches that may wait in memory; beyond it a batch is told to come again.
    pub batch_queue_pairs: usize,
    /// Pairs that are remembered as committed, so that their repeats cost no statement; 0: none. About 70 bytes each.
    pub repeat_entries: usize,
    /// Counting statements at once, and lookups of names at once.
    pub ledger_reads: usize,
    /// Requests that may wait for those statements.
    pub ledger_read_waiters: usize,
    /// Segments whose count and name are remembered in the process.
    pub local_entries: usize,
    /// The shortest time between two invalidations of one segment in the cache.
    pub invalidate_every: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(1),
            serve_stale: Some(Duration::from_secs(900)),
            cache_required: false,
            queue_pairs: 20_000,
            queue_wait: Duration::from_millis(250),
            flush_pairs: 500,
            flushers: 1,
            batch_writers: 4,
            batch_queue_pairs: 150_000,
            repeat_entries: 200_000,
            ledger_reads: 4,
            ledger_read_waiters: 10_000,
            local_entries: 100_000,
            invalidate_every: Duration::from_millis(100),
        }
    }
}
