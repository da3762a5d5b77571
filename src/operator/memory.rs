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
    /// Whether the last probe did not reach what the one before had reached.
    pub(crate) missed: bool,
    /// When to probe again.
    pub(crate) due: Due,
    /// What was applied, and how it stood then.
    pub(crate) marks: Marks,
    /// What the last prune left.
    pub(crate) pruned: Option<u64>,
    /// What was written last: what the watch shows may be older.
    pub(crate) written: Option<Written>,
    /// Reconciles that failed in a row.
    pub(crate) failures: Failures,
}

/// A status that was written.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) status: SegmentCounterStatus,
    /// The resource version of the object as the watch showed it then: while it shows this one, it shows what was before.
    pub(crate) over: Option<String>,
}

/// Reconciles that failed in a row, and when the next try is due.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: u32,
    until: Option<Instant>,
}

impl Failures {
    /// One more has failed; how long to wait. A try that came before its time, because something else woke the object, makes the wait no
    /// longer: what wakes it says nothing about the fault.
    pub(crate) fn one_more(&mut self, wait: impl FnOnce(u32) -> Duration) -> Duration {
        let now = Instant::now();
        if let Some(left) = self.until.and_then(|until| until.checked_duration_since(now))
            && !left.is_zero()
        {
            return left;
        }
        self.count = self.count.saturating_add(1);
        let wait = wait(self.count);
        self.until = Some(now + wait);
        wait
    }

    /// It went well.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
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
        memories.with("a", |memory| memory.missed = true);
        memories.with("b", |memory| memory.missed = true);
        memories.keep(&HashSet::from(["b".to_owned()]));
        assert!(!memories.with("a", |memory| memory.missed));
        assert!(memories.with("b", |memory| memory.missed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_before_its_time_makes_the_wait_no_longer() {
        let mut failures = Failures::default();
        let seconds = |count: u32| Duration::from_secs(u64::from(count) * 10);
        assert_eq!(failures.one_more(seconds).as_secs(), 10);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(failures.one_more(seconds).as_secs(), 6);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(failures.one_more(seconds).as_secs(), 20);
        failures.clear();
        assert_eq!(failures.one_more(seconds).as_secs(), 10);
    }
}
