//! What counts as waiting until it is dropped: a single pair, or the pairs of a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One of a number, until it is dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(super) fn of(number: &'a AtomicUsize) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pairs of a batch that count as waiting until they are committed or given up.
pub(super) struct Reserved {
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) pairs: usize,
}

impl Reserved {
    pub(super) fn release(&mut self, pairs: usize) {
        self.pairs -= pairs;
        self.waiting.fetch_sub(pairs, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.pairs, Ordering::Relaxed);
    }
}
