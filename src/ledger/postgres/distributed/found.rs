//! That a ledger is distributed is learnt while sessions are open, and they are to be set otherwise from then on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

/// Citus plans a statement by its values: by a generic plan it fails, or a call is not made on the lane's machine.
const SETTINGS: &str = "SET plan_cache_mode = auto";

/// How long a session may have been on its way into the pool.
const OPENING: Duration = Duration::from_secs(1);

/// Since when it is known that Citus distributes the ledger; shared with the pool.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Found(Arc<OnceLock<Instant>>);

impl Found {
    pub(in super::super) fn found(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// What a new session is set to beside what all are; `None`: nothing.
    pub(in super::super) fn settings(&self) -> Option<&'static str> {
        self.0.get().map(|_| SETTINGS)
    }

    /// Whether it was learnt only after a session of this age was opened, or while it was.
    pub(in super::super) fn is_younger_than(&self, session: Duration) -> bool {
        self.0.get().is_some_and(|since| session + OPENING > since.elapsed())
    }
}
