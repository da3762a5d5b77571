//! What the figures share: the plan of a run, the programs under load, the load itself, and the table.

pub mod busy;
pub mod ledger;
pub mod machine;
pub mod open;
pub mod pgbench;
pub mod pin;
pub mod program;
pub mod streams;
pub mod table;
pub mod wrk;

use crate::support::postgres::Server;

pub use table::{Bound, Row};

/// How long is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Runs of each side, taken in turns.
    pub rounds: usize,
    /// Seconds of a run.
    pub seconds: u32,
    /// Runs of each side by `wrk`, taken in turns: many short ones, since a machine's neighbours come and go.
    pub turns: usize,
    /// Seconds of such a run.
    pub turn_seconds: u32,
    /// Pairs of a run that streams.
    pub pairs: usize,
    /// Members of the large segment.
    pub members: u32,
    /// Memberships of a table that something walks through.
    pub rows: u32,
}

impl Plan {
    pub const FULL: Self = Self {
        rounds: 5,
        seconds: 4,
        turns: 11,
        turn_seconds: 2,
        pairs: 200_000,
        members: 10_000_000,
        rows: 1_000_000,
    };
    pub const QUICK: Self = Self {
        rounds: 3,
        seconds: 1,
        turns: 3,
        turn_seconds: 1,
        pairs: 40_000,
        members: 1_000_000,
        rows: 100_000,
    };
}

/// A PostgreSQL of the bench's own, durable as installed. Its memory is larger than the tests' and its checkpoints are further apart: what
/// is measured is the statements, and a checkpoint in the middle of one run of two would only be noise.
pub fn postgres() -> Server {
    Server::start(&["shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min"])
}

/// The middle one.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// A ratio of two sides that took turns: the median of the rounds' own ratios, since two neighbours share whatever else the machine did,
/// with the least and the greatest.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
}

impl Ratio {
    pub fn of(ours: &[f64], theirs: &[f64]) -> Self {
        assert_eq!(ours.len(), theirs.len(), "the sides took turns");
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        Self {
            median: median(ratios.iter().copied()),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            greatest: ratios.iter().copied().fold(0.0, f64::max),
        }
    }
}
