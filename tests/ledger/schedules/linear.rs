//! What calls that ran at once may have come to: every order of them that agrees with real time and with what each answered.
//!
//! Knows one (segment, user) at a time. A call takes effect at one moment between its begin and its end; whatever ended before another
//! began comes first. The states that such orders lead to are all that may stand afterwards; none means that the answers contradict each other.

use std::collections::HashSet;

/// What stands of a (segment, user).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub end: Option<i64>,
    pub removed: Option<i64>,
    pub kept_out: KeptOut,
}

/// Which of the user's pairs an erasure keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeptOut {
    None,
    /// Those that were observed no later.
    Until(i64),
    /// Every one: an erasure is under way. With the instant of the one before.
    All(Option<i64>),
}

/// What a call did to a (segment, user), by its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A pair was written. `observed`: the earliest of those that say when; none where every one is of now.
    Written {
        created: bool,
        end: i64,
        observed: Option<i64>,
    },
    /// Nothing was written, since this end stands.
    Stands {
        end: i64,
        observed: Option<i64>,
    },
    /// A removal beat pairs that were observed from `earliest` to `latest`.
    Beaten {
        earliest: i64,
        latest: i64,
    },
    /// An erasure kept pairs out, the latest of which was observed then (none: now).
    KeptOut {
        latest: Option<i64>,
    },
    Removed {
        was_in: bool,
    },
    /// The segment was deleted, and whatever is of that name afterwards is another.
    SegmentDeleted,
    /// All of an erasure at one moment. From here on what was observed until `at` is kept out.
    Erased {
        at: i64,
    },
    /// From here on every pair is kept out; what stands goes at some moment until the end.
    ErasureBegins,
    /// From here on only what was observed until `at`.
    ErasureEnds {
        at: i64,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Places in the order of all begins and ends.
    pub begin: u64,
    pub end: u64,
    pub act: Act,
}

impl State {
    fn is_in(self, now: i64) -> bool {
        self.end.is_some_and(|end| end > now)
    }

    /// Whether a pair (of now, where `observed` is none) would be recorded.
    fn admits(self, observed: Option<i64>) -> bool {
        let beaten = |at: i64| observed.is_some_and(|observed| observed <= at);
        let kept_out = match self.kept_out {
            KeptOut::None => false,
            KeptOut::Until(at) => beaten(at),
            KeptOut::All(_) => true,
        };
        !kept_out && !self.removed.is_some_and(beaten)
    }

    /// What stands after an act that answered so; none where it cannot have answered so here.
    fn after(self, act: Act, now: i64) -> Option<Self> {
        match act {
            Act::Written { created, end, observed } => {
                let fits = if created {
                    !self.is_in(now)
                } else {
                    self.is_in(now) && self.end < Some(end)
                };
                (fits && self.admits(observed)).then_some(Self { end: Some(end), ..self })
            }
            Act::Stands { end, observed } => {
                (self.end == Some(end) && self.is_in(now) && self.admits(observed)).then_some(self)
            }
            Act::Beaten { earliest, latest } => {
                let unmarked = Self { removed: None, ..self };
                (unmarked.admits(Some(earliest)) && self.removed.is_some_and(|at| latest <= at)).then_some(self)
            }
            Act::KeptOut { latest } => match self.kept_out {
                KeptOut::All(_) => Some(self),
                KeptOut::Until(at) => latest.is_some_and(|latest| latest <= at).then_some(self),
                KeptOut::None => None,
            },
            // A mark would be the last thing left of a user who is being erased. Who is in no more was taken away by the erasure.
            Act::Removed { was_in } if matches!(self.kept_out, KeptOut::All(_)) => {
                (self.is_in(now) || !was_in).then_some(Self { end: None, ..self })
            }
            Act::Removed { was_in } => (self.is_in(now) == was_in).then_some(Self {
                end: None,
                removed: self.removed.max(Some(now)),
                ..self
            }),
            Act::SegmentDeleted => Some(Self::erased(self.kept_out)),
            Act::Erased { at } => match self.kept_out {
                KeptOut::None => self.erased_at(at, None, now),
                KeptOut::Until(before) => self.erased_at(at, Some(before), now),
                KeptOut::All(_) => None,
            },
            Act::ErasureBegins => {
                let before = match self.kept_out {
                    KeptOut::None => None,
                    KeptOut::Until(before) => Some(before),
                    KeptOut::All(_) => return None,
                };
                let kept_out = KeptOut::All(before);
                Some(Self { kept_out, ..self })
            }
            Act::ErasureEnds { at } => match self.kept_out {
                KeptOut::All(before) => self.erased_at(at, before, now),
                KeptOut::None | KeptOut::Until(_) => None,
            },
        }
    }

    /// What a removal or an erasure before kept out stays out.
    fn erased_at(self, at: i64, before: Option<i64>, now: i64) -> Option<Self> {
        let least = self.removed.max(before).unwrap_or(now).max(now);
        (at >= least).then_some(Self::erased(KeptOut::Until(at)))
    }

    fn erased(kept_out: KeptOut) -> Self {
        Self {
            end: None,
            removed: None,
            kept_out,
        }
    }
}

/// Every state that the calls may have led to. At most 128 calls.
pub fn endings(start: State, calls: &[Call], now: i64) -> HashSet<State> {
    assert!(calls.len() <= 128, "{} calls on one membership", calls.len());
    let all = u128::MAX
        .checked_shr(128 - u32::try_from(calls.len()).unwrap())
        .unwrap_or(0);
    let (mut endings, mut seen) = (HashSet::new(), HashSet::new());
    let mut open = vec![(0_u128, start)];
    while let Some((done, state)) = open.pop() {
        let done = settle(done, state, calls, now);
        if done == all {
            endings.insert(state);
        } else if seen.insert((done, state)) {
            for index in may_be_next(done, calls) {
                if let Some(after) = state.after(calls[index].act, now) {
                    open.push((done | 1 << index, after));
                }
            }
        }
    }
    endings
}

/// Takes every call that never changes anything as soon as it may come and fits: whatever order it fits in later, it fits in here too.
fn settle(mut done: u128, state: State, calls: &[Call], now: i64) -> u128 {
    let idle = |act| matches!(act, Act::Stands { .. } | Act::Beaten { .. } | Act::KeptOut { .. });
    loop {
        let next = may_be_next(done, calls)
            .find(|index| idle(calls[*index].act) && state.after(calls[*index].act, now).is_some());
        match next {
            Some(index) => done |= 1 << index,
            None => return done,
        }
    }
}

/// The calls that began before any of those left had ended.
fn may_be_next(done: u128, calls: &[Call]) -> impl Iterator<Item = usize> {
    let left = move |index: &usize| done & (1 << index) == 0;
    let first_end = (0..calls.len()).filter(left).map(|index| calls[index].end).min();
    (0..calls.len())
        .filter(left)
        .filter(move |index| first_end.is_some_and(|end| calls[*index].begin < end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;
    const NOBODY: State = State {
        end: None,
        removed: None,
        kept_out: KeptOut::None,
    };

    fn call(begin: u64, end: u64, act: Act) -> Call {
        Call { begin, end, act }
    }

    fn written(created: bool, end: i64, observed: Option<i64>) -> Act {
        Act::Written { created, end, observed }
    }

    fn ends(calls: &[Call]) -> Vec<Option<i64>> {
        let mut ends: Vec<_> = endings(NOBODY, calls, NOW).into_iter().map(|state| state.end).collect();
        ends.sort_unstable();
        ends
    }

    #[test]
    fn what_ran_at_once_may_come_in_either_order_and_what_did_not_only_in_one() {
        let removed = Act::Removed { was_in: false };
        // At once: the pair of now may come before (then the removal found it) or after.
        assert_eq!(
            ends(&[call(0, 3, written(true, 2_000, None)), call(1, 2, removed)]),
            [Some(2_000)]
        );
        assert_eq!(
            ends(&[
                call(0, 3, written(true, 2_000, None)),
                call(1, 2, Act::Removed { was_in: true })
            ]),
            [None]
        );
        // One after the other.
        assert_eq!(
            ends(&[
                call(0, 1, written(true, 2_000, None)),
                call(2, 3, Act::Removed { was_in: true })
            ]),
            [None]
        );
        assert!(ends(&[call(0, 1, written(true, 2_000, None)), call(2, 3, removed)]).is_empty());
    }

    #[test]
    fn a_pair_that_was_observed_before_a_removal_counts_only_where_it_came_first() {
        let removed = Act::Removed { was_in: false };
        assert!(ends(&[call(0, 3, written(true, 2_000, Some(NOW))), call(1, 2, removed)]).is_empty());
        let beaten = Act::Beaten {
            earliest: 900,
            latest: NOW,
        };
        assert_eq!(ends(&[call(0, 3, beaten), call(1, 2, removed)]), [None]);
        assert!(ends(&[call(0, 1, beaten), call(2, 3, removed)]).is_empty());
        // Later than the clock: arrival decides.
        let ahead = written(true, 2_000, Some(NOW + 1));
        assert_eq!(ends(&[call(0, 3, ahead), call(1, 2, removed)]), [Some(2_000)]);
    }

    #[test]
    fn an_end_never_moves_back_and_a_member_is_created_once() {
        let (first, second) = (written(true, 2_000, None), written(false, 3_000, None));
        assert_eq!(ends(&[call(0, 2, first), call(1, 3, second)]), [Some(3_000)]);
        assert!(
            ends(&[
                call(0, 2, written(true, 3_000, None)),
                call(1, 3, written(false, 2_000, None))
            ])
            .is_empty()
        );
        assert!(ends(&[call(0, 2, first), call(1, 3, written(true, 3_000, None))]).is_empty());
        let stands = Act::Stands {
            end: 2_000,
            observed: None,
        };
        assert_eq!(
            ends(&[call(0, 4, first), call(1, 2, stands), call(3, 5, second)]),
            [Some(3_000)]
        );
        assert!(ends(&[call(0, 1, first), call(2, 3, second), call(4, 5, stands)]).is_empty());
    }

    #[test]
    fn nothing_that_was_observed_before_an_erasure_stands_after_it() {
        let erasure = [call(0, 9, Act::ErasureBegins), call(0, 9, Act::ErasureEnds { at: NOW })];
        let with = |act| [erasure[0], erasure[1], call(1, 8, act)];
        // Of before: it came first and is gone. Of now: it may also have come afterwards, but not while it ran.
        assert_eq!(ends(&with(written(true, 2_000, Some(900)))), [None]);
        assert_eq!(ends(&with(written(true, 2_000, None))), [None, Some(2_000)]);
        assert_eq!(ends(&with(Act::KeptOut { latest: None })), [None]);
        // A removal may have come before its rows went, or afterwards.
        for was_in in [true, false] {
            let calls = with(written(true, 2_000, Some(900)));
            let removed = call(9, 10, Act::Removed { was_in });
            let among = [calls[0], calls[1], calls[2], Call { begin: 8, ..removed }];
            let ended = ends(&among);
            assert!(!ended.is_empty() && ended.iter().all(Option::is_none), "{ended:?}");
            let after = [calls[0], calls[1], calls[2], removed];
            assert_eq!(ends(&after).is_empty(), was_in);
        }
        // One that finds nothing may still have come after something.
        let erased = Act::Erased { at: NOW };
        assert_eq!(
            ends(&[call(0, 9, erased), call(1, 8, written(true, 2_000, None))]),
            [None, Some(2_000)]
        );
        let at_one_moment = [call(0, 9, erased), call(1, 8, Act::KeptOut { latest: None })];
        assert!(ends(&at_one_moment).is_empty());
    }
}
