//! The embedded ledger on SQLite: a file, or memory, for laptops, demos and the edge. The same promises as PostgreSQL's.
//!
//! One writer: every change is one `BEGIN IMMEDIATE` transaction on one connection, so what a transaction reads holds until it commits.
//! Lists go in as JSON (`json_each`), so that a batch is a handful of statements whatever its size.

mod count;
mod counters;
mod deleted;
mod jobs;
mod maintenance;
mod record;
mod remove;
mod segments;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqliteConnection, SqlitePool};

use super::late::Late;
use super::{
    ArchiveBatch, ArchiveCursor, Count, Erasure, Job, JobId, JobReport, JobResult, JobState, Ledger, LedgerError,
    NewSegment, PutSegment, Recorded, Recount, Removed, SchemaState, SegmentInfo, SegmentPage, Settings, Swept,
};
use crate::counting::{Pair, Removal, SegmentId, SegmentName, UserId};

static MIGRATIONS: Migrator = sqlx::migrate!("src/ledger/sqlite/migrations");

/// The instant of a statement; `?1` is the conformance suite's clock or null. SQLite's own clock has milliseconds.
const NOW: &str = "coalesce(?1, CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000)";

/// How many connections read beside the writer.
const READERS: u32 = 4;

/// How often a migration that met another process' is tried.
const MIGRATION_TRIES: u32 = 10;

/// The truth in a SQLite database.
#[derive(Debug)]
pub struct SqliteLedger {
    writer: SqlitePool,
    readers: SqlitePool,
    settings: Settings,
    late: Late,
}

impl SqliteLedger {
    /// Opens a file (created where it is absent), or a database in memory where `path` is `None`: gone with this value.
    #[must_use]
    pub fn open(path: Option<&Path>, settings: Settings) -> Self {
        let options = SqliteConnectOptions::new()
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .synchronous(SqliteSynchronous::Full);
        // A connection that ends would take a database in memory with it: one, for everything, for ever.
        let forever = || {
            SqlitePoolOptions::new()
                .idle_timeout(None)
                .max_lifetime(None)
                .acquire_timeout(Duration::from_secs(10))
        };
        let Some(path) = path else {
            let pool = forever().max_connections(1).connect_lazy_with(options.in_memory(true));
            return Self {
                writer: pool.clone(),
                readers: pool,
                settings,
                late: Late::default(),
            };
        };
        let options = options
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        Self {
            writer: forever().max_connections(1).connect_lazy_with(options.clone()),
            readers: forever().max_connections(READERS).connect_lazy_with(options),
            settings,
            late: Late::default(),
        }
    }

    /// Connections to the database itself: the conformance suite sees the rows of one in memory, which nobody else reaches.
    #[doc(hidden)]
    #[must_use]
    pub fn pool_for_conformance(&self) -> SqlitePool {
        self.readers.clone()
    }

    fn clock(&self) -> Option<i64> {
        self.settings.clock.as_ref().map(super::TestClock::micros)
    }

    fn settle_micros(&self) -> i64 {
        i64::try_from(self.settings.settle.as_micros()).unwrap_or(i64::MAX / 4)
    }

    async fn instant(&self, session: &mut SqliteConnection) -> Result<i64, LedgerError> {
        Ok(sqlx::query_scalar(text(format!("SELECT {NOW}")))
            .bind(self.clock())
            .fetch_one(session)
            .await?)
    }
}

/// Text of our own constants: no value of anybody's is ever in it.
fn text(sql: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(sql)
}

fn timestamp(micros: i64) -> Result<Timestamp, LedgerError> {
    Timestamp::from_microsecond(micros)
        .map_err(|error| LedgerError::Internal(format!("an instant out of range: {error}")))
}

/// A list on its way into a statement.
fn json(list: &impl serde::Serialize) -> Result<String, LedgerError> {
    serde_json::to_string(list).map_err(|error| LedgerError::Internal(error.to_string()))
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn record(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        self.record_batch(pairs).await
    }

    async fn remove(&self, removals: &[Removal]) -> Result<Removed, LedgerError> {
        self.remove_batch(removals).await
    }

    async fn delete_segment(&self, name: &SegmentName) -> Result<Option<SegmentId>, LedgerError> {
        self.mark_deleted(name).await
    }

    async fn erase(&self, user: &UserId) -> Result<Erasure, LedgerError> {
        self.erase_user(user).await
    }

    async fn resolve(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        self.resolve_names(names).await
    }

    async fn count(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        self.count_segments(segments).await
    }

    async fn put_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        self.upsert_segment(segment).await
    }

    async fn segment(&self, name: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError> {
        self.one_segment(name, &self.readers).await
    }

    async fn segments(&self, after: Option<&SegmentName>, limit: u32) -> Result<SegmentPage, LedgerError> {
        self.page_of_segments(after, limit).await
    }

    async fn migrate(&self) -> Result<SchemaState, LedgerError> {
        // SQLite has no lock for migrations: of two processes that begin at once one fails, looks again and finds the work done.
        let mut tries = 0;
        loop {
            let run = MIGRATIONS.run(&self.writer).await;
            let state = self.schema().await?;
            tries += 1;
            match run {
                Err(failure) if !state.is_current() => {
                    if tries == MIGRATION_TRIES {
                        return Err(failure.into());
                    }
                    tokio::time::sleep(Duration::from_millis(50) * tries).await;
                }
                _ => return Ok(state),
            }
        }
    }

    async fn schema(&self) -> Result<SchemaState, LedgerError> {
        let expected = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        let stands: bool = sqlx::query_scalar("SELECT count(*) > 0 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_one(&self.readers)
            .await?;
        if !stands {
            return Ok(SchemaState {
                installed: None,
                expected,
            });
        }
        let installed = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&self.readers)
            .await?;
        Ok(SchemaState { installed, expected })
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&self.writer).await?;
        if synchronous < 2 {
            return Err(LedgerError::NotDurable("PRAGMA synchronous is below FULL".to_owned()));
        }
        // The write lock is the proof that the file takes writes; nothing is written.
        self.writer.begin_with("BEGIN IMMEDIATE").await?.rollback().await?;
        let schema = self.schema().await?;
        if schema.is_current() {
            Ok(())
        } else {
            Err(schema.refusal())
        }
    }

    async fn archive_batch(&self, cursor: Option<ArchiveCursor>, limit: u32) -> Result<ArchiveBatch, LedgerError> {
        self.archive_one_batch(cursor, limit).await
    }

    async fn sweep(&self, keep_days: u32) -> Result<Swept, LedgerError> {
        self.sweep_past(keep_days).await
    }

    async fn least_recently_recounted(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError> {
        self.longest_unchecked(limit).await
    }

    async fn identity(&self) -> Result<String, LedgerError> {
        self.tell_identity().await
    }

    async fn recount(&self, segments: &[SegmentId]) -> Result<Vec<Recount>, LedgerError> {
        let mut recounts = Vec::with_capacity(segments.len());
        for segment in segments {
            recounts.push(self.recount_segment(*segment).await?);
        }
        Ok(recounts)
    }

    async fn begin_job(&self, job: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError> {
        self.begin(job, exclusive).await
    }

    async fn job_progress(&self, id: JobId, report: &JobReport) -> Result<(), LedgerError> {
        self.progress(id, report).await
    }

    async fn end_job(&self, id: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError> {
        self.end(id, result, report).await
    }

    async fn job_state(&self, job: Job) -> Result<JobState, LedgerError> {
        self.state_of(job).await
    }

    async fn now(&self) -> Result<Timestamp, LedgerError> {
        let mut session = self.readers.acquire().await?;
        timestamp(self.instant(&mut session).await?)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
