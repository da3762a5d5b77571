//! Counts that read many buckets which have ended: their totals are moved on, so that an answer stays as fast where a sweep comes once a day, or never.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::LedgerError;

/// From how many settled buckets on a total is moved on. Where members leave in every minute that is a write in half an hour for a segment.
const MANY: i64 = 30;
/// How many totals are moved on at once: of one count, those with the most.
const AT_ONCE: usize = 100;
/// How long each part of that may take: nobody waits for it, and locks are held in the last one only.
pub(super) const MOMENT: Duration = Duration::from_secs(1);
/// How soon after one the next may be.
const EVERY: Duration = Duration::from_millis(100);
/// How long none is tried after one failed.
const PAUSE: Duration = Duration::from_secs(60);

/// Whether totals are being moved on, and from when on they may be.
#[derive(Debug, Default)]
pub(super) struct Late(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    busy: bool,
    from: Option<Instant>,
}

/// Segments whose totals are to be moved on; no others are until this is dropped.
#[derive(Debug)]
pub(super) struct Overdue {
    pub(super) segments: Vec<i64>,
    late: Arc<Mutex<State>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Late {
    /// Of what a count read, (segment, settled buckets).
    pub(super) fn overdue(&self, read: impl Iterator<Item = (i64, i64)>) -> Option<Overdue> {
        let mut many: Vec<(i64, i64)> = read.filter(|(_, settled)| *settled >= MANY).collect();
        if many.is_empty() {
            return None;
        }
        let mut state = locked(&self.0);
        if state.busy || state.from.is_some_and(|from| Instant::now() < from) {
            return None;
        }
        state.busy = true;
        many.sort_unstable_by_key(|(_, settled)| std::cmp::Reverse(*settled));
        Some(Overdue {
            segments: many.into_iter().take(AT_ONCE).map(|(segment, _)| segment).collect(),
            late: Arc::clone(&self.0),
        })
    }
}

impl Overdue {
    pub(super) fn ended<T>(self, answer: Result<T, LedgerError>) {
        if let Err(error) = answer {
            tracing::warn!(%error, "totals could not be moved on: counts take longer until a sweep does");
            locked(&self.late).from = Some(Instant::now() + PAUSE);
        }
    }
}

impl Drop for Overdue {
    fn drop(&mut self) {
        let mut state = locked(&self.late);
        state.busy = false;
        let soon = Instant::now() + EVERY;
        state.from = state.from.max(Some(soon));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn totals_are_moved_on_one_after_another_and_not_at_once_again_after_a_failure() {
        let late = Late::default();
        assert!(late.overdue([(1, MANY - 1)].into_iter()).is_none());
        let most = late.overdue((0..1_000).map(|segment| (segment, segment))).unwrap();
        assert_eq!((most.segments.len(), most.segments[0]), (AT_ONCE, 999));
        assert!(late.overdue([(1, MANY)].into_iter()).is_none(), "one is under way");
        most.ended(Ok(()));
        assert!(late.overdue([(1, MANY)].into_iter()).is_none(), "too soon");
        tokio::time::advance(EVERY).await;
        let one = late.overdue([(1, MANY), (2, 0)].into_iter()).unwrap();
        assert_eq!(one.segments, [1]);
        one.ended::<()>(Err(LedgerError::Timeout("no answer".to_owned())));
        tokio::time::advance(PAUSE - EVERY).await;
        assert!(
            late.overdue([(1, MANY)].into_iter()).is_none(),
            "it failed a moment ago"
        );
        tokio::time::advance(EVERY).await;
        assert!(late.overdue([(1, MANY)].into_iter()).is_some());
    }
}
