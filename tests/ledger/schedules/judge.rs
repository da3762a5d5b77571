//! Judges a phase: what stands afterwards must be what some order of its calls leads to. The model goes on from there.

use std::collections::{BTreeMap, BTreeSet};

use segment_counter::counting::{Outcome, Pair, Refusal, Window, expires_at, is_too_far_ahead};
use segment_counter::ledger::{Recording, RemovalOutcome};

use super::existence::{Existence, seconds};
use super::linear::{Act, Call, KeptOut, State, endings};
use super::phase::{Done, Log};
use super::site::{Key, Stand};
use super::steps::On;
use super::truth::{Horizon, agrees};
use crate::model::{Member, Model};

/// What phases showed, for the figures at the end: a suite in which nothing ever met would prove nothing.
#[derive(Debug, Default)]
pub struct Seen {
    pub calls: usize,
    pub pairs: usize,
    /// How often each outcome came out of a phase.
    pub outcomes: BTreeMap<String, usize>,
    /// How often a schedule was begun anew, since no connection was had in time.
    pub away: u32,
    /// How often a segment went to another lane.
    pub moves: usize,
    /// How many memberships might have ended in more than one way.
    pub open: usize,
}

/// A pair, what became of it, and when it may have ended.
type Recorded<'a> = (&'a Pair, &'a Recording, Vec<i64>);

struct Judge<'a> {
    on: On,
    now: i64,
    model: &'a Model,
    logs: &'a [Log],
    calls: BTreeMap<Key, Vec<Call>>,
}

/// `logs`: in the order of their begins.
pub fn judge(
    on: On,
    logs: &[Log],
    model: &mut Model,
    stand: &Stand,
    horizon: Horizon,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut judge = Judge {
        on,
        now: horizon.now,
        model,
        logs,
        calls: BTreeMap::new(),
    };
    let mut erased: BTreeMap<String, i64> = BTreeMap::new();
    for log in logs {
        seen.calls += 1;
        match &log.done {
            Done::Recorded(pairs, recorded) => {
                seen.pairs += pairs.len();
                for one in recorded {
                    *seen.outcomes.entry(format!("{:?}", one.outcome)).or_default() += 1;
                }
                judge.recorded(log, pairs, recorded)?;
            }
            Done::Removed(members, outcomes) => {
                for outcome in outcomes {
                    *seen.outcomes.entry(format!("removal {outcome:?}")).or_default() += 1;
                }
                judge.removed(log, members, outcomes)?;
            }
            Done::Erased(user, at) => {
                if *at > horizon.latest {
                    return Err(format!("{user} was erased at {at}, which has never been: {horizon:?}"));
                }
                let last = erased.entry(user.clone()).or_insert(*at);
                *last = (*last).max(*at);
            }
            Done::Moved(moved) => seen.moves += usize::from(*moved),
            Done::Deleted(segment, deleted) => {
                *seen.outcomes.entry(format!("deletion {deleted}")).or_default() += 1;
                judge.existence(segment).fits(log, *deleted)?;
            }
            Done::Put(..) | Done::Archived | Done::Swept | Done::Recounted => {}
        }
    }
    let found = judge.endings(stand, horizon, seen)?;
    let segments = judge.segments(stand)?;
    model.segments = segments;
    if logs.iter().any(|log| matches!(log.done, Done::Swept)) {
        model.sweep(horizon.now);
    }
    for (user, at) in erased {
        model.forget(&user, horizon.now, at);
    }
    model.members = found;
    Ok(())
}

pub fn ahead(pair: &Pair, now: i64) -> bool {
    pair.observed_micros().is_some_and(|at| is_too_far_ahead(at, now))
}

impl Judge<'_> {
    fn existence<'b>(&self, segment: &'b str) -> Existence<'b> {
        Existence::of(segment, self.model, self.logs, self.now)
    }

    /// The segments as they stand, where they may.
    fn segments(&self, stand: &Stand) -> Result<BTreeMap<String, Option<Window>>, String> {
        let named = self.logs.iter().flat_map(|log| match &log.done {
            Done::Recorded(pairs, _) => pairs.iter().map(|pair| pair.segment.as_str().to_owned()).collect(),
            Done::Put(segment, _) | Done::Deleted(segment, _) => vec![segment.clone()],
            _ => Vec::new(),
        });
        let stand: BTreeMap<String, Option<Window>> = stand
            .segments
            .iter()
            .map(|(segment, window)| (segment.clone(), window.map(seconds)))
            .collect();
        let all: BTreeSet<String> = named
            .chain(self.model.segments.keys().cloned())
            .chain(stand.keys().cloned())
            .collect();
        for segment in all {
            self.existence(&segment).ends(stand.get(&segment).copied())?;
        }
        Ok(stand)
    }

    fn note(&mut self, key: Key, log: &Log, act: Act) {
        let (begin, end) = (log.begin, log.end);
        self.calls.entry(key).or_default().push(Call { begin, end, act });
    }

    /// The ends that a pair may have had: by every window of its segment that may have held during the call.
    fn ends(&self, pair: &Pair, log: &Log) -> Vec<i64> {
        self.existence(pair.segment.as_str())
            .windows((log.begin, log.end))
            .map(|own| {
                let window = pair.ttl.or(own).unwrap_or(self.model.rules.window());
                let window = window.min(self.model.rules.max_ttl());
                expires_at(
                    pair.observed_micros().unwrap_or(self.now),
                    window,
                    self.model.rules.resolution(),
                )
            })
            .collect()
    }

    fn recorded(&mut self, log: &Log, pairs: &[Pair], recorded: &[Recording]) -> Result<(), String> {
        let mut together: BTreeMap<Key, Vec<Recorded<'_>>> = BTreeMap::new();
        for (pair, one) in pairs.iter().zip(recorded) {
            let ends = self.ends(pair, log);
            let at = one.expires_at.map(|at| at.as_microsecond());
            let fits = match one.outcome {
                Outcome::Refused(Refusal::ObservedInFuture) => ahead(pair, self.now) && at.is_none(),
                _ if ahead(pair, self.now) => false,
                Outcome::Refused(Refusal::SegmentLimit) => false,
                Outcome::Expired => at.is_some_and(|at| at <= self.now && ends.contains(&at)),
                Outcome::Created | Outcome::Renewed => at.is_some_and(|at| at > self.now && ends.contains(&at)),
                Outcome::Unchanged => at.is_some_and(|at| ends.iter().any(|end| *end > self.now && *end <= at)),
                Outcome::Removed | Outcome::Erased => at.is_none() && ends.iter().any(|end| *end > self.now),
            };
            if !fits {
                return Err(format!(
                    "{pair:?} may end at {ends:?} and became {one:?} at {}",
                    self.now
                ));
            }
            let key = (pair.segment.as_str().to_owned(), pair.user.as_str().to_owned());
            together.entry(key).or_default().push((pair, one, ends));
        }
        for (key, group) in together {
            for act in self.acts(&group).map_err(|why| format!("{key:?}: {why}"))? {
                self.note(key.clone(), log, act);
            }
        }
        Ok(())
    }

    /// What the pairs of one (segment, user) in one batch did: those that were recorded count as one.
    fn acts(&self, group: &[Recorded<'_>]) -> Result<Vec<Act>, String> {
        let observed = |outcome: Outcome| {
            let of = group.iter().filter(move |(_, one, _)| one.outcome == outcome);
            of.map(|(pair, ..)| pair.observed_micros())
        };
        let mut acts = Vec::new();
        let beaten: Option<Vec<i64>> = observed(Outcome::Removed).collect();
        match beaten {
            None => return Err(format!("a removal beat a pair of now: {group:?}")),
            Some(beaten) => {
                if let (Some(&earliest), Some(&latest)) = (beaten.iter().min(), beaten.iter().max()) {
                    acts.push(Act::Beaten { earliest, latest });
                }
            }
        }
        let kept_out: Vec<Option<i64>> = observed(Outcome::Erased).collect();
        if !kept_out.is_empty() {
            let latest = kept_out.into_iter().collect::<Option<Vec<i64>>>();
            let latest = latest.and_then(|all| all.into_iter().max());
            acts.push(Act::KeptOut { latest });
        }

        let counted = |outcome| matches!(outcome, Outcome::Created | Outcome::Renewed | Outcome::Unchanged);
        let group: Vec<_> = group.iter().filter(|(_, one, _)| counted(one.outcome)).collect();
        let Some((_, first, _)) = group.first() else {
            return Ok(acts);
        };
        let end = first.expires_at.unwrap().as_microsecond();
        if group.iter().any(|(_, one, _)| one.expires_at != first.expires_at) {
            return Err(format!("pairs of one batch differ in what stands: {group:?}"));
        }
        let moved: Vec<usize> = (0..group.len())
            .filter(|index| group[*index].1.outcome != Outcome::Unchanged)
            .collect();
        let earliest = group.iter().filter_map(|(pair, ..)| pair.observed_micros()).min();
        match moved[..] {
            [] => acts.push(Act::Stands {
                end,
                observed: earliest,
            }),
            [best] => {
                // The one that ends last, of those the first.
                let fits = |(index, (_, _, ends)): (usize, &&Recorded<'_>)| match index {
                    _ if index == best => ends.contains(&end),
                    _ if index < best => ends.iter().any(|other| *other < end),
                    _ => ends.iter().any(|other| *other <= end),
                };
                if !group.iter().enumerate().all(fits) {
                    return Err(format!("it is not the last to end that was written: {group:?}"));
                }
                // On PostgreSQL a removal that the snapshot did not see is weighed against the pair that is written, not against the others.
                let observed = if self.on.is_postgres() {
                    group[best].0.observed_micros()
                } else {
                    earliest
                };
                let created = group[best].1.outcome == Outcome::Created;
                acts.push(Act::Written { created, end, observed });
            }
            _ => return Err(format!("one batch moved one end twice: {group:?}")),
        }
        Ok(acts)
    }

    fn removed(&mut self, log: &Log, members: &[Key], outcomes: &[RemovalOutcome]) -> Result<(), String> {
        let mut answered: BTreeMap<&Key, RemovalOutcome> = BTreeMap::new();
        for (member, outcome) in members.iter().zip(outcomes) {
            if *answered.entry(member).or_insert(*outcome) != *outcome {
                return Err(format!(
                    "{member:?} was removed twice at once, with two outcomes: {log:?}"
                ));
            }
        }
        for (member, outcome) in answered {
            let found = outcome != RemovalOutcome::NoSegment;
            self.existence(&member.0).fits(log, found)?;
            if outcome != RemovalOutcome::NoSegment {
                let was_in = outcome == RemovalOutcome::Removed;
                self.note(member.clone(), log, Act::Removed { was_in });
            }
        }
        Ok(())
    }

    /// Compares what stands with what may, and gives back the model's members as they stand.
    fn endings(&self, stand: &Stand, horizon: Horizon, seen: &mut Seen) -> Result<BTreeMap<Key, Member>, String> {
        let keys: BTreeSet<&Key> = self
            .model
            .members
            .keys()
            .chain(self.calls.keys())
            .chain(stand.rows.keys())
            .collect();
        let mut found = BTreeMap::new();
        for key in keys {
            let before = self.model.members.get(key).copied().unwrap_or_default();
            let start = State {
                end: before.end,
                removed: before.removed,
                kept_out: match self.model.suppressed(&key.1, self.now) {
                    None => KeptOut::None,
                    Some(at) => KeptOut::Until(at),
                },
            };
            let mut calls = self.calls.get(key).cloned().unwrap_or_default();
            for log in self.logs {
                if let Done::Erased(user, at) = &log.done
                    && *user == key.1
                {
                    let at = *at;
                    let acts: &[Act] = if self.on.is_postgres() {
                        &[Act::ErasureBegins, Act::ErasureEnds { at }]
                    } else {
                        &[Act::Erased { at }]
                    };
                    let (begin, end) = (log.begin, log.end);
                    calls.extend(acts.iter().map(|&act| Call { begin, end, act }));
                }
            }
            for log in self.logs {
                if matches!(&log.done, Done::Deleted(segment, true) if *segment == key.0) {
                    let (begin, end) = (log.begin, log.end);
                    calls.push(Call {
                        begin,
                        end,
                        act: Act::SegmentDeleted,
                    });
                }
            }
            let endings = endings(start, &calls, self.now);
            seen.open += usize::from(endings.len() > 1);
            let row = stand.rows.get(key).copied();
            let actual = endings
                .iter()
                .map(|state| Member {
                    end: state.end,
                    removed: state.removed,
                })
                .find(|member| agrees(*member, row, horizon));
            let Some(actual) = actual else {
                let calls: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
                return Err(format!(
                    "{key:?} at {}: from {start:?} the calls\n  {}\nmay lead to {endings:?}, and {row:?} (end, removed) stands",
                    self.now,
                    calls.join("\n  ")
                ));
            };
            let removed = actual
                .removed
                .filter(|_| row.is_some_and(|(_, removed)| removed.is_some()));
            if actual.end.is_some() || removed.is_some() {
                found.insert(key.clone(), Member { removed, ..actual });
            }
        }
        Ok(found)
    }
}
