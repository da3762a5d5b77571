//! The cache of one process: what the embedded default uses, with the same promises as Redis.
//!
//! Bounded: the least useful segments go first, and going costs a read of the ledger, never an answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use quick_cache::sync::Cache as Bounded;
use tokio::time::Instant;

use crate::counting::SegmentId;

use super::{Cache, CacheError, Cached, Claim, Lookup, MAX_CLAIM, NodeHealth};

/// Counts in the memory of this process.
pub struct MemoryCache {
    slots: Bounded<SegmentId, Arc<Mutex<Slot>>>,
    keep: Duration,
}

#[derive(Default)]
struct Slot {
    value: Option<Value>,
    claim: Option<Standing>,
}

struct Value {
    members: i64,
    as_of: Timestamp,
    claimed: Instant,
    fresh: bool,
}

struct Standing {
    token: u64,
    claimed: Instant,
    until: Instant,
}

impl MemoryCache {
    /// A cache of at most `capacity` segments that keeps values for `keep`: how long they may be served while the ledger is away.
    #[must_use]
    pub fn new(capacity: usize, keep: Duration) -> Self {
        Self {
            slots: Bounded::new(capacity.max(1)),
            keep,
        }
    }

    /// The slot of a segment, made where there is none. One that is evicted meanwhile is an orphan: a claim in it stores nothing.
    fn slot(&self, segment: SegmentId) -> Arc<Mutex<Slot>> {
        let made = self
            .slots
            .get_or_insert_with(&segment, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(slot) => slot,
            Err(never) => match never {},
        }
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Cache for MemoryCache {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn read(&self, segment: SegmentId, bound: Duration) -> Result<Lookup, CacheError> {
        let slot = self.slot(segment);
        let mut slot = lock(&slot);
        let now = Instant::now();
        slot.value
            .take_if(|value| now.duration_since(value.claimed) > self.keep.max(bound));
        let value = slot.value.as_ref().map(|value| Cached {
            members: value.members,
            as_of: value.as_of,
            age: now.duration_since(value.claimed),
            fresh: value.fresh,
        });
        let wanted = value.is_none_or(|value| !value.fresh || value.age > bound);
        let free = slot.claim.as_ref().is_none_or(|standing| standing.until <= now);
        let claim = (wanted && free && !bound.is_zero()).then(|| {
            let token = rand::random();
            slot.claim = Some(Standing {
                token,
                claimed: now,
                until: now + bound.min(MAX_CLAIM),
            });
            Claim { segment, token }
        });
        Ok(Lookup { value, claim })
    }

    async fn store(&self, claim: &Claim, members: i64, as_of: Timestamp) -> Result<bool, CacheError> {
        let Some(slot) = self.slots.get(&claim.segment) else {
            return Ok(false);
        };
        let mut slot = lock(&slot);
        let now = Instant::now();
        match slot.claim.take_if(|standing| standing.token == claim.token) {
            Some(Standing { claimed, until, .. }) if now < until => {
                slot.value = Some(Value {
                    members,
                    as_of,
                    claimed,
                    fresh: true,
                });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn invalidate(&self, segments: &[SegmentId]) -> Result<(), CacheError> {
        for segment in segments {
            let Some(slot) = self.slots.get(segment) else {
                continue;
            };
            let mut slot = lock(&slot);
            slot.claim = None;
            if let Some(value) = &mut slot.value {
                value.fresh = false;
            }
        }
        Ok(())
    }

    async fn health(&self) -> Vec<NodeHealth> {
        Vec::new()
    }
}
