//! What a client knows: when each of its pairs was acknowledged, by the monotonic clock of the test.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The acknowledgements of one segment, in their order. Each is of another user, so that they are members.
#[derive(Default)]
pub struct Acknowledged(Mutex<Vec<Instant>>);

impl Acknowledged {
    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap()
    }

    /// Pairs of so many users are acknowledged now.
    pub fn add(&self, users: usize) {
        let mut instants = self.lock();
        let now = Instant::now();
        instants.extend(std::iter::repeat_n(now, users));
    }

    /// How many there are.
    pub fn total(&self) -> i64 {
        i64::try_from(self.lock().len()).unwrap()
    }

    /// How many had been acknowledged at an instant.
    pub fn until(&self, at: Instant) -> i64 {
        i64::try_from(self.lock().partition_point(|one| *one <= at)).unwrap()
    }

    /// How long a request that was sent at `sent` and answered `count` was behind: the time since the first pair that the answer cannot hold.
    pub fn behind(&self, count: i64, sent: Instant) -> Duration {
        let instants = self.lock();
        let first_missing = usize::try_from(count).ok().and_then(|held| instants.get(held));
        first_missing.map_or(Duration::ZERO, |at| sent.saturating_duration_since(*at))
    }
}
