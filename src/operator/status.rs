//! What is told of an object: a pure function of the object, of what the API server answered to the apply, and of the probe.

mod facts;
#[cfg(test)]
mod tests;

pub(crate) use facts::is_stale;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::Job,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::{
    observed::Observed,
    trouble::Troubles,
    validate::{Invalid, Validated},
};
use crate::crd::{
    ApiStatus, ConditionStatus, ConditionType, JobStatus, MaintenanceStatus, OnCacheFailure, Reason, SegmentCounter,
    SegmentCounterStatus,
};
use crate::ledger::JobState;

/// How a reconcile went.
pub(crate) struct Outcome<'a> {
    /// Whether the object asks for something possible.
    pub(crate) validated: Result<&'a Validated, &'a Invalid>,
    /// What the API server answered; `None`: nothing was applied.
    pub(crate) applied: Option<Result<Applied, ApplyError>>,
    /// Why pods do not come up; asked only while they do not.
    pub(crate) troubles: Troubles,
    /// What was seen.
    pub(crate) observed: &'a Observed,
    /// The instant of this reconcile.
    pub(crate) now: Timestamp,
}

/// The children as the API server answered them; `None`: not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Applied {
    /// The API; the one of an earlier spec while this one's waits for its migration.
    pub(crate) deployment: Option<Deployment>,
    /// The migration.
    pub(crate) migrate: Option<Job>,
    /// The cache.
    pub(crate) redis: Option<StatefulSet>,
    /// Whether all was applied; false while the API and its jobs wait for the migration.
    pub(crate) complete: bool,
}

impl Applied {
    /// Whether the pods of this spec are all there: the API's and the cache's.
    pub(crate) fn is_rolled_out(&self) -> bool {
        let cache = self.redis.as_ref().is_none_or(|redis| {
            let ready = redis
                .status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or_default();
            ready >= redis.spec.replicas.unwrap_or(1)
        });
        cache && facts::api_available(Some(self)).status == ConditionStatus::True
    }
}

/// Why a child could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {message}")]
pub(crate) struct ApplyError {
    /// `ApplyFailed`, `Forbidden` or `NameConflict`.
    pub(crate) reason: Reason,
    /// Whether the next try may go through without anybody's help.
    pub(crate) passing: bool,
    /// Kind of the child.
    pub(crate) kind: String,
    /// Name of the child.
    pub(crate) name: String,
    /// What the API server said.
    pub(crate) message: String,
}

/// What is said of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    status: ConditionStatus,
    reason: Reason,
    message: String,
}

impl Verdict {
    fn new(status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        // What a server said may be long; the schema's bound is far beyond what anybody reads.
        let message: String = message.into().chars().take(1024).collect();
        Self {
            status,
            reason,
            message,
        }
    }

    fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::True, reason, message)
    }

    fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::Unknown, reason, message)
    }
}

/// Tells of an object, after what was told `before`. Always something: also of an invalid one, and after an apply that failed.
pub(crate) fn status(
    object: &SegmentCounter,
    before: &SegmentCounterStatus,
    outcome: &Outcome<'_>,
) -> SegmentCounterStatus {
    let generation = object.metadata.generation;
    let applied = match &outcome.applied {
        Some(Ok(applied)) => Some(applied),
        Some(Err(_)) | None => None,
    };
    let verdicts = verdicts(object, outcome, applied);
    let conditions = verdicts
        .iter()
        .map(|(type_, verdict)| condition(&before.conditions, *type_, verdict, generation, outcome.now))
        .collect();
    let deployment = applied.and_then(|applied| applied.deployment.as_ref());
    let rolled_out = verdicts
        .iter()
        .any(|(type_, verdict)| *type_ == ConditionType::APIAvailable && verdict.status == ConditionStatus::True);
    SegmentCounterStatus {
        observed_generation: generation,
        conditions,
        endpoint: match outcome.validated {
            Ok(v) => Some(format!("http://{}-api.{}.svc", v.name, v.namespace)),
            Err(_) => before.endpoint.clone(),
        },
        // The one that all pods run: it changes when the last of them does.
        version: match outcome.validated {
            Ok(v) if rolled_out => Some(v.version.clone()),
            _ => before.version.clone(),
        },
        api: deployment.map(api_status).or_else(|| before.api.clone()),
        maintenance: match &outcome.observed.probe.postgres {
            Some(Ok(facts)) => Some(MaintenanceStatus {
                archive: job_status(&facts.archive),
                refresh: job_status(&facts.refresh),
            }),
            // While the ledger does not answer, what it said last still happened.
            Some(Err(_)) | None => before.maintenance.clone(),
        },
    }
}

/// The conditions, in the order in which they stand.
fn verdicts(
    object: &SegmentCounter,
    outcome: &Outcome<'_>,
    applied: Option<&Applied>,
) -> Vec<(ConditionType, Verdict)> {
    let invalid = outcome.validated.err();
    let refused = outcome.applied.as_ref().and_then(|applied| applied.as_ref().err());
    let stalled = invalid
        .map(|invalid| Verdict::yes(invalid.reason, &invalid.message))
        .or_else(|| {
            let lasting = refused.filter(|error| !error.passing);
            lasting.map(|error| Verdict::yes(error.reason, error.to_string()))
        });

    let api = match (&stalled, refused) {
        (Some(why), _) => Verdict::unknown(why.reason, "this spec was not applied"),
        (None, Some(error)) => Verdict::unknown(error.reason, error.to_string()),
        (None, None) => facts::explained(facts::api_available(applied), &outcome.troubles, &["api", "migrate"]),
    };
    let probe = &outcome.observed.probe;
    let postgres = match invalid {
        Some(invalid) if invalid.condition == ConditionType::PostgresReady => {
            Verdict::no(invalid.reason, &invalid.message)
        }
        _ => facts::postgres_ready(probe.postgres.as_ref()),
    };
    let schema = facts::schema_current(
        probe.postgres.as_ref(),
        applied.and_then(|applied| applied.migrate.as_ref()),
        applied.is_some_and(|applied| !applied.complete),
    );
    let cache = facts::explained(
        facts::cache_ready(object.spec.redis.managed.is_some(), &probe.redis),
        &outcome.troubles,
        &["redis"],
    );
    let ready = match &stalled {
        // What holds everything up says why, not what follows from it.
        Some(why) => Verdict::no(why.reason, &why.message),
        None => {
            let mut parts = vec![
                ("APIAvailable", &api),
                ("PostgresReady", &postgres),
                ("SchemaCurrent", &schema),
            ];
            if object.spec.api.on_cache_failure == OnCacheFailure::Fail {
                parts.push(("CacheReady", &cache));
            }
            ready(&parts)
        }
    };

    let maintenance = &object.spec.maintenance;
    let jobs = match &probe.postgres {
        Some(Ok(facts)) => Some((&facts.archive, &facts.refresh)),
        Some(Err(_)) | None => None,
    };
    let archive = facts::fresh(jobs.map(|jobs| jobs.0), maintenance.archive.stale_after_seconds);
    let counts = facts::fresh(jobs.map(|jobs| jobs.1), maintenance.refresh.stale_after_seconds);

    let reconciling = match (&stalled, api.status) {
        (None, ConditionStatus::False | ConditionStatus::Unknown) => Some(Verdict::yes(api.reason, &api.message)),
        _ => None,
    };
    let mut all = vec![
        (ConditionType::Ready, ready),
        (ConditionType::APIAvailable, api),
        (ConditionType::PostgresReady, postgres),
        (ConditionType::CacheReady, cache),
        (ConditionType::SchemaCurrent, schema),
        (ConditionType::ArchiveCurrent, archive),
        (ConditionType::CountsCurrent, counts),
    ];
    all.extend(reconciling.map(|verdict| (ConditionType::Reconciling, verdict)));
    all.extend(stalled.map(|verdict| (ConditionType::Stalled, verdict)));
    all
}

/// The conjunction: the first that is False says why, else the first that is Unknown.
fn ready(parts: &[(&str, &Verdict)]) -> Verdict {
    for wanted in [ConditionStatus::False, ConditionStatus::Unknown] {
        if let Some((name, part)) = parts.iter().find(|(_, part)| part.status == wanted) {
            // Not ready, for whoever waits, also where it cannot be told yet.
            return Verdict::no(part.reason, format!("{name}: {}", part.message));
        }
    }
    Verdict::yes(Reason::AllReady, "the API answers from its ledger")
}

/// The time moves only with the status.
fn condition(
    before: &[Condition],
    type_: ConditionType,
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let since = before
        .iter()
        .find(|old| old.type_ == type_.as_str() && old.status == verdict.status.as_str())
        .map(|old| old.last_transition_time.clone());
    Condition {
        type_: type_.as_str().to_owned(),
        status: verdict.status.as_str().to_owned(),
        reason: verdict.reason.as_str().to_owned(),
        message: verdict.message.clone(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(now))),
    }
}

/// As the API server keeps times: what it gives back must equal what was sent.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn api_status(deployment: &Deployment) -> ApiStatus {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or_default();
    let labels = deployment.spec.selector.match_labels.iter().flatten();
    let selector: Vec<_> = labels.map(|(key, value)| format!("{key}={value}")).collect();
    ApiStatus {
        ready: format!("{ready}/{wanted}"),
        replicas: status.replicas.unwrap_or_default(),
        ready_replicas: ready,
        selector: selector.join(","),
    }
}

fn job_status(state: &JobState) -> Option<JobStatus> {
    state.last_end?;
    Some(JobStatus {
        last_success_time: state.last_success.map(|at| Time(whole_seconds(at))),
        last_result: state.last_result.as_ref().map(|result| match result {
            Ok(report) => format!("succeeded: {} processed", report.processed),
            Err(why) => format!("failed: {why}").chars().take(1024).collect(),
        }),
    })
}
