//! What one process remembers of counts: entries with the instant that their age is counted from, and marks of changes since.
//!
//! Bounded; losing an entry costs a read, never an answer.

use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::counting::SegmentId;

/// A count in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) members: i64,
    pub(crate) as_of: Timestamp,
    /// An instant not after `as_of`, by this process' monotonic clock: ages counted from here are upper bounds.
    pub(crate) since: Instant,
    /// False where the cache said that a writer has changed the segment since.
    pub(crate) fresh: bool,
    /// True where the ledger said that there is no such segment any more; never remembered.
    pub(crate) gone: bool,
}

impl Entry {
    pub(crate) fn age(&self) -> Duration {
        self.age_at(Instant::now())
    }

    /// Nothing where it came after `now`.
    pub(crate) fn age_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

pub(crate) struct Local {
    entries: Cache<SegmentId, Entry>,
    /// When this process last said that a segment changed. Apart from the entries, so that a flight that lands late cannot undo a mark.
    marks: Cache<SegmentId, Instant>,
}

impl Local {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: Cache::new(capacity.max(1)),
            marks: Cache::new(capacity.max(1)),
        }
    }

    /// The entry of any age; its `fresh` says whether anything is known to have changed since.
    pub(crate) fn get(&self, segment: SegmentId) -> Option<Entry> {
        let mut entry = self.entries.get(&segment)?;
        entry.fresh &= self.marks.get(&segment).is_none_or(|changed| entry.since > changed);
        Some(entry)
    }

    /// Remembers an entry, unless a younger one stands; forgets a segment that is gone.
    pub(crate) fn keep(&self, segment: SegmentId, entry: Entry) {
        if entry.gone {
            self.entries.remove(&segment);
            return;
        }
        if self
            .entries
            .peek(&segment)
            .is_none_or(|standing| standing.since < entry.since)
        {
            self.entries.insert(segment, entry);
        }
    }

    /// Notes that segments changed before `at`.
    pub(crate) fn mark(&self, segments: &[SegmentId], at: Instant) {
        for segment in segments {
            self.marks.insert(*segment, at);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SegmentId = SegmentId(1);

    fn entry(members: i64) -> Entry {
        Entry {
            members,
            as_of: Timestamp::UNIX_EPOCH,
            since: Instant::now(),
            fresh: true,
            gone: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_entry_does_not_replace_a_younger_one() {
        let local = Local::new(10);
        let old = entry(1);
        tokio::time::advance(Duration::from_millis(1)).await;
        local.keep(S, entry(2));
        local.keep(S, old);
        assert_eq!(local.get(S).unwrap().members, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_outlives_an_entry_that_lands_late() {
        let local = Local::new(10);
        let late = entry(1);
        tokio::time::advance(Duration::from_millis(1)).await;
        local.mark(&[S], Instant::now());
        local.keep(S, late);
        assert!(!local.get(S).unwrap().fresh);
        tokio::time::advance(Duration::from_millis(1)).await;
        local.keep(S, entry(2));
        assert!(local.get(S).unwrap().fresh);
    }
}
