//! The ledger on PostgreSQL 15 or newer, without any extension; with Citus, where a migration was asked to distribute it, on several machines.
//!
//! One file a statement, or a family of them. Every statement names its schema (a pooler may hand out any session) and takes its instant
//! from `coalesce($1, clock_timestamp())`, where `$1` is the conformance suite's clock or null. Lock order everywhere: memberships
//! sorted by (segment, user), then buckets, then totals, each sorted.

mod archive;
mod connect;
mod count;
mod counters;
mod deleted;
mod distributed;
mod erase;
mod guard;
mod jobs;
mod lanes;
mod move_error;
mod moving;
mod partitions;
mod pooled;
mod record;
mod recount;
mod remove;
mod schema;
mod segments;
mod session;
mod sweep;
mod writers;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use quick_cache::sync::Cache as IdCache;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::late::Late;
use super::{
    ArchiveBatch, ArchiveCursor, Count, Erasure, Extent, Job, JobId, JobReport, JobResult, JobState, Ledger,
    LedgerError, NewSegment, PutSegment, Recorded, Recount, Removed, SchemaState, SegmentInfo, SegmentPage, Settings,
    Swept,
};
use crate::counting::{Pair, Removal, SegmentId, SegmentName, UserId};

use session::over;

pub use connect::PostgresOptions;
use lanes::{Home, Lane, Lanes};
pub use move_error::MoveError;
pub use moving::MoveProgress;

/// How many names of segments a process remembers the numbers of.
const ID_CACHE_ENTRIES: usize = 100_000;

/// How many users are erased at once; each may take as long as the history is.
const ERASURES_AT_ONCE: usize = 2;

/// The truth in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresLedger {
    pool: PgPool,
    kept: Arc<session::Kept>,
    settings: Settings,
    /// The base schema, an identifier proven by [`PostgresOptions`]; quoted wherever it stands.
    base: String,
    /// The lanes there are, once they were read.
    lanes: ArcSwapOption<Lanes>,
    resolve: sqlx::SqlStr,
    /// Where segments live. One that was deleted or moved is found out by the statement that its number is sent with.
    ids: IdCache<SegmentName, Home>,
    homes: IdCache<SegmentId, i32>,
    /// Erasures at once: each has a connection beside the pool's.
    erasures: Semaphore,
    /// When the partitions of the histories were last looked at.
    partitions_seen: Mutex<Option<Instant>>,
    late: Late,
    /// How many batches of the archive are sent as one text.
    archive_at_once: AtomicUsize,
    /// Whether Citus distributes the lanes.
    distributed: distributed::Found,
    /// What the last look at a database that gave no connection found.
    probe: connect::Probe,
}

impl PostgresLedger {
    /// Opens a pool; connects at the first use, so that a database that is away is an error of the call and not of the start.
    ///
    /// # Errors
    /// [`LedgerError::Internal`] where the options are no valid ones.
    pub fn open(options: &PostgresOptions, settings: Settings) -> Result<Self, LedgerError> {
        let base = options.schema().to_owned();
        let resolve = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(segments::RESOLVE.replace("{base}", &base)));
        let distributed = distributed::Found::default();
        let pool = options.pool(&settings, &distributed);
        Ok(Self {
            pool,
            kept: session::Kept::new(options.max_connections()),
            settings,
            base,
            lanes: ArcSwapOption::empty(),
            resolve,
            ids: IdCache::new(ID_CACHE_ENTRIES),
            homes: IdCache::new(ID_CACHE_ENTRIES),
            erasures: Semaphore::new(ERASURES_AT_ONCE),
            partitions_seen: Mutex::default(),
            late: Late::default(),
            archive_at_once: AtomicUsize::new(archive::FIRST),
            distributed,
            probe: connect::Probe::default(),
        })
    }

    /// Uses other credentials for every connection from now on; those that are open stay until they end by themselves.
    pub fn set_credentials(&self, options: &PostgresOptions) {
        self.pool.set_connect_options(options.connect_options(&self.settings));
    }

    /// A statement on the base schema, its name filled in: a proven identifier, so the text is as safe as the constant it was.
    fn sql(&self, text: &str) -> sqlx::AssertSqlSafe<String> {
        sqlx::AssertSqlSafe(text.replace("{base}", &self.base))
    }

    /// The value of `$clock`: null, but in the conformance suite.
    fn clock(&self) -> Option<jiff_sqlx::Timestamp> {
        let clock = self.settings.clock.as_ref()?;
        Timestamp::from_microsecond(clock.micros()).ok().map(ToSqlx::to_sqlx)
    }

    fn settle_micros(&self) -> i64 {
        i64::try_from(self.settings.settle.as_micros()).unwrap_or(i64::MAX / 4)
    }
}

/// A statement whose every part that was filled in is proven.
type Statement = sqlx::SqlStr;

fn statement(text: String) -> Statement {
    sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(text))
}

/// What `make bench` needs to send the very statement that records a batch from another client: its text (for batches that name a pair more than
/// once where they do) and the settings of its session.
#[doc(hidden)]
#[must_use]
pub fn recording_for_bench(options: &PostgresOptions, settings: &Settings, repeats: bool) -> (String, String) {
    let session = options.connect_options(settings);
    let statement = if repeats { record::any() } else { record::distinct() };
    (
        Lane::on_one_server(options.schema(), 0).text(&statement),
        session.get_options().unwrap_or_default().to_owned(),
    )
}

/// A timestamp from what the statements answer: microseconds since the epoch.
fn timestamp(micros: i64) -> Result<Timestamp, LedgerError> {
    Timestamp::from_microsecond(micros)
        .map_err(|error| LedgerError::Internal(format!("an instant out of range: {error}")))
}

#[async_trait]
impl Ledger for PostgresLedger {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn record(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        self.explain(self.record_batch(pairs).await).await
    }

    async fn remove(&self, removals: &[Removal]) -> Result<Removed, LedgerError> {
        self.explain(self.remove_batch(removals).await).await
    }

    async fn delete_segment(&self, name: &SegmentName) -> Result<Option<SegmentId>, LedgerError> {
        self.explain(self.mark_deleted(name).await).await
    }

    async fn erase(&self, user: &UserId) -> Result<Erasure, LedgerError> {
        self.explain(self.erase_user(user).await).await
    }

    async fn resolve(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        self.explain(self.resolve_names(names).await).await
    }

    async fn count(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        self.explain(self.count_segments(segments).await).await
    }

    async fn put_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        self.explain(self.upsert_segment(segment).await).await
    }

    async fn segment(&self, name: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError> {
        self.explain(self.one_segment(name).await).await
    }

    async fn segments(&self, after: Option<&SegmentName>, limit: u32) -> Result<SegmentPage, LedgerError> {
        self.explain(self.page_of_segments(after, limit).await).await
    }

    fn lanes(&self) -> usize {
        self.lanes.load().as_ref().map_or(1, |lanes| lanes.len())
    }

    fn lane_of(&self, segment: &SegmentName) -> usize {
        let home = self.ids.get(segment);
        home.map_or(0, |home| usize::try_from(home.lane).unwrap_or(0))
    }

    fn lane_of_id(&self, segment: SegmentId) -> usize {
        let lane = self.homes.get(&segment);
        lane.map_or(0, |lane| usize::try_from(lane).unwrap_or(0))
    }

    async fn migrate(&self) -> Result<SchemaState, LedgerError> {
        self.explain(self.run_migrations().await).await
    }

    async fn schema(&self) -> Result<SchemaState, LedgerError> {
        let state = async {
            let mut session = self.session().await?;
            let state = self.schema_state(&mut session).await;
            session.give_back();
            state
        };
        self.explain(state.await).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.explain(self.check_database().await).await
    }

    async fn archive_batch(&self, cursor: Option<ArchiveCursor>, limit: u32) -> Result<ArchiveBatch, LedgerError> {
        self.explain(self.archive_one_batch(cursor, limit).await).await
    }

    async fn sweep(&self, keep_days: u32) -> Result<Swept, LedgerError> {
        self.explain(self.sweep_past(keep_days).await).await
    }

    async fn least_recently_recounted(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError> {
        self.explain(self.longest_unchecked(limit).await).await
    }

    async fn identity(&self) -> Result<String, LedgerError> {
        // Of the key of suppressions nothing is told by it.
        let telling = sqlx::query_scalar(self.sql(
            "SELECT encode(substr(sha256(convert_to('identity', 'UTF8') || key), 1, 8), 'hex') FROM \"{base}\".suppression_key",
        ));
        let told: Result<String, LedgerError> =
            over!(self, session::ANSWER, session => telling.fetch_one(&mut *session));
        self.explain(told).await
    }

    async fn extent(&self) -> Result<Option<Extent>, LedgerError> {
        self.explain(self.estimate().await).await
    }

    async fn recount(&self, segments: &[SegmentId]) -> Result<Vec<Recount>, LedgerError> {
        self.explain(self.recount_segments(segments).await).await
    }

    async fn begin_job(&self, job: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError> {
        self.explain(self.begin(job, exclusive).await).await
    }

    async fn job_progress(&self, id: JobId, report: &JobReport) -> Result<(), LedgerError> {
        self.explain(self.progress(id, report).await).await
    }

    async fn end_job(&self, id: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError> {
        self.explain(self.end(id, result, report).await).await
    }

    async fn job_state(&self, job: Job) -> Result<JobState, LedgerError> {
        self.explain(self.state_of(job).await).await
    }

    async fn now(&self) -> Result<Timestamp, LedgerError> {
        let micros = async {
            let asking =
                sqlx::query_scalar("SELECT (extract(epoch FROM coalesce($1, clock_timestamp())) * 1000000)::bigint")
                    .bind(self.clock());
            over!(self, session::ANSWER, session => asking.fetch_one(&mut *session))
        };
        timestamp(self.explain(micros.await).await?)
    }

    fn set_password(&self, password: &str) {
        let options = self.pool.connect_options();
        self.pool
            .set_connect_options(options.as_ref().clone().password(password));
    }

    async fn close(&self) {
        self.kept.close();
        self.pool.close().await;
    }
}
