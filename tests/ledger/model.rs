//! What every ledger must answer: the rules, over a plain map. Knows no database, and shares with the ledgers only the formula of rule 1.

use std::collections::BTreeMap;

use proptest::prelude::*;
use segment_counter::counting::{Outcome, Pair, Refusal, Rules, Window, expires_at};
use segment_counter::ledger::Recording;

use crate::world::{after, pair};

pub const SECOND: i64 = 1_000_000;

#[derive(Debug)]
pub struct Model {
    pub rules: Rules,
    /// Segments that exist, with their own windows.
    pub segments: BTreeMap<String, Option<Window>>,
    /// (segment, user) to the end in microseconds, archived or not.
    pub members: BTreeMap<(String, String), i64>,
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            segments: BTreeMap::new(),
            members: BTreeMap::new(),
        }
    }

    /// Records a batch at `now`; what became of each pair, with the end in microseconds.
    pub fn record(&mut self, pairs: &[Pair], now: i64) -> Vec<(Outcome, Option<i64>)> {
        let mut answers = vec![(Outcome::Unchanged, None); pairs.len()];
        let mut best: BTreeMap<(String, String), (i64, usize)> = BTreeMap::new();
        for (index, pair) in pairs.iter().enumerate() {
            let observed = pair.observed_micros().unwrap_or(now);
            if observed > now + 300 * SECOND {
                answers[index] = (Outcome::Refused(Refusal::ObservedInFuture), None);
                continue;
            }
            let segment = pair.segment.as_str().to_owned();
            let own = *self.segments.entry(segment.clone()).or_default();
            let window = pair.ttl.or(own).unwrap_or(self.rules.window());
            let end = expires_at(observed, window, self.rules.resolution());
            if end <= now {
                answers[index] = (Outcome::Expired, Some(end));
                continue;
            }
            let entry = best
                .entry((segment, pair.user.as_str().to_owned()))
                .or_insert((end, index));
            if end > entry.0 {
                *entry = (end, index);
            }
        }
        for (key, &(end, index)) in &best {
            let old = self.members.get(key).copied();
            answers[index].0 = match old {
                Some(old) if old >= end => Outcome::Unchanged,
                Some(old) if old > now => Outcome::Renewed,
                _ => Outcome::Created,
            };
            self.members.insert(key.clone(), old.map_or(end, |old| old.max(end)));
        }
        for (pair, answer) in pairs.iter().zip(&mut answers) {
            if matches!(answer.0, Outcome::Created | Outcome::Renewed | Outcome::Unchanged) {
                answer.1 = self.members.get(&key(pair)).copied();
            }
        }
        answers
    }

    pub fn count(&self, segment: &str, now: i64) -> i64 {
        let members = self
            .members
            .iter()
            .filter(|((of, _), end)| of == segment && **end > now);
        i64::try_from(members.count()).unwrap()
    }

    /// Every instant at which somebody leaves.
    pub fn ends(&self) -> Vec<i64> {
        let mut ends: Vec<i64> = self.members.values().copied().collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

fn key(pair: &Pair) -> (String, String) {
    (pair.segment.as_str().to_owned(), pair.user.as_str().to_owned())
}

/// A ledger's answers in the model's terms.
pub fn answers(recorded: &[Recording]) -> Vec<(Outcome, Option<i64>)> {
    recorded
        .iter()
        .map(|one| (one.outcome, one.expires_at.map(|at| at.as_microsecond())))
        .collect()
}

/// A pair that is not bound to an instant yet.
#[derive(Debug, Clone)]
pub struct Sketch {
    segment: u8,
    user: u8,
    /// Microseconds from now.
    offset: Option<i64>,
    ttl: Option<i64>,
}

impl Sketch {
    pub fn at(&self, now: i64) -> Pair {
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        Pair {
            observed_at: self.offset.map(|offset| after(epoch, now + offset)),
            ttl: self.ttl.map(|seconds| Window::from_seconds(seconds).unwrap()),
            ..pair(&format!("s{}", self.segment), &format!("u{}", self.user))
        }
    }
}

/// Pairs of few users in few segments, so that they meet: now, late, duplicate, and around the five minutes ahead.
pub fn sketch() -> impl Strategy<Value = Sketch> {
    let offset = prop_oneof![
        3 => Just(None),
        3 => (-20_000_i64..200).prop_map(|seconds| Some(seconds * SECOND)),
        1 => (-60 * SECOND..60 * SECOND).prop_map(Some),
        1 => prop_oneof![Just(300 * SECOND), Just(300 * SECOND + 1), Just(4_000 * SECOND)].prop_map(Some),
    ];
    let ttl = prop_oneof![
        4 => Just(None),
        1 => (1_i64..40_000).prop_map(Some),
        1 => Just(Some(60)),
    ];
    (0_u8..4, 0_u8..6, offset, ttl).prop_map(|(segment, user, offset, ttl)| Sketch {
        segment,
        user,
        offset,
        ttl,
    })
}

pub fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    proptest::collection::vec(sketch(), 1..24)
}
