//! Compares what stands behind the ledger's back with the model: rows, marks, and counters with the rows they count.

use std::collections::BTreeMap;

use super::site::Stand;
use crate::model::{Member, Model};
use crate::world::SETTLE;

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
    let mut counted: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for ((segment, _), (end, _)) in stand.rows.iter().filter(|(_, (end, _))| *end > horizon.over()) {
        *counted.entry((segment.clone(), *end)).or_default() += 1;
    }
    for key in stand.buckets.keys().chain(counted.keys()) {
        let (counter, members) = (
            stand.buckets.get(key).copied().unwrap_or(0),
            counted.get(key).copied().unwrap_or(0),
        );
        // One that is over may count some who are over too, never fewer than are left.
        if counter < members || key.1 > horizon.over() && counter != members {
            return Err(format!(
                "the bucket {key:?} counts {counter}, and {members} end in it, at {horizon:?}"
            ));
        }
    }
    let mut sums: BTreeMap<&str, i64> = stand.totals.keys().map(|segment| (segment.as_str(), 0)).collect();
    for ((segment, end), members) in &stand.buckets {
        let since = stand.totals.get(segment).map_or(0, |(_, since)| *since);
        *sums.entry(segment).or_default() += if *end > since { *members } else { 0 };
    }
    for (segment, sum) in sums {
        let total = stand.totals.get(segment).copied().unwrap_or_default();
        if total.0 != sum {
            return Err(format!(
                "the total of {segment} is {total:?} (members, since), and its buckets count {sum}, at {horizon:?}"
            ));
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
