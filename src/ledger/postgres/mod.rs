//! The ledger on PostgreSQL 15 or newer, without any extension.
//!
//! One file a statement, or a family of them. Every statement names its schema (a pooler may hand out any session) and takes its instant
//! from `coalesce($1, clock_timestamp())`, where `$1` is the conformance suite's clock or null. Lock order everywhere: memberships
//! sorted by (segment, user), then buckets, then spans, each sorted.

mod archive;
mod connect;
mod count;
mod jobs;
mod partitions;
mod record;
mod recount;
mod schema;
mod segments;
mod session;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use quick_cache::sync::Cache as IdCache;
use sqlx::PgPool;

use super::{
    ArchiveBatch, ArchiveCursor, Count, Job, JobId, JobReport, JobResult, JobState, Ledger, LedgerError, NewSegment,
    PutSegment, Recorded, Recount, SchemaState, SegmentInfo, SegmentPage, Settings, Swept,
};
use crate::counting::{Pair, SegmentId, SegmentName};

use session::over;

pub use connect::PostgresOptions;

/// How many names of segments a process remembers the numbers of.
const ID_CACHE_ENTRIES: usize = 100_000;

/// The truth in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresLedger {
    pool: PgPool,
    settings: Settings,
    /// The base schema, an identifier proven by [`PostgresOptions`]; quoted wherever it stands.
    base: String,
    /// The schema of the lane.
    lane: String,
    sql: Statements,
    /// Numbers never change while a segment exists, so that a hit is always right.
    ids: IdCache<SegmentName, SegmentId>,
    /// What the last look at a database that gave no connection found.
    probe: connect::Probe,
}

/// The statements of the hot paths, with the schemas' names filled in once.
#[derive(Debug)]
struct Statements {
    record: sqlx::SqlStr,
    count: sqlx::SqlStr,
    resolve: sqlx::SqlStr,
}

impl PostgresLedger {
    /// Opens a pool; connects at the first use, so that a database that is away is an error of the call and not of the start.
    ///
    /// # Errors
    /// [`LedgerError::Internal`] where the options are no valid ones.
    pub fn open(options: &PostgresOptions, settings: Settings) -> Result<Self, LedgerError> {
        let base = options.schema().to_owned();
        let lane = format!("{base}_lane_0");
        let fill = |text: &str| sqlx::AssertSqlSafe(text.replace("{base}", &base).replace("{lane}", &lane));
        let sql = Statements {
            record: sqlx::SqlSafeStr::into_sql_str(fill(record::SQL)),
            count: sqlx::SqlSafeStr::into_sql_str(fill(count::SQL)),
            resolve: sqlx::SqlSafeStr::into_sql_str(fill(segments::RESOLVE)),
        };
        let pool = options.pool(&settings);
        Ok(Self {
            pool,
            settings,
            base,
            lane,
            sql,
            ids: IdCache::new(ID_CACHE_ENTRIES),
            probe: connect::Probe::default(),
        })
    }

    /// Uses other credentials for every connection from now on; those that are open stay until they end by themselves.
    pub fn set_credentials(&self, options: &PostgresOptions) {
        self.pool.set_connect_options(options.connect_options(&self.settings));
    }

    /// A statement with the schemas' names filled in. Both are proven identifiers, so the text is as safe as the constant it was.
    fn sql(&self, text: &str) -> sqlx::AssertSqlSafe<String> {
        sqlx::AssertSqlSafe(text.replace("{base}", &self.base).replace("{lane}", &self.lane))
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

/// What `make bench` needs to send the very statement that records a batch from another client: its text and the settings of its session.
#[doc(hidden)]
#[must_use]
pub fn recording_for_bench(options: &PostgresOptions, settings: &Settings) -> (String, String) {
    let base = options.schema();
    let lane = format!("{base}_lane_0");
    let session = options.connect_options(settings);
    (
        record::SQL.replace("{base}", base).replace("{lane}", &lane),
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

    async fn recount(&self, segment: SegmentId) -> Result<Recount, LedgerError> {
        self.explain(self.recount_segment(segment).await).await
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
        self.pool.close().await;
    }
}
