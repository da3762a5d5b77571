//! The two jobs, for the commands and for the endpoints alike: archive and refresh.
//!
//! A job notes in the ledger that it began, that it lives, and how it ended; a failure is noted and returned. Nothing here is needed for an
//! answer to be right: stop every job for ever and every count stays exact.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::SharedCache;
use crate::counting::SegmentId;
use crate::ledger::{Extent, Job, JobId, JobReport, JobResult, LedgerError, READ_WHOLE, SharedLedger};

use super::ServiceError;
use super::metrics::Metrics;

/// How often a job says that it lives: three times before others take it for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Segments asked for at once.
const SEGMENTS_AT_ONCE: u32 = 1_000;
/// Groups of segments that are recounted at once, each in a snapshot of its own.
const GROUPS_AT_ONCE: usize = 2;
/// Members of a group at first, where it is known about how many a segment has: a group reads nearly every block of the tables, whatever its size,
/// so few large ones are better than many small ones. And its segments where nothing is known. See [`first_group`].
const FIRST_MEMBERS: u64 = 1_000_000;
const FIRST_GROUP: usize = 32;
/// The segments of the largest group.
const LARGEST_GROUP: usize = SEGMENTS_AT_ONCE as usize / GROUPS_AT_ONCE;
/// How long the snapshot of a group should last at most, as groups are made larger and smaller: while it lasts, counters that are rewritten leave
/// dead rows behind, through which counts must read.
const SNAPSHOT: Duration = Duration::from_millis(500);

/// How an archive runs.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// About how many memberships are moved by one statement; up to four times as many where they lie densest.
    pub batch_size: u32,
    /// History older than this is dropped.
    pub keep_days: u32,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether to refuse while another runs. Any number at once is safe.
    pub exclusive: bool,
    /// Ends it within a second or so, between two calls of the ledger.
    pub stop: CancellationToken,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            batch_size: 10_000,
            keep_days: 365,
            timeout: Duration::from_secs(3_600),
            exclusive: false,
            stop: CancellationToken::new(),
        }
    }
}

/// How a refresh runs.
#[derive(Debug, Clone)]
pub struct RefreshOptions {
    /// How long it recounts; what it did not come to is first the next time.
    pub budget: Duration,
    /// Whether to refuse while another runs. Any number at once is safe.
    pub exclusive: bool,
    /// Ends it between two groups of segments.
    pub stop: CancellationToken,
}

impl Default for RefreshOptions {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(240),
            exclusive: false,
            stop: CancellationToken::new(),
        }
    }
}

/// Called with how far a job is, after each batch.
pub type Progress = Arc<dyn Fn(&JobReport) + Send + Sync>;

pub(crate) struct Maintenance {
    pub(crate) ledger: SharedLedger,
    pub(crate) cache: SharedCache,
    pub(crate) metrics: Arc<Metrics>,
    /// How long a warmed value may be served, which is how long a claim may stand.
    pub(crate) bound: Duration,
    /// What runs here.
    pub(crate) runs: TaskTracker,
}

/// How far a job is, seen by the work, the heartbeat and the caller.
struct Tally {
    report: Mutex<JobReport>,
    progress: Progress,
}

impl Tally {
    fn add(&self, change: impl FnOnce(&mut JobReport)) {
        let report = {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut report);
            report.clone()
        };
        (self.progress)(&report);
    }

    fn report(&self) -> JobReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Maintenance {
    /// Moves what has ended into the history, then sweeps counters and old history. Ends with the totals.
    pub(crate) async fn archive(&self, options: ArchiveOptions, progress: Progress) -> Result<JobReport, ServiceError> {
        let tally = Tally {
            report: Mutex::default(),
            progress,
        };
        self.run(
            Job::Archive,
            options.exclusive,
            &tally,
            self.archive_steps(&options, &tally),
        )
        .await
    }

    /// Recounts segments, the longest unchecked first, within the budget. Ends with the totals.
    pub(crate) async fn refresh(&self, options: RefreshOptions, progress: Progress) -> Result<JobReport, ServiceError> {
        let tally = Tally {
            report: Mutex::default(),
            progress,
        };
        self.run(
            Job::Refresh,
            options.exclusive,
            &tally,
            self.refresh_steps(&options, &tally),
        )
        .await
    }

    /// Waits until every run has noted how it ended: one that did not would be taken for running by the others.
    pub(crate) async fn ended(&self) {
        self.runs.close();
        self.runs.wait().await;
    }

    async fn run(
        &self,
        job: Job,
        exclusive: bool,
        tally: &Tally,
        work: impl Future<Output = Result<(), ServiceError>>,
    ) -> Result<JobReport, ServiceError> {
        let _under_way = self.runs.token();
        let Some(id) = self.ledger.begin_job(job, exclusive).await? else {
            return Err(ServiceError::AlreadyRunning(job));
        };
        let done = tokio::select! {
            done = work => done,
            never = self.heartbeat(id, tally) => match never {},
        };
        let report = tally.report();
        let result = match &done {
            Ok(()) => JobResult::Succeeded,
            Err(error) => JobResult::Failed(error.to_string()),
        };
        self.metrics.job(job, done.is_ok());
        let ended = self.ledger.end_job(id, result, &report).await;
        if let Err(error) = &done {
            tracing::error!(job = job.name(), %error, ?report, "a job failed");
        }
        done?;
        ended?;
        tracing::info!(job = job.name(), ?report, "a job succeeded");
        Ok(report)
    }

    async fn heartbeat(&self, id: JobId, tally: &Tally) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(error) = self.ledger.job_progress(id, &tally.report()).await {
                tracing::warn!(%error, "a job could not say that it lives");
            }
        }
    }

    /// Counters and histories of the past are no concern of what is being moved: both are done at once.
    async fn archive_steps(&self, options: &ArchiveOptions, tally: &Tally) -> Result<(), ServiceError> {
        let sweep = async {
            let swept = self.ledger.sweep(options.keep_days).await?;
            tally.add(|report| {
                report.counters_cleared += swept.counters;
                report.partitions_dropped += swept.partitions;
            });
            Ok(())
        };
        // Neither is cut off where the other fails.
        let (moved, swept) = join(self.move_all(options, tally), sweep).await;
        moved.and(swept)
    }

    async fn move_all(&self, options: &ArchiveOptions, tally: &Tally) -> Result<(), ServiceError> {
        let started = Instant::now();
        let mut cursor = None;
        loop {
            let batch = self.ledger.archive_batch(cursor, options.batch_size.max(1)).await?;
            tally.add(|report| report.processed += batch.moved);
            cursor = batch.next;
            if cursor.is_none() {
                return Ok(());
            }
            check_stop(&options.stop, tally)?;
            if started.elapsed() >= options.timeout {
                let (seconds, moved) = (options.timeout.as_secs(), tally.report().processed);
                let text =
                    format!("the archive's time of {seconds} s ended after {moved} memberships, before the pass did");
                return Err(ServiceError::Unfinished(text));
            }
        }
    }

    async fn refresh_steps(&self, options: &RefreshOptions, tally: &Tally) -> Result<(), ServiceError> {
        let started = Instant::now();
        let mut seen = BTreeSet::new();
        let extent = self.ledger.extent().await?;
        let mut group = None;
        loop {
            let next = self.ledger.least_recently_recounted(SEGMENTS_AT_ONCE).await?;
            let unseen: Vec<SegmentId> = next.into_iter().filter(|segment| seen.insert(*segment)).collect();
            if unseen.is_empty() {
                return Ok(());
            }
            let mut waiting = VecDeque::from(unseen);
            let group = group.get_or_insert_with(|| first_group(extent, waiting.len()));
            let mut under_way = FuturesUnordered::new();
            loop {
                let stops = options.stop.is_cancelled() || started.elapsed() >= options.budget;
                while !stops && under_way.len() < GROUPS_AT_ONCE && !waiting.is_empty() {
                    let next = waiting.drain(..waiting.len().min(*group)).collect();
                    under_way.push(self.recount(next));
                }
                match under_way.next().await.transpose()? {
                    None => break,
                    Some(Recounted::Done { segments, drift, took }) => {
                        *group = match took {
                            took if took > SNAPSHOT => (*group / 2).max(1),
                            took if took < SNAPSHOT / 2 => (*group * 2).min(LARGEST_GROUP.max(*group)),
                            _ => *group,
                        };
                        tally.add(|report| {
                            report.processed += segments;
                            report.drift += drift;
                        });
                    }
                    Some(Recounted::TooMany(segments)) => {
                        *group = (segments.len() / 4).max(1);
                        segments
                            .into_iter()
                            .rev()
                            .for_each(|segment| waiting.push_front(segment));
                    }
                }
            }
            check_stop(&options.stop, tally)?;
            if started.elapsed() >= options.budget {
                return Ok(());
            }
        }
    }

    /// Recounts segments and puts their counts into the cache, claimed before the recount began as every reader does.
    async fn recount(&self, segments: Vec<SegmentId>) -> Result<Recounted, ServiceError> {
        let claims = join_all(segments.iter().map(|segment| self.cache.read(*segment, self.bound))).await;
        let begun = Instant::now();
        let recounts = match self.ledger.recount(&segments).await {
            Err(LedgerError::Timeout(_)) if segments.len() > 1 => return Ok(Recounted::TooMany(segments)),
            recounts => recounts?,
        };
        let took = begun.elapsed();
        let mut drift = 0;
        for recount in &recounts {
            self.metrics.recounts.inc();
            drift += recount.drift;
            if recount.drift != 0 {
                self.metrics.drift.inc_by(recount.drift.unsigned_abs());
                tracing::error!(
                    segment = recount.segment.0,
                    drift = recount.drift,
                    members = recount.members,
                    "the counters of a segment differed from its memberships and were mended: a defect, please report it"
                );
            }
        }
        let claims = claims.into_iter().map(|lookup| lookup.ok()?.claim);
        let stores = claims
            .zip(&recounts)
            .filter_map(|(claim, recount)| Some((claim?, recount)));
        join_all(stores.map(|(claim, recount)| async move {
            if let Err(error) = self.cache.store(&claim, recount.members, recount.as_of).await {
                tracing::debug!(%error, "a recount was not cached");
            }
        }))
        .await;
        Ok(Recounted::Done {
            segments: i64::try_from(recounts.len()).unwrap_or(i64::MAX),
            drift,
            took,
        })
    }
}

/// How many of `waiting` segments a group has at first: all of them where these are all that there are and their ledger is read whole.
fn first_group(extent: Option<Extent>, waiting: usize) -> usize {
    let Some(Extent { segments, members }) = extent else {
        return FIRST_GROUP;
    };
    if members <= READ_WHOLE && segments <= waiting as u64 {
        return waiting;
    }
    let typical = (members / segments.max(1)).max(1);
    usize::try_from(FIRST_MEMBERS / typical).map_or(LARGEST_GROUP, |segments| segments.clamp(1, LARGEST_GROUP))
}

/// What the recount of a group of segments brought.
enum Recounted {
    Done {
        segments: i64,
        drift: i64,
        /// How long the ledger took.
        took: Duration,
    },
    /// They take longer than a statement may.
    TooMany(Vec<SegmentId>),
}

fn check_stop(stop: &CancellationToken, tally: &Tally) -> Result<(), ServiceError> {
    if stop.is_cancelled() {
        let processed = tally.report().processed;
        return Err(ServiceError::Unfinished(format!(
            "stopped after {processed}; the next run goes on from there"
        )));
    }
    Ok(())
}
