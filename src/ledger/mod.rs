//! The truth: memberships and their counters, behind one trait that PostgreSQL and SQLite implement.
//!
//! What every ledger promises is in [`Ledger`]; one conformance suite holds them to it. Knows only [`crate::counting`].
//! Every statement takes its instant from the database's clock: nothing here reads the clock of the machine.

mod error;
mod jobs;
mod late;
mod open;
mod postgres;
mod removal;
mod sqlite;
mod sqlx_error;
mod types;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::counting::{Pair, Removal, SegmentId, SegmentName, UserId, Window};

pub use error::LedgerError;
pub use jobs::{
    ArchiveBatch, ArchiveCursor, Extent, Job, JobId, JobReport, JobResult, JobState, READ_WHOLE, Recount, Swept,
};
pub use open::{Location, LocationError, open};
#[doc(hidden)]
pub use postgres::recording_for_bench;
pub use postgres::{MoveError, MoveProgress, PostgresLedger, PostgresOptions};
pub use removal::{Erasure, RemovalOutcome, Removed};
pub use sqlite::SqliteLedger;
pub use types::{
    Count, NewSegment, PutSegment, Recorded, Recording, SchemaState, SegmentInfo, SegmentPage, Settings, TestClock,
};

/// A ledger, shared by everything that serves from it.
pub type SharedLedger = Arc<dyn Ledger>;

/// The database that holds the truth.
///
/// Rules 1 to 12 of counting hold behind every method. A method that answers has committed; a method that fails has changed
/// nothing, or what it changed is safe to do again.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// `postgres` or `sqlite`: what logs, metrics and readiness call it.
    fn kind(&self) -> &'static str;

    /// What it was opened with.
    fn settings(&self) -> &Settings;

    /// Records a batch in one transaction for each lane that its segments live in, durable when this returns; outcomes in the order of `pairs`.
    ///
    /// Repeats of a (segment, user) inside one batch count as sent together: the one that ends last takes the outcome of the batch, the
    /// others are `Unchanged` (or `Expired`, `Refused`, on their own account). At most [`Settings::max_batch`] pairs.
    ///
    /// # Errors
    /// [`LedgerError`] (of a larger batch too); nothing of the batch is recorded then, or of some of the lanes. Sending it again is safe.
    async fn record(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError>;

    /// How many lanes there are: what belongs to different ones is best recorded in batches of their own.
    fn lanes(&self) -> usize {
        1
    }

    /// The lane that a segment lives in, as far as that is known here; 0 where it is not.
    fn lane_of(&self, _segment: &SegmentName) -> usize {
        0
    }

    /// The same by its number: what is asked of different ones is best asked apart.
    fn lane_of_id(&self, _segment: SegmentId) -> usize {
        0
    }

    /// The numbers of the segments that exist, in the order of `names`.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn resolve(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError>;

    /// Takes users out of segments in one transaction; outcomes in the order of `removals`. At most [`Settings::max_batch`] of them.
    ///
    /// It raises the removal epoch: whoever answers pairs from memory must have let go of it before the answer goes out.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing is removed then, and doing it again is safe.
    async fn remove(&self, removals: &[Removal]) -> Result<Removed, LedgerError>;

    /// Deletes a segment: its name is free at once, its number is never given again. Its rows are cleared away by [`Ledger::sweep`]. `None`:
    /// there is none. Raises the removal epoch.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn delete_segment(&self, name: &SegmentName) -> Result<Option<SegmentId>, LedgerError>;

    /// Erases a user: suppresses what was observed before, waits for every older writer, deletes memberships and history, counters with
    /// them. Raises the removal epoch. While it runs no pair of the user is recorded.
    ///
    /// # Errors
    /// [`LedgerError`]: the user stays suppressed until it is done again, which is safe.
    async fn erase(&self, user: &UserId) -> Result<Erasure, LedgerError>;

    /// Counts segments in the order of `segments`, in one statement with one `as_of` for each lane; a segment that does not exist counts 0.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn count(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError>;

    /// Creates a segment or changes its settings. A changed window holds for pairs from then on.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn put_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError>;

    /// One segment by name.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn segment(&self, name: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError>;

    /// Segments with their counts, by name in byte order, those after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn segments(&self, after: Option<&SegmentName>, limit: u32) -> Result<SegmentPage, LedgerError>;

    /// Brings the schema to this version; safe to run at any time, by any number at once.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn migrate(&self) -> Result<SchemaState, LedgerError>;

    /// What version of the schema stands, against what this version needs.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn schema(&self) -> Result<SchemaState, LedgerError>;

    /// Whether the database answers, takes writes and keeps them: the check behind readiness (cheap) and start.
    ///
    /// # Errors
    /// [`LedgerError`] says why it would not serve (away, read-only, `fsync` off …).
    async fn check(&self) -> Result<(), LedgerError>;

    /// Moves memberships that ended before now - settle from the table into the history, from `cursor` on, up to about `limit` of them in a transaction
    /// and for about a second. A crash a moment later may take back whole transactions, but none that something was committed after by this ledger
    /// with an answer, such as [`Ledger::job_progress`]. `None` begins a pass; [`ArchiveBatch::next`] of `None` ends it. Any number at once is safe.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn archive_batch(&self, cursor: Option<ArchiveCursor>, limit: u32) -> Result<ArchiveBatch, LedgerError>;

    /// Clears counters that ended before now - settle, the rows of deleted segments, suppressions that are spent, and history and runs of jobs
    /// older than `keep_days`; of each job the newest run and the newest success stay, however old they are.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn sweep(&self, keep_days: u32) -> Result<Swept, LedgerError>;

    /// The segments whose last recount is the longest ago, never recounted first, at most `limit`.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn least_recently_recounted(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError>;

    /// What tells its data from every other ledger's, 16 hexadecimal digits: made when its tables were, and kept by a copy of them.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn identity(&self) -> Result<String, LedgerError>;

    /// About how much there is, as far as that is known without counting.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn extent(&self) -> Result<Option<Extent>, LedgerError> {
        Ok(None)
    }

    /// Recounts segments from their memberships, in one short snapshot where their counters agree; compares every bucket still to come and the total, mends
    /// what differs under a lock, stores each count as a point of the trend, and notes when it was done. Answers in the order of `segments`.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn recount(&self, segments: &[SegmentId]) -> Result<Vec<Recount>, LedgerError>;

    /// Notes that a job began. `None`: one of its kind is running (seen within the last minute) and `exclusive` was asked for.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn begin_job(&self, job: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError>;

    /// Says that a job still runs and how far it is; at least every 20 s.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn job_progress(&self, id: JobId, report: &JobReport) -> Result<(), LedgerError>;

    /// Notes how a job ended.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn end_job(&self, id: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError>;

    /// What the jobs last did.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn job_state(&self, job: Job) -> Result<JobState, LedgerError>;

    /// The database's clock.
    ///
    /// # Errors
    /// [`LedgerError`]
    async fn now(&self) -> Result<Timestamp, LedgerError>;

    /// The window that holds for a segment now: its own, else the counter's.
    fn effective_window(&self, own: Option<Window>) -> Window {
        self.settings().rules.effective(None, own)
    }

    /// Logs in with another password from now on; connections that are open stay. Nothing where there is no login.
    fn set_password(&self, _password: &str) {}

    /// Ends every connection, after what is under way.
    async fn close(&self);
}
