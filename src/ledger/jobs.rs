//! What the maintenance jobs pass to a ledger, and what it remembers of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::counting::SegmentId;

/// A kind of maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Moves what has ended into the history.
    Archive,
    /// Recounts.
    Refresh,
}

impl Job {
    /// Its name in the ledger, in metrics and in commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Refresh => "refresh",
        }
    }
}

/// The number of a run of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobId(pub i64);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// All of it was done.
    Succeeded,
    /// It stopped, and why; no secret in it.
    Failed(String),
}

/// How far a run is, and in the end its totals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Archive: memberships moved. Refresh: segments recounted.
    pub processed: i64,
    /// Refresh: the sum of the absolute differences found (0 unless something is broken).
    pub drift: i64,
    /// Archive: counters cleared.
    pub counters_cleared: i64,
    /// Archive: partitions of the history dropped.
    pub partitions_dropped: i64,
}

/// What the runs of a job left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobState {
    /// Whether one is running (began, not ended, seen within the last minute).
    pub running: bool,
    /// When the last run that ended did so.
    pub last_end: Option<Timestamp>,
    /// Whether that run succeeded, or its failure's text.
    pub last_result: Option<Result<JobReport, String>>,
    /// When the last run that succeeded ended.
    pub last_success: Option<Timestamp>,
    /// How long ago that was by the database's own clock, in seconds: compared with no other machine's.
    pub seconds_since_success: Option<i64>,
    /// Refresh: how long ago the segment that waits longest was recounted (or created), in seconds.
    pub oldest_recount_seconds: Option<i64>,
}

/// Where the next batch of an archive pass begins; opaque to callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveCursor {
    /// The lane.
    pub lane: u32,
    /// PostgreSQL: the place in the heap after which to look. SQLite: the rowid.
    pub position: i64,
    /// PostgreSQL: how many blocks of the heap a full batch took just before; 0 where that is not known.
    pub full: i64,
}

/// What a batch of the archive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveBatch {
    /// Memberships moved.
    pub moved: i64,
    /// Where to go on; `None`: the pass is over.
    pub next: Option<ArchiveCursor>,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Counters of the past that were cleared.
    pub counters: i64,
    /// Partitions of the history that were dropped.
    pub partitions: i64,
}

/// A ledger, or a lane, of at most about so many memberships is read whole where most of its segments are recounted: by the half second that 2,000,000
/// took, in less than a second, which two groups of a million that are found by key at the same time take too.
pub const READ_WHOLE: u64 = 3_000_000;

/// About how much a ledger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its segments.
    pub segments: u64,
    /// Its memberships, over or not.
    pub members: u64,
}

/// What a recount found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recount {
    /// The segment.
    pub segment: SegmentId,
    /// Its members by the memberships themselves.
    pub members: i64,
    /// The sum of the absolute differences over the buckets still to come and the total: 0 unless something is broken.
    pub drift: i64,
    /// The instant.
    pub as_of: Timestamp,
}
