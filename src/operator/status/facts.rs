//! One condition a function: from what a child or a server said to whether it is so, and why.

use k8s_openapi::api::batch::v1::Job;

use super::{Applied, Verdict};
use crate::{
    crd::{ConditionStatus, Reason},
    ledger::{JobState, LedgerError},
    operator::{apply::ended, observed::PostgresFacts, trouble::Troubles},
};

/// True only of the revision that was applied last: its controller has seen it, and every replica is of it and available.
pub(super) fn api_available(applied: Option<&Applied>) -> Verdict {
    let Some(deployment) = applied.and_then(|applied| applied.deployment.as_ref()) else {
        return Verdict::no(Reason::NotCreated, "the Deployment waits for the migration");
    };
    if applied.is_some_and(|applied| !applied.complete) {
        return Verdict::no(
            Reason::RollingOut,
            "the new revision waits for its migration; the old one stands",
        );
    }
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation.unwrap_or_default() >= deployment.metadata.generation.unwrap_or(i64::MAX);
    if !seen {
        return Verdict::no(Reason::RollingOut, "the new revision was not taken up yet");
    }
    let stuck = status.conditions.iter().flatten().find(|condition| {
        condition.type_.as_deref() == Some("Progressing")
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    if let Some(stuck) = stuck {
        return Verdict::no(Reason::RolloutStuck, stuck.message.clone().unwrap_or_default());
    }
    let updated = status.updated_replicas.unwrap_or_default();
    let total = status.replicas.unwrap_or_default();
    if updated < wanted || total > updated {
        return Verdict::no(
            Reason::RollingOut,
            format!("{updated} of {wanted} replicas are updated"),
        );
    }
    let available = status.available_replicas.unwrap_or_default();
    if available < wanted {
        return Verdict::no(
            Reason::ReplicasUnavailable,
            format!("{available} of {wanted} replicas are available"),
        );
    }
    Verdict::yes(
        Reason::AllReplicasAvailable,
        format!("{wanted} of {wanted} replicas are available"),
    )
}

/// The same verdict, unless it is True, in the words of what is wrong with the pods of these components.
pub(super) fn explained(verdict: Verdict, troubles: &Troubles, components: &[&str]) -> Verdict {
    if verdict.status == ConditionStatus::True {
        return verdict;
    }
    match components.iter().find_map(|component| troubles.get(*component)) {
        Some(trouble) => Verdict::no(trouble.reason, &trouble.message),
        None => verdict,
    }
}

pub(super) fn postgres_ready(probe: Option<&Result<PostgresFacts, LedgerError>>) -> Verdict {
    let error = match probe {
        None => return Verdict::unknown(Reason::NotProbed, "no login was tried yet"),
        Some(Ok(facts)) => {
            return Verdict::yes(
                Reason::LoggedIn,
                format!("logged in to PostgreSQL {}", facts.server_version),
            );
        }
        Some(Err(error)) => error,
    };
    let reason = match error {
        LedgerError::AuthenticationFailed(_) => Reason::AuthenticationFailed,
        LedgerError::TlsUntrusted(_) => Reason::TLSUntrusted,
        LedgerError::MissingPrivilege(_) => Reason::MissingPrivilege,
        LedgerError::ReadOnly(_) => Reason::ReadOnly,
        LedgerError::UnsupportedVersion(_) => Reason::UnsupportedVersion,
        LedgerError::NotDurable(_) => Reason::NotDurable,
        LedgerError::Unreachable(_) | LedgerError::Timeout(_) => Reason::Unreachable,
        LedgerError::Schema(_) | LedgerError::Internal(_) => Reason::DatabaseFailed,
    };
    Verdict::no(reason, error.to_string())
}

/// True where every node let the operator in; Unknown while one was never tried and none refused.
pub(super) fn cache_ready(configured: bool, nodes: &[(String, Option<Result<(), String>>)]) -> Verdict {
    if !configured {
        return Verdict::unknown(Reason::NotConfigured, "the object has no cache server");
    }
    let failed: Vec<_> = nodes
        .iter()
        .filter_map(|(name, result)| match result {
            Some(Err(why)) => Some(format!("{name}: {why}")),
            Some(Ok(())) | None => None,
        })
        .collect();
    if !failed.is_empty() {
        let refused = failed
            .iter()
            .any(|why| why.contains("NOAUTH") || why.contains("WRONGPASS"));
        let reason = if refused {
            Reason::AuthenticationFailed
        } else {
            Reason::Unreachable
        };
        return Verdict::no(reason, failed.join("; "));
    }
    if nodes.is_empty() || nodes.iter().any(|(_, result)| result.is_none()) {
        return Verdict::unknown(Reason::NotProbed, "no login was tried yet");
    }
    Verdict::yes(Reason::LoggedIn, format!("logged in to {} nodes", nodes.len()))
}

/// How often a migration must have failed before it is told: once may be a database that came later.
const ATTEMPTS: i32 = 2;

/// By the ledger's own word, never by a Job that once succeeded. `waits`: the API waits for a migration, which may be for more than the version of the
/// schema says: for lanes.
pub(super) fn schema_current(
    probe: Option<&Result<PostgresFacts, LedgerError>>,
    migrate: Option<&Job>,
    waits: bool,
) -> Verdict {
    let failed = migrate.and_then(migration_failed);
    match (probe, failed) {
        (Some(Ok(facts)), failed) => match failed {
            Some(failed) if waits || !facts.schema.is_current() => failed,
            _ => schema_matches(facts),
        },
        (Some(Err(_)) | None, Some(failed)) => failed,
        (Some(Err(_)) | None, None) => Verdict::unknown(Reason::NotProbed, "the ledger was not asked"),
    }
}

fn schema_matches(facts: &PostgresFacts) -> Verdict {
    let expected = facts.schema.expected;
    if facts.schema.is_current() {
        return Verdict::yes(Reason::SchemaMatches, format!("the schema is at version {expected}"));
    }
    let message = match facts.schema.installed {
        Some(installed) => format!("the schema is at version {installed} of {expected}"),
        None => "there is no schema yet".to_owned(),
    };
    Verdict::no(Reason::Migrating, message)
}

/// A Job tries again for half an hour before it has failed, which is long to say nothing: its attempts are told before.
fn migration_failed(job: &Job) -> Option<Verdict> {
    let status = job.status.as_ref()?;
    let message = match ended(job, "Failed") {
        Some(failed) => format!(
            "the migration failed: {}",
            failed.message.as_deref().unwrap_or_default()
        ),
        None if status.failed.unwrap_or_default() >= ATTEMPTS && status.succeeded.unwrap_or_default() == 0 => format!(
            "each attempt of the migration failed so far, and it is tried again: the logs of Job {} say why",
            job.metadata.name.as_deref().unwrap_or_default()
        ),
        None => return None,
    };
    Some(Verdict::no(Reason::MigrationFailed, message))
}

/// Of the archive or the refresh. Its age is by the database's own clock.
pub(super) fn fresh(state: Option<&JobState>, stale_after_seconds: i32) -> Verdict {
    let Some(state) = state else {
        return Verdict::unknown(Reason::NotProbed, "the ledger was not asked");
    };
    match &state.last_result {
        Some(Err(why)) if state.seconds_since_success.is_none() => {
            return Verdict::no(Reason::JobFailed, format!("the last run failed: {why}"));
        }
        Some(Ok(report)) if report.drift != 0 => {
            let message = format!("the last run found and mended a difference of {}", report.drift);
            return Verdict::no(Reason::DriftFound, message);
        }
        Some(Ok(_) | Err(_)) | None => {}
    }
    if state.seconds_since_success.is_none() {
        return Verdict::unknown(Reason::NotYetRun, "it never ran");
    }
    if is_stale(state, stale_after_seconds) {
        // No age in the message: it would be another one at every look.
        return Verdict::no(
            Reason::Stale,
            format!("the last success is older than {stale_after_seconds} s"),
        );
    }
    Verdict::yes(
        Reason::Fresh,
        format!("the last success is younger than {stale_after_seconds} s"),
    )
}

/// Whether the last success is too long ago; a job that never succeeded is not stale but new.
pub(crate) fn is_stale(state: &JobState, stale_after_seconds: i32) -> bool {
    state
        .seconds_since_success
        .is_some_and(|age| age > i64::from(stale_after_seconds))
}
