//! `POST /v1/admin/archive`, `POST /v1/admin/refresh` and `GET /v1/admin/status`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinError;

use super::Api;
use super::name::NoQuery;
use super::problem::{Kind, Problem, ProblemBody};
use crate::ledger::{Job, JobReport, JobState};
use crate::service::{ArchiveOptions, RefreshOptions, ServiceError};

/// How long a request waits for its run to end. What takes longer goes on, and the status says how it ended.
const WAIT: Duration = Duration::from_secs(30);

/// A run of a job.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct JobRun {
    /// The job.
    #[schema(value_type = String, example = "archive")]
    job: Job,
    /// Whether it has ended, all of it done; else it goes on.
    finished: bool,
    /// Its totals, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<JobTotals>,
}

/// What a run did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct JobTotals {
    /// Archive: memberships moved into the history. Refresh: segments recounted.
    processed: i64,
    /// Refresh: by how many members recounts differed from counters; anything but 0 is a defect.
    drift: i64,
    /// Archive: counters of the past cleared.
    counters_cleared: i64,
    /// Archive: partitions of the history dropped.
    partitions_dropped: i64,
}

impl From<JobReport> for JobTotals {
    fn from(report: JobReport) -> Self {
        Self {
            processed: report.processed,
            drift: report.drift,
            counters_cleared: report.counters_cleared,
            partitions_dropped: report.partitions_dropped,
        }
    }
}

/// Run the archive
///
/// Moves memberships that have ended into the history. Answers are right without it; the table grows.
#[utoipa::path(
    post,
    path = "/v1/admin/archive",
    tag = "admin",
    operation_id = "runArchive",
    security(("token" = ["admin"])),
    responses(
        (status = 200, description = "Done", body = JobRun),
        (status = 202, description = "Still under way after 30 seconds: see the status", body = JobRun),
        (status = 409, description = "A run is under way", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It did not end well; the next run goes on from there", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn archive(State(api): State<Api>, _: NoQuery) -> Result<Response, Problem> {
    let options = ArchiveOptions {
        batch_size: api.jobs().batch_size,
        keep_days: api.jobs().keep_days,
        timeout: api.jobs().archive_timeout,
        exclusive: true,
        stop: api.shutdown().token(),
    };
    let service = Arc::clone(api.service());
    let run = tokio::spawn(async move { service.archive(options, Arc::new(|_| {})).await });
    wait(Job::Archive, run).await
}

/// Recount
///
/// Recounts segments from their memberships, the longest unchecked first, and compares with the counters.
#[utoipa::path(
    post,
    path = "/v1/admin/refresh",
    tag = "admin",
    operation_id = "runRefresh",
    security(("token" = ["admin"])),
    responses(
        (status = 200, description = "Done", body = JobRun),
        (status = 202, description = "Still under way after 30 seconds: see the status", body = JobRun),
        (status = 409, description = "A run is under way", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It did not end well; the next run goes on from there", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn refresh(State(api): State<Api>, _: NoQuery) -> Result<Response, Problem> {
    let options = RefreshOptions {
        budget: api.jobs().refresh_timeout,
        exclusive: true,
        stop: api.shutdown().token(),
    };
    let service = Arc::clone(api.service());
    let run = tokio::spawn(async move { service.refresh(options, Arc::new(|_| {})).await });
    wait(Job::Refresh, run).await
}

/// Waits for a run that goes on although nobody waits any more.
async fn wait(
    job: Job,
    run: impl Future<Output = Result<Result<JobReport, ServiceError>, JoinError>> + Unpin,
) -> Result<Response, Problem> {
    match tokio::time::timeout(WAIT, run).await {
        Err(_) => Ok((
            StatusCode::ACCEPTED,
            Json(JobRun {
                job,
                finished: false,
                totals: None,
            }),
        )
            .into_response()),
        Ok(Err(_)) => Err(Problem::new(Kind::Internal, "the run broke off")),
        Ok(Ok(report)) => Ok(Json(JobRun {
            job,
            finished: true,
            totals: Some(report?.into()),
        })
        .into_response()),
    }
}

/// How the service is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AdminStatus {
    /// The service's version.
    version: &'static str,
    /// The database.
    ledger: LedgerStatus,
    /// The cache.
    cache: CacheStatus,
    /// By what it counts.
    counting: CountingStatus,
    /// What the archive last did; absent while the ledger is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<JobStatus>,
    /// What the recounts last did; absent while the ledger is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<JobStatus>,
}

/// The database.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LedgerStatus {
    /// `postgres` or `sqlite`.
    kind: &'static str,
    /// Whether it answers and takes writes.
    up: bool,
    /// What is wrong: `unreachable`, `authentication_failed`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    problem: Option<&'static str>,
    /// The newest migration that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_installed: Option<i64>,
    /// The newest migration that this version knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_expected: Option<i64>,
}

/// The cache.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CacheStatus {
    /// `redis` or `memory`.
    kind: &'static str,
    /// Each node.
    nodes: Vec<NodeStatus>,
}

/// A node of the cache.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct NodeStatus {
    /// Host and port.
    node: String,
    /// Whether it answers.
    up: bool,
}

/// By what it counts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CountingStatus {
    /// How long a pair lasts where neither it nor its segment says.
    window_seconds: i64,
    /// The grain at which users leave.
    resolution_seconds: i64,
    /// How old an answer may be where the request does not say.
    max_staleness_ms: u64,
}

/// What the runs of a job left behind.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct JobStatus {
    /// Whether one is under way.
    running: bool,
    /// When the last one ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_end: Option<Timestamp>,
    /// Whether that one did all of its work.
    last_succeeded: Option<bool>,
    /// Its totals, where it did.
    last_totals: Option<JobTotals>,
    /// When the last one ended that did all of its work.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_success: Option<Timestamp>,
    /// How long ago that was.
    seconds_since_success: Option<i64>,
    /// Refresh: how long ago the segment that waits longest was recounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_recount_seconds: Option<i64>,
}

impl From<JobState> for JobStatus {
    fn from(state: JobState) -> Self {
        Self {
            running: state.running,
            last_end: state.last_end,
            last_succeeded: state.last_result.as_ref().map(Result::is_ok),
            last_totals: state.last_result.and_then(Result::ok).map(JobTotals::from),
            last_success: state.last_success,
            seconds_since_success: state.seconds_since_success,
            oldest_recount_seconds: state.oldest_recount_seconds,
        }
    }
}

/// See how the service is
///
/// Answers while the ledger or the cache is away, and says so.
#[utoipa::path(
    get,
    path = "/v1/admin/status",
    tag = "admin",
    operation_id = "getStatus",
    security(("token" = ["admin"])),
    responses((status = 200, description = "How it is", body = AdminStatus)),
)]
pub(crate) async fn status(State(api): State<Api>, _: NoQuery) -> Json<AdminStatus> {
    let service = api.service();
    let readiness = service.readiness().await;
    let (schema, archive, refresh) = match &readiness.ledger {
        Err(_) => (None, None, None),
        Ok(()) => {
            let (schema, archive, refresh) = tokio::join!(
                service.ledger().schema(),
                service.job_state(Job::Archive),
                service.job_state(Job::Refresh)
            );
            (
                schema.ok(),
                archive.ok().map(JobStatus::from),
                refresh.ok().map(JobStatus::from),
            )
        }
    };
    Json(AdminStatus {
        version: env!("CARGO_PKG_VERSION"),
        ledger: LedgerStatus {
            kind: readiness.ledger_kind,
            up: readiness.ledger.is_ok(),
            problem: readiness.ledger.err().map(|error| error.class()),
            schema_installed: schema.and_then(|schema| schema.installed),
            schema_expected: schema.map(|schema| schema.expected),
        },
        cache: CacheStatus {
            kind: readiness.cache_kind,
            nodes: readiness
                .cache
                .into_iter()
                .map(|node| NodeStatus {
                    up: node.error.is_none(),
                    node: node.node,
                })
                .collect(),
        },
        counting: CountingStatus {
            window_seconds: api.rules().window().seconds(),
            resolution_seconds: api.rules().resolution().seconds(),
            max_staleness_ms: u64::try_from(service.config().max_staleness.as_millis()).unwrap_or(u64::MAX),
        },
        archive,
        refresh,
    })
}
