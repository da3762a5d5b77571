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
    /// While the ledger is away: whether last values are still allowed to answer counts.
    pub serves_stale: bool,
}

impl Readiness {
    /// Whether any answer could be given: the ledger is there, or last values may stand in for it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ledger.is_ok() || self.serves_stale
    }

    /// Whether something is away without which answers still come, slower or older.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.ledger.is_err() || self.cache.iter().any(|node| node.error.is_some())
    }
}
