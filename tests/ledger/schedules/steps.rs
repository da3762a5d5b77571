//! What a schedule is: data, so that one that failed can be shrunk, printed as a line of JSON and run again.

use proptest::collection::vec;
use proptest::prelude::*;
use segment_counter::counting::{Resolution, Rules, Window};
use serde::{Deserialize, Serialize};

use crate::model::{SECOND, Sketch, sketch};
use crate::world::SETTLE;

/// Which ledger a schedule is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    Memory,
    File,
    /// With one lane.
    Postgres,
    /// With four, between which segments are moved.
    Lanes,
    /// With two, on the machines that Citus put them on.
    Citus,
}

impl On {
    pub fn lanes(self) -> i32 {
        match self {
            Self::Memory | Self::File | Self::Postgres => 1,
            Self::Lanes => 4,
            Self::Citus => 2,
        }
    }

    pub fn is_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::Lanes | Self::Citus)
    }
}

/// A segment and a user.
pub type Member = (u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub on: On,
    /// Which of [`RULES`] it begins with.
    pub rules: u8,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Record(Vec<Sketch>),
    /// Microseconds forward.
    Wait(i64),
    /// To the edge of the earliest bucket to come, and this many microseconds past it.
    Edge(i64),
    /// Microseconds back, by less than the clocks of a failover may differ.
    Back(i64),
    Put(u8, Option<i64>),
    Remove(Vec<Member>),
    Delete(u8),
    Erase(u8),
    Archive(u32),
    Sweep,
    Recount,
    /// Opens the ledger anew with another of [`RULES`].
    Reopen(u8),
    /// Many at once.
    Phase(Phase),
}

/// What happens at once, at one instant of the clock: each list is one task that does one thing after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Each writer's batches.
    pub writers: Vec<Vec<Vec<Sketch>>>,
    /// Each remover's batches.
    pub removers: Vec<Vec<Vec<Member>>>,
    /// Users to be erased.
    pub eraser: Vec<u8>,
    /// Segments whose window is set.
    pub changer: Vec<(u8, Option<i64>)>,
    pub keeper: Vec<Chore>,
    /// Segments that are deleted.
    #[serde(default)]
    pub deleter: Vec<u8>,
    /// Segments that are moved to other lanes, where there are some.
    #[serde(default)]
    pub mover: Vec<(u8, u8)>,
    /// PostgreSQL: a row that a client holds for some milliseconds, so that writers wait with a snapshot that grows old.
    pub held: Option<Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chore {
    Archive(u32),
    Sweep,
    Recount,
}

/// The most writers of a phase.
pub const WRITERS: usize = 8;
/// The removers of a phase.
pub const REMOVERS: usize = 2;

/// Window, resolution and longest window, in seconds. Short enough that removals and erasures are forgotten within a schedule.
const RULES: [(i64, i64, i64); 4] = [
    (5_400, 60, 30_000),
    (5_400, 1, 5_400),
    (20_000, 300, 40_000),
    (600, 60, 12_000),
];

pub fn rules(number: u8) -> Rules {
    let (shortest, resolution, longest) = RULES[usize::from(number) % RULES.len()];
    let window = |seconds| Window::from_seconds(seconds).unwrap();
    Rules::new(window(shortest), Resolution::from_seconds(resolution).unwrap())
        .and_then(|rules| rules.with_max_ttl(window(longest)))
        .unwrap()
}

pub fn schedule(on: On) -> impl Strategy<Value = Schedule> {
    let number = 0..u8::try_from(RULES.len()).unwrap();
    // A ledger in memory is gone with whoever opened it.
    let reopened = number.clone().prop_map(move |rules| match on {
        On::Memory => Step::Recount,
        On::File | On::Postgres | On::Lanes | On::Citus => Step::Reopen(rules),
    });
    let step = prop_oneof![
        6 => vec(sketch(), 1..16).prop_map(Step::Record),
        2 => (0_i64..9_000 * SECOND).prop_map(Step::Wait),
        2 => (-1_i64..2).prop_map(Step::Edge),
        // To where writers leave counters alone, and to where they are cleared away and memberships archived.
        2 => (prop_oneof![Just(SETTLE / 2), Just(SETTLE)], -1_i64..2).prop_map(|(past, by)| Step::Edge(past + by)),
        1 => (1_i64..299 * SECOND).prop_map(Step::Back),
        2 => vec((0_u8..5, 0_u8..6), 1..6).prop_map(Step::Remove),
        1 => (0_u8..4).prop_map(Step::Delete),
        1 => (0_u8..6).prop_map(Step::Erase),
        1 => window_of(4).prop_map(|(segment, window)| Step::Put(segment, window)),
        1 => (1_u32..6).prop_map(Step::Archive),
        2 => Just(Step::Sweep),
        1 => Just(Step::Recount),
        1 => reopened,
        6 => phase(on).prop_map(Step::Phase),
    ];
    let steps = prop_oneof![12 => step.prop_map(|step| vec![step]), 1 => back_again()];
    (number, vec(steps, 4..20)).prop_map(move |(rules, steps)| Schedule {
        on,
        rules,
        steps: steps.concat(),
    })
}

/// Users who come back after their counters were cleared away, or they themselves.
fn back_again() -> impl Strategy<Value = Vec<Step>> {
    let cleared = prop_oneof![2 => Just(Step::Sweep), 1 => Just(Step::Archive(3))];
    let all = || vec(sketch(), 12..20);
    (all(), -1_i64..2, cleared, all()).prop_map(|(first, by, cleared, then)| {
        let edge = Step::Edge(SETTLE + by);
        vec![Step::Record(first), edge, cleared, Step::Record(then)]
    })
}

fn window_of(segments: u8) -> impl Strategy<Value = (u8, Option<i64>)> {
    (0..segments, proptest::option::of(1_i64..20_000))
}

/// Few users in few segments, so that everybody meets; now and then somebody keeps the house meanwhile.
fn phase(on: On) -> impl Strategy<Value = Phase> {
    let moves = if on == On::Lanes { 1..3 } else { 0..1 };
    let writer = vec(vec(met(), 1..10), 1..4);
    let remover = vec(vec((0_u8..4, 0_u8..5), 1..5), 0..3);
    let chore = prop_oneof![
        (1_u32..6).prop_map(Chore::Archive),
        Just(Chore::Sweep),
        Just(Chore::Recount)
    ];
    (
        vec(writer, 1..=WRITERS),
        vec(remover, REMOVERS),
        prop_oneof![1 => Just(Vec::new()), 1 => vec(0_u8..5, 1..3)],
        prop_oneof![3 => Just(Vec::new()), 1 => vec(window_of(3), 1..3)],
        prop_oneof![1 => Just(Vec::new()), 1 => vec(chore, 1..5)],
        prop_oneof![1 => Just(Vec::new()), 1 => vec((0_u8..3, 0_u8..4), moves)],
        prop_oneof![4 => Just(Vec::new()), 1 => vec(0_u8..3, 1..3)],
        proptest::option::weighted(0.5, (0_u8..2, 0_u8..5)),
    )
        .prop_map(
            |(mut writers, removers, eraser, changer, keeper, mover, deleter, held)| {
                // Somebody waits for the row that is held, with more to write of a user who is erased meanwhile.
                if let (Some((segment, user)), Some(&erased)) = (held, eraser.first()) {
                    writers[0][0].extend(waiting(segment, user, erased));
                }
                Phase {
                    writers,
                    removers,
                    eraser,
                    changer,
                    keeper,
                    deleter,
                    mover,
                    held,
                }
            },
        )
}

fn waiting(segment: u8, user: u8, erased: u8) -> [Sketch; 2] {
    let of = |segment, user, offset| Sketch {
        segment,
        user,
        offset: Some(offset),
        ttl: Some(20_000),
    };
    [of(segment, user, 290 * SECOND), of(2, erased, 0)]
}

/// A pair of a phase: mostly one that counts, of now, of before or of a little later, with windows that make ends differ.
fn met() -> impl Strategy<Value = Sketch> {
    let offset = prop_oneof![
        4 => Just(None),
        4 => (-2_000_i64..1).prop_map(|seconds| Some(seconds * SECOND)),
        1 => Just(Some(0)),
        2 => (1_i64..=300).prop_map(|seconds| Some(seconds * SECOND)),
        1 => prop_oneof![Just(Some(300 * SECOND + 1)), Just(Some(-50_000 * SECOND))],
    ];
    let ttl = prop_oneof![2 => Just(None), 2 => (60_i64..20_000).prop_map(Some)];
    (0_u8..3, 0_u8..5, offset, ttl).prop_map(|(segment, user, offset, ttl)| Sketch {
        segment,
        user,
        offset,
        ttl,
    })
}
