//! Counts that find their total late: nobody swept for long, so they do it themselves. Answers stay fast where no job ever runs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From how many ended buckets on a total is late. A sweep each quarter of an hour leaves some twenty of a minute each; reading a thousand takes as long
/// as a few counts.
const LATE: i64 = 1_000;
/// How often a count moves its total on: what ended within the settle time may be more than [`LATE`], and no sweep takes that.
const EVERY: Duration = Duration::from_millis(200);

/// When a count last moved a total on.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<Option<Instant>>);

impl Late {
    /// Of what a count read, (segment, ended buckets): the segment whose total it is to move on, if any.
    pub(super) fn latest(&self, read: impl Iterator<Item = (i64, i64)>) -> Option<(i64, i64)> {
        read.max_by_key(|(_, ended)| *ended)
            .filter(|(_, ended)| *ended >= LATE && self.is_due())
    }

    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    /// Tells of it: the counts are right all the same.
    pub(super) fn tell(ended: i64, moved: Result<(), super::LedgerError>) {
        match moved {
            Ok(()) => tracing::debug!(ended, "a count took out of its total what nobody had swept"),
            Err(error) => {
                tracing::warn!(ended, %error, "a count could not take out of its total what nobody had swept")
            }
        }
    }
}
