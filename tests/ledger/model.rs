//! What every ledger must answer: the rules, over a plain map. Knows no database, and shares with the ledgers only the formula of rule 1.

use std::collections::BTreeMap;

use proptest::prelude::*;
use segment_counter::counting::{Outcome, Pair, Refusal, Rules, Window, expires_at};
use segment_counter::ledger::{Recording, RemovalOutcome};
use serde::{Deserialize, Serialize};

use crate::world::{SETTLE, after, pair};

pub const SECOND: i64 = 1_000_000;

/// A membership, or the mark that a removal left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Member {
    /// When it ends, in microseconds, archived or not; `None`: it was removed and has not come back.
    pub end: Option<i64>,
    /// When it was last removed, in microseconds.
    pub removed: Option<i64>,
}

impl Member {
    fn is_in(self, now: i64) -> bool {
        self.end.is_some_and(|end| end > now)
    }
}

/// What an erasure keeps out, both in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suppression {
    /// What was observed no later.
    pub at: i64,
    /// Until then: by the longest window that was allowed at the time.
    pub until: i64,
}

#[derive(Debug)]
pub struct Model {
    pub rules: Rules,
    /// Segments that exist, with their own windows.
    pub segments: BTreeMap<String, Option<Window>>,
    /// By (segment, user).
    pub members: BTreeMap<(String, String), Member>,
    /// Users who were erased.
    pub erased: BTreeMap<String, Suppression>,
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            segments: BTreeMap::new(),
            members: BTreeMap::new(),
            erased: BTreeMap::new(),
        }
    }

    /// Records a batch at `now`; what became of each pair, with the end in microseconds.
    pub fn record(&mut self, pairs: &[Pair], now: i64) -> Vec<(Outcome, Option<i64>)> {
        let mut answers = vec![(Outcome::Unchanged, None); pairs.len()];
        let mut best: BTreeMap<(String, String), (i64, usize)> = BTreeMap::new();
        for (index, pair) in pairs.iter().enumerate() {
            match self.judge(pair, now) {
                Err(answer) => answers[index] = answer,
                Ok(end) => {
                    let entry = best.entry(key(pair)).or_insert((end, index));
                    if end > entry.0 {
                        *entry = (end, index);
                    }
                }
            }
        }
        for (key, &(end, index)) in &best {
            let member = self.members.entry(key.clone()).or_default();
            answers[index].0 = match member.end {
                Some(old) if old >= end => Outcome::Unchanged,
                _ if member.is_in(now) => Outcome::Renewed,
                _ => Outcome::Created,
            };
            member.end = member.end.max(Some(end));
        }
        for (pair, answer) in pairs.iter().zip(&mut answers) {
            if matches!(answer.0, Outcome::Created | Outcome::Renewed | Outcome::Unchanged) {
                answer.1 = self.members.get(&key(pair)).and_then(|member| member.end);
            }
        }
        answers
    }

    /// When a pair's membership would end, or what becomes of it instead.
    fn judge(&mut self, pair: &Pair, now: i64) -> Result<i64, (Outcome, Option<i64>)> {
        let observed = pair.observed_micros();
        if observed.is_some_and(|at| at > now + 300 * SECOND) {
            return Err((Outcome::Refused(Refusal::ObservedInFuture), None));
        }
        let own = *self.segments.entry(pair.segment.as_str().to_owned()).or_default();
        let window = pair
            .ttl
            .or(own)
            .unwrap_or(self.rules.window())
            .min(self.rules.max_ttl());
        let end = expires_at(observed.unwrap_or(now), window, self.rules.resolution());
        let not_after = |at: Option<i64>| at.is_some_and(|at| observed.is_some_and(|observed| observed <= at));
        if end <= now {
            Err((Outcome::Expired, Some(end)))
        } else if not_after(self.suppressed(pair.user.as_str(), now)) {
            Err((Outcome::Erased, None))
        } else if not_after(self.members.get(&key(pair)).and_then(|member| member.removed)) {
            Err((Outcome::Removed, None))
        } else {
            Ok(end)
        }
    }

    /// Takes a user out of a segment.
    pub fn remove(&mut self, segment: &str, user: &str, now: i64) -> RemovalOutcome {
        if !self.segments.contains_key(segment) {
            return RemovalOutcome::NoSegment;
        }
        let member = self.members.entry((segment.to_owned(), user.to_owned())).or_default();
        let was_in = member.is_in(now);
        *member = Member {
            end: None,
            removed: member.removed.max(Some(now)),
        };
        if was_in {
            RemovalOutcome::Removed
        } else {
            RemovalOutcome::NotMember
        }
    }

    /// Erases a user, as of `at` by the answer: now, or when the user was last removed or erased, if the clock has stepped back since. A segment that was deleted
    /// and not cleared away yet may have a later mark than the model knows of.
    pub fn erase(&mut self, user: &str, now: i64, at: i64) -> Result<(), String> {
        let marks = self.members.iter().filter(|((_, of), _)| of == user);
        let removed = marks.filter_map(|(_, member)| member.removed).max();
        let before = self.erased.get(user).map(|erased| erased.at);
        let least = removed.max(before).unwrap_or(now).max(now);
        if at < least {
            return Err(format!("{user} was erased at {at}, and not at {least} or later"));
        }
        self.forget(user, now, at);
        Ok(())
    }

    /// What is left of a user who was erased.
    pub fn forget(&mut self, user: &str, now: i64, at: i64) {
        self.members.retain(|(_, of), _| of != user);
        let until = now + self.rules.memory_micros() + SETTLE;
        let erased = self.erased.entry(user.to_owned()).or_insert(Suppression { at, until });
        erased.at = at;
        erased.until = erased.until.max(until);
    }

    /// What was observed no later than this is kept out by an erasure.
    pub fn suppressed(&self, user: &str, now: i64) -> Option<i64> {
        self.erased
            .get(user)
            .filter(|erased| erased.until > now)
            .map(|erased| erased.at)
    }

    /// Forgets the erasures that a sweep forgets.
    pub fn sweep(&mut self, now: i64) {
        self.erased.retain(|_, erased| erased.until > now);
    }

    /// Deletes a segment; whether there was one.
    pub fn delete_segment(&mut self, segment: &str) -> bool {
        self.members.retain(|(of, _), _| of != segment);
        self.segments.remove(segment).is_some()
    }

    pub fn count(&self, segment: &str, now: i64) -> i64 {
        let members = self
            .members
            .iter()
            .filter(|((of, _), member)| of == segment && member.is_in(now));
        i64::try_from(members.count()).unwrap()
    }

    /// Every instant at which somebody leaves.
    pub fn ends(&self) -> Vec<i64> {
        let mut ends: Vec<i64> = self.members.values().filter_map(|member| member.end).collect();
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Fields", into = "Fields")]
pub struct Sketch {
    pub segment: u8,
    pub user: u8,
    /// Microseconds from now.
    pub offset: Option<i64>,
    /// Seconds.
    pub ttl: Option<i64>,
}

/// A sketch in short.
type Fields = (u8, u8, Option<i64>, Option<i64>);

impl From<Fields> for Sketch {
    fn from((segment, user, offset, ttl): Fields) -> Self {
        Self {
            segment,
            user,
            offset,
            ttl,
        }
    }
}

impl From<Sketch> for Fields {
    fn from(sketch: Sketch) -> Self {
        (sketch.segment, sketch.user, sketch.offset, sketch.ttl)
    }
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
