//! What is remembered of the objects between two looks at them, by their uid; all of it can be learnt again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{apply::Marks, observed::Probe};
use crate::crd::SegmentCounterStatus;

/// What is remembered of one object.
#[derive(Default)]
pub(crate) struct Memory {
    /// What the prober last learnt.
    pub(crate) probe: Probe,
    /// Why the prober had nothing to log in to; empty: it had.
    pub(crate) invalid: String,
    /// When to probe again.
    pub(crate) due: Due,
    /// What was applied, and how it stood then.
    pub(crate) marks: Marks,
    /// What the last prune left.
    pub(crate) pruned: Option<u64>,
    /// The status as it was written last: what the watch shows may be older.
    pub(crate) written: Option<SegmentCounterStatus>,
    /// Reconciles that failed in a row.
    pub(crate) failures: u32,
}

/// When an object is to be probed; by default at once.
#[derive(Debug, Default)]
pub(crate) struct Due {
    at: Option<Instant>,
    under_way: bool,
    again: bool,
}

impl Due {
    /// True once when the time has come: whoever is told so probes, and says when it has ended.
    pub(crate) fn take(&mut self) -> bool {
        let now = !self.under_way && self.at.is_none_or(|at| at <= Instant::now());
        self.under_way |= now;
        now
    }

    /// A probe has ended; the next follows after this long, or at once if something changed meanwhile.
    pub(crate) fn ended(&mut self, next: Duration) {
        self.under_way = false;
        self.at = (!std::mem::take(&mut self.again)).then(|| Instant::now() + next);
    }

    /// Something changed: probe now.
    pub(crate) fn now(&mut self) {
        self.at = None;
        self.again = self.under_way;
    }
}

/// All that is remembered.
#[derive(Default)]
pub(crate) struct Memories(Mutex<HashMap<String, Memory>>);

impl Memories {
    /// Reads or changes what is remembered of an object.
    pub(crate) fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(uid.to_owned()).or_default())
    }

    /// Forgets every object but these.
    pub(crate) fn keep(&self, uids: &HashSet<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|uid, _| uids.contains(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_object_is_probed_at_once_and_then_after_the_pause() {
        let mut due = Due::default();
        assert!(due.take());
        assert!(!due.take(), "it is under way");
        due.ended(Duration::from_secs(15));
        assert!(!due.take());
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(due.take());
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_while_a_probe_is_under_way_is_probed_after_it() {
        let mut due = Due::default();
        assert!(due.take());
        due.now();
        assert!(!due.take(), "never two at once");
        due.ended(Duration::from_secs(15));
        assert!(due.take(), "the one that ended may have seen the old password");
        due.ended(Duration::from_secs(15));
        assert!(!due.take());
        due.now();
        assert!(due.take());
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let memories = Memories::default();
        memories.with("a", |memory| memory.failures = 3);
        memories.with("b", |memory| memory.failures = 4);
        memories.keep(&HashSet::from(["b".to_owned()]));
        assert_eq!(memories.with("a", |memory| memory.failures), 0);
        assert_eq!(memories.with("b", |memory| memory.failures), 4);
    }
}
