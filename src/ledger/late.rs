//! Counts that find much to take out of their total do it for good: an answer stays as fast where a sweep comes once a day, or never.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::LedgerError;

/// From how many settled buckets on: with members that leave in every minute, one count in half an hour writes its segment's total, and none reads
/// more than these and those of the settle time.
const MANY: i64 = 30;
/// How often one is moved on: a hundredth of what a database does, where there are very many segments.
const EVERY: Duration = Duration::from_millis(20);
/// How long none is tried after one failed.
const PAUSE: Duration = Duration::from_secs(60);

/// Since when a count may move a total on.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<Option<Instant>>);

impl Late {
    /// Of what a count read, (segment, settled buckets): the segment whose total it is to move on, if any.
    pub(super) fn latest(&self, read: impl Iterator<Item = (i64, i64)>) -> Option<i64> {
        let (segment, settled) = read.max_by_key(|(_, settled)| *settled)?;
        let now = Instant::now();
        let mut from = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if settled < MANY || from.is_some_and(|from| now < from) {
            return None;
        }
        *from = Some(now + EVERY);
        Some(segment)
    }

    /// How it went. The count is right all the same.
    pub(super) fn moved<T>(&self, answer: Result<T, LedgerError>) {
        if let Err(error) = answer {
            tracing::warn!(%error, "a count could not move its total on: counts take longer until a sweep does");
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + PAUSE);
        }
    }
}
