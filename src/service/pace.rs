//! How long a pair would wait for its commit, judged by the flushes before it: what bounds a queue by time. Its length alone says little, since
//! the same number of pairs is a moment to one database and many seconds to another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One part in so many of a new duration goes into the usual one.
const WEIGHT: u64 = 8;

/// The pace of one flusher. Numbers that are read while others change are a moment old, which an estimate bears.
#[derive(Debug)]
pub(crate) struct Pace {
    born: Instant,
    /// The most pairs of a flush.
    flush_pairs: usize,
    /// How long a flush takes of late, in microseconds; 0 before the first.
    usual: AtomicU64,
    /// When the flush under way began, in microseconds since `born`, and one more; 0 while there is none.
    begun: AtomicU64,
}

impl Pace {
    pub(crate) fn new(flush_pairs: usize) -> Self {
        Self {
            born: Instant::now(),
            flush_pairs: flush_pairs.max(1),
            usual: AtomicU64::new(0),
            begun: AtomicU64::new(0),
        }
    }

    pub(crate) fn begin(&self) {
        self.begun.store(self.now() + 1, Ordering::Relaxed);
    }

    /// A flush that failed took its time too.
    pub(crate) fn end(&self) {
        let begun = self.begun.swap(0, Ordering::Relaxed);
        let took = (self.now() + 1).saturating_sub(begun);
        let usual = self.usual.load(Ordering::Relaxed);
        let next = if usual == 0 {
            took
        } else {
            (usual * (WEIGHT - 1) + took) / WEIGHT
        };
        self.usual.store(next, Ordering::Relaxed);
    }

    /// The wait of a pair that comes now, where it would be longer than `limit`.
    ///
    /// One that finds room in the very next flush is never held to be late: however slow the database is, its flushes must be full.
    pub(crate) fn late(&self, ahead: usize, limit: Duration) -> Option<Duration> {
        if ahead < self.flush_pairs {
            return None;
        }
        let usual = self.usual.load(Ordering::Relaxed);
        let under_way = match self.begun.load(Ordering::Relaxed) {
            0 => 0,
            begun => {
                let elapsed = (self.now() + 1).saturating_sub(begun);
                // One that takes longer than usual will, for all that is known, take as long again.
                if elapsed < usual { usual - elapsed } else { elapsed }
            }
        };
        let flushes = u64::try_from(ahead / self.flush_pairs + 1).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(usual.saturating_mul(flushes).saturating_add(under_way));
        (wait > limit).then_some(wait)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);

    async fn flush(pace: &Pace, takes: Duration) {
        pace.begin();
        tokio::time::advance(takes).await;
        pace.end();
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_as_long_as_its_flushes_take() {
        let pace = Pace::new(10);
        flush(&pace, Duration::from_millis(100)).await;
        assert_eq!(pace.late(19, LIMIT), None);
        assert_eq!(pace.late(20, LIMIT), Some(Duration::from_millis(300)));
        // Of a faster database a longer queue is borne.
        for _ in 0..50 {
            flush(&pace, Duration::from_millis(10)).await;
        }
        assert_eq!(pace.late(200, LIMIT), None);
        assert!(pace.late(300, LIMIT).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_flush_under_way_counts_and_one_that_is_stuck_ever_more() {
        let pace = Pace::new(10);
        flush(&pace, Duration::from_millis(100)).await;
        pace.begin();
        assert_eq!(pace.late(10, LIMIT), Some(Duration::from_millis(300)));
        tokio::time::advance(Duration::from_millis(90)).await;
        assert_eq!(pace.late(10, LIMIT), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pace.late(10, LIMIT) > Some(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn room_in_the_next_flush_is_never_late() {
        let pace = Pace::new(10);
        flush(&pace, Duration::from_secs(60)).await;
        pace.begin();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.late(9, LIMIT), None);
        assert!(pace.late(10, LIMIT).is_some());
    }
}
