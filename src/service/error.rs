//! Why the service did not answer. What a client may see of it is the API's own type.

use std::time::Duration;

use crate::cache::CacheError;
use crate::ledger::{Job, LedgerError};

/// Why the service did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// More is waiting than may wait; nothing of the request was taken. Sending it again after `retry_after` is safe.
    #[error("too much is waiting already")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The process ends: what it took it answers, but it takes nothing more.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The ledger did not answer, and nothing else may answer in its place. [`LedgerError::is_transient`] tells whether a retry may help.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The cache did not answer, and it is declared that the ledger may not answer in its place. Its text is for the log.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// One of this kind runs already, here or elsewhere.
    #[error("a run of {} is under way", .0.name())]
    AlreadyRunning(Job),
    /// A job did not do all of its work: the time limit, or a stop. What it did stays done; the next run goes on.
    #[error("{0}")]
    Unfinished(String),
}

impl ServiceError {
    /// Whether the same call may go through a moment later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Overloaded { .. }
            | Self::ShuttingDown
            | Self::Cache(_)
            | Self::AlreadyRunning(_)
            | Self::Unfinished(_) => true,
            Self::Ledger(error) => error.is_transient(),
        }
    }
}
