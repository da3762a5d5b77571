//! Why a segment was not moved to another lane.

use crate::ledger::LedgerError;

/// Why a segment was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// There is none of this name.
    #[error("there is no such segment")]
    NoSegment,
    /// There is no such lane.
    #[error(
        "there is no lane {wanted}: there are {lanes}, counted from 0; `segment-counter migrate --lanes` adds more"
    )]
    NoLane {
        /// The lane that was asked for.
        wanted: i32,
        /// How many there are.
        lanes: usize,
    },
    /// Its lane is Citus' to move, and whole.
    #[error(
        "the lanes of this database are distributed by Citus, which has no triggers to move one segment by: it stays in lane {lane}. \
         A whole lane is moved to another machine by SELECT citus_schema_move('{schema}', HOST, PORT)"
    )]
    Distributed {
        /// Where it lives.
        lane: i32,
        /// The lane's schema.
        schema: String,
    },
    /// Another move is under way.
    #[error("another segment is being moved, or an archive clears away what a move left: one at a time")]
    Busy,
    /// The database.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for MoveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}
