//! What this process knows to be committed, so that a pair that changes nothing costs no statement.
//!
//! Most pairs of a busy application repeat one of a moment ago and end with it at the same grain of the resolution. Such a one is answered from
//! here, and only where the ledger would answer the same:
//!
//! * An entry comes from a committed batch. It is believed for [`LEASE`] from *before* the last batch was sent that brought the same removal epoch:
//!   who removes, erases or changes a window raises the epoch and is acknowledged only after the lease, so nothing that is sent after that
//!   acknowledgement is swallowed. An older epoch adds nothing; a newer one lets go of everything.
//! * "Changes nothing" is judged by an upper bound of the database's time (the last answer's, and what has passed since it was asked for): users
//!   never leave early by it.

use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};
use siphasher::sip128::{Hasher128, SipHasher13};
use tokio::time::Instant;

use crate::counting::{Outcome, Pair, Rules, SegmentName, UserId, Window, expires_at, is_too_far_ahead};
use crate::ledger::{Recorded, Recording};

use super::removals::LEASE;

/// How many segments' windows are remembered.
const WINDOWS: usize = 10_000;
/// How much of the memory is for pairs that were seen again, and those that came first of all. Pairs repeat one of a moment ago or not at all, so
/// what is new has as much room, instead of the library's 3 %: it stays for longer, and what was useful once for less long.
const HOT: f64 = 0.5;
/// How many pairs are remembered as let go of, to be kept for longer when they come again: with so much room for new ones that finds a
/// hundredth more repeats at most, and the library's half of all would take half as much memory again.
const GHOSTS: f64 = 0.0;

/// A segment and a user in 128 bits. As two words: a `u128` is aligned to 16 bytes, which makes each entry larger.
type Key = [u64; 2];

/// What stands of a (segment, user).
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When the membership ends, in microseconds.
    end: i64,
    /// From when on pairs come after whatever was removed or erased, in microseconds.
    after: i64,
    epoch: i64,
}

/// The lease: until when, and by which clock.
#[derive(Debug, Clone, Copy)]
struct Lease {
    epoch: i64,
    /// An instant before the batch was sent that it rests on.
    sent: Instant,
    /// The database's time when that was recorded, in microseconds.
    at: i64,
}

pub(crate) struct Repeats {
    rules: Rules,
    keys: SipHasher13,
    known: Cache<Key, Known>,
    windows: Cache<SegmentName, (i64, Option<Window>)>,
    lease: Mutex<Option<Lease>>,
}

impl Repeats {
    /// Remembers about `entries` pairs at most; `None` where it is to remember none.
    pub(crate) fn new(rules: Rules, entries: usize) -> Option<Self> {
        (entries > 0).then(|| Self {
            rules,
            keys: SipHasher13::new_with_key(&rand::random()),
            known: bounded(entries),
            windows: Cache::new(WINDOWS),
            lease: Mutex::new(None),
        })
    }

    /// What the ledger would answer, where that is known: that the pair changes nothing.
    pub(crate) fn find(&self, pair: &Pair) -> Option<Recording> {
        let lease = (*self.lease.lock().unwrap_or_else(PoisonError::into_inner))?;
        let passed = lease.sent.elapsed();
        if passed >= LEASE {
            return None;
        }
        let known = self.known.get(&self.key(&pair.segment, &pair.user))?;
        let (epoch, own) = self.windows.get(&pair.segment)?;
        if [known.epoch, epoch] != [lease.epoch; 2] {
            return None;
        }
        let latest = lease.at.saturating_add(micros(passed));
        let observed = pair.observed_micros();
        if observed.is_some_and(|observed| observed < known.after || is_too_far_ahead(observed, lease.at)) {
            return None;
        }
        let window = self.rules.effective(pair.ttl, own);
        let end = expires_at(observed.unwrap_or(latest), window, self.rules.resolution());
        if end <= latest || end > known.end {
            return None;
        }
        Some(Recording {
            outcome: Outcome::Unchanged,
            expires_at: Some(Timestamp::from_microsecond(known.end).ok()?),
        })
    }

    /// Learns what a batch brought that was sent after `sent`.
    pub(crate) fn learn(&self, pairs: &[Pair], recorded: &Recorded, sent: Instant) {
        let at = recorded.at.as_microsecond();
        {
            let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
            match &*lease {
                Some(standing) if standing.epoch > recorded.epoch => return,
                Some(standing) if standing.epoch == recorded.epoch && standing.sent >= sent => {}
                _ => {
                    *lease = Some(Lease {
                        epoch: recorded.epoch,
                        sent,
                        at,
                    });
                }
            }
        }
        let epoch = recorded.epoch;
        let judged = pairs.iter().zip(&recorded.pairs).zip(&recorded.windows);
        for ((pair, recording), own) in judged {
            if !matches!(
                recording.outcome,
                Outcome::Created | Outcome::Renewed | Outcome::Unchanged
            ) {
                continue;
            }
            let Some(end) = recording.expires_at else { continue };
            let known = Known {
                end: end.as_microsecond(),
                after: pair.observed_micros().unwrap_or(at),
                epoch,
            };
            self.known.insert(self.key(&pair.segment, &pair.user), known);
            if self.windows.get(&pair.segment) != Some((epoch, *own)) {
                self.windows.insert(pair.segment.clone(), (epoch, *own));
            }
        }
    }

    /// 128 bits under a key of this process' own: that two pairs share one by chance is less likely than that the memory errs.
    fn key(&self, segment: &SegmentName, user: &UserId) -> Key {
        let mut hasher = self.keys;
        (segment, user).hash(&mut hasher);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }
}

#[expect(
    clippy::expect_used,
    reason = "what is built of constants and of both capacities does not fail"
)]
fn bounded(entries: usize) -> Cache<Key, Known> {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(entries)
        .weight_capacity(entries as u64)
        .hot_allocation(HOT)
        .ghost_allocation(GHOSTS)
        .build()
        .expect("both capacities are set");
    Cache::with_options(
        options,
        UnitWeighter,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

fn micros(duration: Duration) -> i64 {
    // Rounded up: it is a bound.
    i64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counting::Resolution;

    const SECOND: i64 = 1_000_000;

    fn rules() -> Rules {
        Rules::new(
            Window::from_seconds(600).unwrap(),
            Resolution::from_seconds(60).unwrap(),
        )
        .unwrap()
    }

    fn pair(observed: Option<i64>, ttl: Option<i64>) -> Pair {
        Pair {
            user: UserId::new("u").unwrap(),
            segment: SegmentName::new("s").unwrap(),
            observed_at: observed.map(|at| Timestamp::from_microsecond(at).unwrap()),
            ttl: ttl.map(|seconds| Window::from_seconds(seconds).unwrap()),
        }
    }

    fn recorded(pair: &Pair, at: i64, epoch: i64, own: Option<i64>) -> Recorded {
        let own = own.map(|seconds| Window::from_seconds(seconds).unwrap());
        let end = expires_at(
            pair.observed_micros().unwrap_or(at),
            rules().effective(pair.ttl, own),
            rules().resolution(),
        );
        Recorded {
            at: Timestamp::from_microsecond(at).unwrap(),
            pairs: vec![Recording {
                outcome: Outcome::Created,
                expires_at: Some(Timestamp::from_microsecond(end).unwrap()),
            }],
            changed: Vec::new(),
            windows: vec![own],
            epoch,
        }
    }

    /// Knows one pair that was recorded at `at`.
    fn knowing(pair: &Pair, at: i64, own: Option<i64>) -> Repeats {
        let repeats = Repeats::new(rules(), 100).unwrap();
        repeats.learn(std::slice::from_ref(pair), &recorded(pair, at, 7, own), Instant::now());
        repeats
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_within_the_grain_is_known_and_the_next_grain_is_not() {
        // 50 ms before the grain's end: the same pair a moment later ends with it, and 50 ms later it would not.
        let at = 60 * SECOND - 50_000;
        let repeats = knowing(&pair(None, None), at, None);
        let found = repeats.find(&pair(None, None)).unwrap();
        assert_eq!(found.outcome, Outcome::Unchanged);
        assert_eq!(found.expires_at.unwrap().as_microsecond(), 660 * SECOND);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(
            repeats.find(&pair(None, None)).is_some(),
            "the end of the grain belongs to it"
        );
        tokio::time::advance(Duration::from_micros(1)).await;
        assert_eq!(repeats.find(&pair(None, None)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_known_and_no_more_than_there_is_room_for() {
        for entries in [1, 2, 30, 1_000] {
            let repeats = Repeats::new(rules(), entries).unwrap();
            for user in 0..10_000 {
                let one = Pair {
                    user: UserId::new(user.to_string()).unwrap(),
                    ..pair(None, None)
                };
                repeats.learn(
                    std::slice::from_ref(&one),
                    &recorded(&one, SECOND, 7, None),
                    Instant::now(),
                );
                assert!(repeats.find(&one).is_some(), "{user} of {entries}");
            }
            // Each shard rounds up.
            assert!(
                repeats.known.len() <= entries + 64,
                "{} of {entries}",
                repeats.known.len()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_known_once_the_lease_is_over_and_again_after_the_next_batch() {
        let repeats = knowing(&pair(None, None), SECOND, None);
        tokio::time::advance(LEASE).await;
        assert_eq!(repeats.find(&pair(None, None)), None);
        // Any batch with the same epoch renews it, whatever it holds.
        let other = Pair {
            user: UserId::new("other").unwrap(),
            ..pair(None, None)
        };
        let sent = Instant::now();
        repeats.learn(
            std::slice::from_ref(&other),
            &recorded(&other, 2 * SECOND, 7, None),
            sent,
        );
        assert!(repeats.find(&pair(None, None)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn another_epoch_lets_go_of_everything_and_an_older_one_adds_nothing() {
        let one = pair(None, None);
        let repeats = knowing(&one, SECOND, None);
        let other = Pair {
            user: UserId::new("other").unwrap(),
            ..pair(None, None)
        };
        repeats.learn(
            std::slice::from_ref(&other),
            &recorded(&other, SECOND, 8, None),
            Instant::now(),
        );
        assert_eq!(repeats.find(&one), None);
        assert!(repeats.find(&other).is_some());
        repeats.learn(
            std::slice::from_ref(&one),
            &recorded(&one, SECOND, 7, None),
            Instant::now(),
        );
        assert_eq!(repeats.find(&one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_counts_from_before_the_batch_was_sent() {
        let one = pair(None, None);
        let repeats = Repeats::new(rules(), 100).unwrap();
        let sent = Instant::now();
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        repeats.learn(std::slice::from_ref(&one), &recorded(&one, SECOND, 7, None), sent);
        assert!(repeats.find(&one).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(repeats.find(&one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_change_something_or_be_refused_goes_to_the_ledger() {
        let at = 10_020 * SECOND;
        let repeats = knowing(&pair(Some(at - SECOND), None), at, None);
        let known = |observed: i64, ttl| repeats.find(&pair(Some(observed), ttl)).is_some();
        assert!(known(at - SECOND, None));
        assert!(known(at - SECOND, Some(300)), "a shorter window ends earlier");
        assert!(!known(at - SECOND, Some(700)), "a longer one ends later");
        assert!(
            !known(at - 2 * SECOND, None),
            "there may have been a removal in between"
        );
        assert!(!known(at - SECOND, Some(1)), "it has ended");
        assert!(!known(at + 301 * SECOND, Some(1)), "it is too far ahead");
        assert!(!known(at + 60 * SECOND, None), "it ends with the next grain");
    }

    #[tokio::test(start_paused = true)]
    async fn a_segments_own_window_is_the_one_that_counts() {
        let at = 10_000 * SECOND;
        let repeats = knowing(&pair(None, Some(300)), at, Some(300));
        assert!(repeats.find(&pair(None, None)).is_some());
        let repeats = knowing(&pair(None, Some(300)), at, None);
        assert_eq!(repeats.find(&pair(None, None)), None, "the counter's window is longer");
    }
}
