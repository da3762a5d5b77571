//! Whether the service can answer, dependency by dependency.

use crate::cache::NodeHealth;
use crate::ledger::LedgerError;

/// How the dependencies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// `postgres` or `sqlite`.
    pub ledger_kind: &'static str,
    /// Whether the ledger answers and takes writes, or why not; not for clients' eyes.
    pub ledger: Result<(), LedgerError>,
    /// `redis` or `memory`.
    pub cache_kind: &'static str,
    /// Each node of the cache; none for memory.
    pub cache: Vec<NodeHealth>,
    /// Whether it is declared that counts fail without the cache.
    pub cache_required: bool,
    /// While the ledger is away: whether last values are still allowed to answer counts.
    pub serves_stale: bool,
}

impl Readiness {
    /// Whether answers can be given: the ledger is there, or last values may stand in for it; and where the cache is required, a node of it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        (self.ledger.is_ok() || self.serves_stale) && !self.lacks_cache()
    }

    /// Whether the cache is required, and all of it away. While a node is there, its share of the segments is answered.
    #[must_use]
    pub fn lacks_cache(&self) -> bool {
        self.cache_required && !self.cache.is_empty() && self.cache.iter().all(|node| node.error.is_some())
    }

    /// Whether something is away without which answers still come, slower or older.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.ledger.is_err() || self.cache.iter().any(|node| node.error.is_some())
    }
}
