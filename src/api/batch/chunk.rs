//! The pairs of a stream that wait to be committed together, each once: what is sent again within a moment is not sent on.

use std::hash::BuildHasher;

use foldhash::{HashMap, fast::RandomState};
use tokio::time::Instant;

use super::totals::{Place, Totals};
use crate::counting::{Outcome, Pair};
use crate::ledger::Recording;

/// How many lines a chunk stands for at most, for each pair that a full one holds: a stream of one pair over and over must end up somewhere.
const LINES_OF_A_PAIR: usize = 10;

/// Pairs that wait.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pairs: Vec<Pair>,
    /// Since when the first of them waits, or what was left of a chunk that was sent.
    since: Option<Instant>,
    lines: Lines,
    /// Where a pair without an instant of its own stands, by its hash.
    seen: HashMap<u64, usize>,
    keys: RandomState,
}

/// Pairs that are sent off.
pub(super) struct Taken {
    pub(super) pairs: Vec<Pair>,
    pub(super) lines: Lines,
    /// The keys of those without an instant of their own.
    pub(super) keys: Vec<u64>,
}

/// Which line each pair of a chunk was, and the lines that repeated one.
#[derive(Debug, Default)]
pub(super) struct Lines {
    first: Vec<u64>,
    /// The place of the pair, and the line.
    repeats: Vec<(usize, u64)>,
}

impl Chunk {
    /// How many pairs wait.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// How many lines they stand for.
    pub(super) fn lines(&self) -> usize {
        self.lines.first.len() + self.lines.repeats.len()
    }

    /// Since when something waits; `None` where nothing does.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether it is time to send it, where `full` pairs make a full one.
    pub(super) fn is_full(&self, full: usize) -> bool {
        self.len() >= full || self.lines() >= full * LINES_OF_A_PAIR
    }

    /// Adds a pair. One that says the same as another, and no instant, is observed together with it.
    pub(super) fn push(&mut self, line: u64, pair: Pair) {
        if let Some(key) = self.key(&pair) {
            match self.seen.get(&key) {
                Some(&place) if self.pairs.get(place) == Some(&pair) => {
                    self.lines.repeats.push((place, line));
                    return;
                }
                _ => {
                    self.seen.insert(key, self.pairs.len());
                }
            }
        }
        self.since.get_or_insert_with(Instant::now);
        self.pairs.push(pair);
        self.lines.first.push(line);
    }

    /// What pairs that say the same share; `None` where a pair has an instant of its own.
    pub(super) fn key(&self, pair: &Pair) -> Option<u64> {
        let says = (&pair.segment, &pair.user, pair.ttl);
        pair.observed_at.is_none().then(|| self.keys.hash_one(says))
    }

    /// Takes the first `size` pairs out, with their lines.
    pub(super) fn take(&mut self, size: usize) -> Taken {
        let size = size.min(self.pairs.len());
        let rest = self.pairs.split_off(size);
        let pairs = std::mem::replace(&mut self.pairs, rest);
        self.since = (!self.pairs.is_empty()).then(Instant::now);
        let first = self.lines.first.split_off(size);
        let first = std::mem::replace(&mut self.lines.first, first);
        let (taken, left) = std::mem::take(&mut self.lines.repeats)
            .into_iter()
            .partition(|(place, _)| *place < size);
        self.lines.repeats = left;
        for (place, _) in &mut self.lines.repeats {
            *place -= size;
        }
        let mut keys = Vec::with_capacity(size);
        self.seen.retain(|key, place| {
            let stays = *place >= size;
            if !stays {
                keys.push(*key);
            }
            *place = place.saturating_sub(size);
            stays
        });
        let lines = Lines { first, repeats: taken };
        Taken { pairs, lines, keys }
    }
}

impl Lines {
    /// Counts what became of the pairs: a repeat of one that is in the segment now changes nothing, and of one that is not it is as good.
    pub(super) fn answered(self, recordings: &[Recording], totals: &mut Totals) {
        for (line, recording) in self.first.into_iter().zip(recordings) {
            totals.recorded(Place::Line(line), *recording);
        }
        for (place, line) in self.repeats {
            let Some(recording) = recordings.get(place) else {
                continue;
            };
            let outcome = match recording.outcome {
                Outcome::Created | Outcome::Renewed => Outcome::Unchanged,
                same => same,
            };
            totals.recorded(Place::Line(line), Recording { outcome, ..*recording });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counting::{SegmentName, UserId, Window};

    fn pair(user: &str) -> Pair {
        Pair {
            user: UserId::new(user).unwrap(),
            segment: SegmentName::new("s").unwrap(),
            observed_at: None,
            ttl: None,
        }
    }

    fn users(pairs: &[Pair]) -> Vec<&str> {
        pairs.iter().map(|pair| pair.user.as_str()).collect()
    }

    #[test]
    fn a_pair_waits_once_and_every_line_of_it_is_counted() {
        let mut chunk = Chunk::default();
        for (line, user) in (1..).zip(["a", "b", "a", "c", "b", "b", "c"]) {
            chunk.push(line, pair(user));
        }
        assert_eq!((chunk.len(), chunk.lines()), (3, 7));
        let Taken { pairs, lines, keys } = chunk.take(2);
        assert_eq!(keys.len(), 2);
        assert_eq!(users(&pairs), ["a", "b"]);
        assert_eq!(lines.repeats, [(0, 3), (1, 5), (1, 6)]);
        // What is left knows its places anew.
        assert_eq!((chunk.len(), chunk.lines()), (1, 2));
        chunk.push(8, pair("c"));
        chunk.push(9, pair("a"));
        let Taken { pairs, lines: rest, .. } = chunk.take(10);
        assert_eq!(users(&pairs), ["c", "a"]);
        assert_eq!((&*rest.first, &*rest.repeats), (&[4, 9][..], &[(0, 7), (0, 8)][..]));

        let mut totals = Totals::default();
        let recording = |outcome| Recording {
            outcome,
            expires_at: None,
        };
        lines.answered(&[recording(Outcome::Created), recording(Outcome::Renewed)], &mut totals);
        let counted = serde_json::to_value(&totals).unwrap();
        assert_eq!(
            [&counted["created"], &counted["renewed"], &counted["unchanged"]],
            [1, 1, 3]
        );
    }

    #[test]
    fn what_says_something_else_or_an_instant_is_a_pair_of_its_own() {
        let mut chunk = Chunk::default();
        let longer = Pair {
            ttl: Some(Window::from_seconds(60).unwrap()),
            ..pair("a")
        };
        let dated = Pair {
            observed_at: Some(jiff::Timestamp::UNIX_EPOCH),
            ..pair("a")
        };
        for (line, pair) in (1..).zip([pair("a"), longer.clone(), dated.clone(), dated, longer]) {
            chunk.push(line, pair);
        }
        assert_eq!((chunk.len(), chunk.lines()), (4, 5));
    }

    #[test]
    fn one_pair_over_and_over_makes_a_chunk_full_too() {
        let mut chunk = Chunk::default();
        for line in 0..100 {
            assert!(!chunk.is_full(10), "after {line}");
            chunk.push(line, pair("a"));
        }
        assert!(chunk.is_full(10));
    }
}
