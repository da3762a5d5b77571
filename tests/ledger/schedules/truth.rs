//! Compares what stands behind the ledger's back with the model: rows, marks, and counters with the rows they count.

use std::collections::BTreeMap;

use super::site::Stand;
use crate::model::{Member, Model, SECOND};
use crate::world::SETTLE;

/// Two hours: how far a span reaches.
const SPAN: i64 = 7_200 * SECOND;

/// Since when what stands must be exact. Instants in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Horizon {
    pub now: i64,
    /// The latest instant that the clock has stood at.
    pub latest: i64,
    /// How long a removal is remembered.
    pub memory: i64,
}

impl Horizon {
    /// What ended by then is over for good: the clock never steps back so far, and it is the archive's and the sweep's.
    fn over(self) -> i64 {
        self.latest - SETTLE / 2
    }

    /// Removals by then may be forgotten: whatever was observed before them has ended.
    fn forgotten(self) -> i64 {
        self.latest - self.memory - SETTLE
    }
}

/// Whether a row (its end, when it was removed) is what the model has.
pub fn agrees(member: Member, row: Option<(i64, Option<i64>)>, horizon: Horizon) -> bool {
    let still = |end: Option<i64>| end.filter(|end| *end > horizon.over());
    let mark = row.and_then(|(_, removed)| removed);
    still(member.end) == still(row.map(|(end, _)| end))
        && (mark == member.removed || mark.is_none() && member.removed <= Some(horizon.forgotten()))
}

/// Whether all that stands is the model's, and every counter what it counts.
pub fn all_agree(model: &Model, stand: &Stand, horizon: Horizon) -> Result<(), String> {
    let segments: BTreeMap<_, _> = model
        .segments
        .iter()
        .map(|(segment, window)| (segment.clone(), window.map(|window| window.seconds())))
        .collect();
    if segments != stand.segments {
        return Err(format!("{:?} stand and the model has {segments:?}", stand.segments));
    }
    for key in model.members.keys().chain(stand.rows.keys()) {
        let member = model.members.get(key).copied().unwrap_or_default();
        let row = stand.rows.get(key).copied();
        if !agrees(member, row, horizon) {
            return Err(format!(
                "{key:?}: {row:?} (end, removed) stands and the model has {member:?}, at {horizon:?}"
            ));
        }
    }
    counters_agree(stand, horizon)
}

fn counters_agree(stand: &Stand, horizon: Horizon) -> Result<(), String> {
    let mut buckets: BTreeMap<(String, i64), i64> = BTreeMap::new();
    let mut spans: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for ((segment, _), (end, _)) in stand.rows.iter().filter(|(_, (end, _))| *end > horizon.over()) {
        *buckets.entry((segment.clone(), *end)).or_default() += 1;
        let span = (end - 1).div_euclid(SPAN) * SPAN + SPAN;
        *spans.entry((segment.clone(), span)).or_default() += 1;
    }
    for (what, counters, counted, reach) in [
        ("bucket", &stand.buckets, &buckets, 0),
        ("span", &stand.spans, &spans, SPAN),
    ] {
        for key in counters.keys().chain(counted.keys()) {
            let (counter, members) = (
                counters.get(key).copied().unwrap_or(0),
                counted.get(key).copied().unwrap_or(0),
            );
            // One that is over, in part or all of it, may count some who are over too, never fewer than are left.
            let exact = key.1 - reach > horizon.over();
            if counter < members || exact && counter != members {
                return Err(format!(
                    "the {what} {key:?} counts {counter}, and {members} end in it, at {horizon:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Forgets the marks that an archive took away, where it might.
pub fn forget_marks(model: &mut Model, stand: &Stand, horizon: Horizon) {
    for (key, member) in &mut model.members {
        let marked = stand.rows.get(key).is_some_and(|(_, removed)| removed.is_some());
        if !marked && member.removed <= Some(horizon.forgotten()) {
            member.removed = None;
        }
    }
}
