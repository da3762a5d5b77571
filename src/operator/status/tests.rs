//! A table of what is told: never Ready too early, never a time that moved for nothing.

use k8s_openapi::api::apps::v1::DeploymentStatus;

use super::*;
use crate::{
    ledger::{JobReport, LedgerError},
    operator::{
        build,
        fixtures::{self, facts},
        observed::PostgresFacts,
        validate::validate,
    },
};

const NOW: i64 = 1_800_000_000;

/// Generation 5 of a Deployment of two, rolled out.
fn rolled_out() -> DeploymentStatus {
    DeploymentStatus {
        observed_generation: Some(5),
        replicas: Some(2),
        updated_replicas: Some(2),
        ready_replicas: Some(2),
        available_replicas: Some(2),
        ..DeploymentStatus::default()
    }
}

/// What is told of `object` once its Deployment stands so and the prober says so.
fn told(
    object: &SegmentCounter,
    deployment: Option<DeploymentStatus>,
    postgres: Option<Result<PostgresFacts, LedgerError>>,
    now: i64,
) -> SegmentCounterStatus {
    let mut observed = fixtures::minimal().1;
    observed.probe.postgres = postgres;
    let validated = validate(object, &observed).unwrap();
    let deployment = deployment.map(|status| {
        let mut deployment = build::children(&validated, "fixed").api;
        deployment.metadata.generation = Some(5);
        deployment.status = Some(status);
        deployment
    });
    let applied = Applied {
        deployment,
        complete: true,
        ..Applied::default()
    };
    status(
        object,
        &object.status.clone().unwrap_or_default(),
        &Outcome {
            troubles: Troubles::new(),
            validated: Ok(&validated),
            applied: Some(Ok(applied)),
            observed: &observed,
            now: Timestamp::from_second(now).unwrap(),
        },
    )
}

fn of<'a>(status: &'a SegmentCounterStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

fn word(status: &SegmentCounterStatus, type_: &str) -> (String, String) {
    let condition = of(status, type_).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn rolled_out_on_a_current_ledger_it_is_ready_for_this_generation() {
    let object = fixtures::minimal().0;
    let status = told(&object, Some(rolled_out()), Some(Ok(facts())), NOW);
    assert_eq!(word(&status, "Ready"), is("True", "AllReady"));
    assert_eq!(status.observed_generation, Some(3));
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(3))
    );
    assert!(of(&status, "Reconciling").is_none() && of(&status, "Stalled").is_none());
    assert_eq!(status.version.as_deref(), Some("0.1.0"));
    assert_eq!(status.endpoint.as_deref(), Some("http://ads-api.growth.svc"));
    assert_eq!(status.api.unwrap().ready, "2/2");
}

#[test]
fn the_cache_is_part_of_ready_only_where_the_api_fails_without_it() {
    let mut object = fixtures::minimal().0;
    // Nothing has logged in to the cache yet.
    let status = told(&object, Some(rolled_out()), Some(Ok(facts())), NOW);
    assert_eq!(word(&status, "CacheReady"), is("Unknown", "NotProbed"));
    assert_eq!(word(&status, "Ready"), is("True", "AllReady"));
    object.spec.api.on_cache_failure = OnCacheFailure::Fail;
    let status = told(&object, Some(rolled_out()), Some(Ok(facts())), NOW);
    assert_eq!(word(&status, "Ready"), is("False", "NotProbed"));
    assert!(of(&status, "Ready").unwrap().message.starts_with("CacheReady: "));
}

#[test]
fn it_is_never_ready_for_an_older_generation_nor_before_every_replica_is_updated_and_available() {
    type Spoil = fn(&mut DeploymentStatus);
    let table: [(Spoil, &str); 5] = [
        (|status| status.observed_generation = Some(4), "RollingOut"),
        (|status| status.observed_generation = None, "RollingOut"),
        (|status| status.updated_replicas = Some(1), "RollingOut"),
        (|status| status.replicas = Some(3), "RollingOut"),
        (|status| status.available_replicas = Some(1), "ReplicasUnavailable"),
    ];
    for (spoil, reason) in table {
        let mut deployment = rolled_out();
        spoil(&mut deployment);
        let status = told(&fixtures::minimal().0, Some(deployment), Some(Ok(facts())), NOW);
        assert_eq!(word(&status, "Ready"), is("False", reason));
        assert_eq!(word(&status, "Reconciling"), is("True", reason));
        assert_eq!(status.version, None);
    }
    let status = told(&fixtures::minimal().0, None, Some(Ok(facts())), NOW);
    assert_eq!(word(&status, "Ready"), is("False", "NotCreated"));
}

#[test]
fn every_failed_login_has_its_reason_and_keeps_it_from_being_ready() {
    let why = || "x".to_owned();
    let table = [
        (
            Some(Err(LedgerError::AuthenticationFailed(why()))),
            "False",
            "AuthenticationFailed",
        ),
        (Some(Err(LedgerError::Unreachable(why()))), "False", "Unreachable"),
        (Some(Err(LedgerError::TlsUntrusted(why()))), "False", "TLSUntrusted"),
        (
            Some(Err(LedgerError::MissingPrivilege(why()))),
            "False",
            "MissingPrivilege",
        ),
        (Some(Err(LedgerError::ReadOnly(why()))), "False", "ReadOnly"),
        (Some(Err(LedgerError::NotDurable(why()))), "False", "NotDurable"),
        (Some(Err(LedgerError::Internal(why()))), "False", "DatabaseFailed"),
        (
            Some(Err(LedgerError::UnsupportedVersion(why()))),
            "False",
            "UnsupportedVersion",
        ),
        (None, "Unknown", "NotProbed"),
    ];
    for (probe, status, reason) in table {
        let told = told(&fixtures::minimal().0, Some(rolled_out()), probe, NOW);
        assert_eq!(word(&told, "PostgresReady"), is(status, reason));
        assert_eq!(word(&told, "Ready"), is("False", reason));
    }
}

#[test]
fn an_older_schema_keeps_it_from_being_ready() {
    let mut older = facts();
    older.schema.installed = Some(2);
    let status = told(&fixtures::minimal().0, Some(rolled_out()), Some(Ok(older)), NOW);
    assert_eq!(word(&status, "SchemaCurrent"), is("False", "Migrating"));
    assert_eq!(word(&status, "Ready"), is("False", "Migrating"));
}

#[test]
fn a_job_is_unknown_before_its_first_run_then_fresh_stale_failed_or_adrift() {
    let success = |age: i64, drift: i64| JobState {
        last_end: Some(Timestamp::from_second(NOW - age).unwrap()),
        last_success: Some(Timestamp::from_second(NOW - age).unwrap()),
        last_result: Some(Ok(JobReport {
            drift,
            ..JobReport::default()
        })),
        seconds_since_success: Some(age),
        ..JobState::default()
    };
    let failed = JobState {
        last_end: Some(Timestamp::from_second(NOW).unwrap()),
        last_result: Some(Err("away".to_owned())),
        ..JobState::default()
    };
    let table = [
        (JobState::default(), "Unknown", "NotYetRun"),
        (success(900, 0), "True", "Fresh"),
        (success(901, 0), "False", "Stale"),
        (success(1, 7), "False", "DriftFound"),
        (failed, "False", "JobFailed"),
    ];
    for (refresh, status, reason) in table {
        let ran = refresh.last_end.is_some();
        let probe = PostgresFacts { refresh, ..facts() };
        let told = told(&fixtures::minimal().0, Some(rolled_out()), Some(Ok(probe)), NOW);
        assert_eq!(word(&told, "CountsCurrent"), is(status, reason));
        assert_eq!(word(&told, "ArchiveCurrent"), is("Unknown", "NotYetRun"));
        assert_eq!(
            word(&told, "Ready"),
            is("True", "AllReady"),
            "freshness is no part of Ready"
        );
        assert_eq!(told.maintenance.unwrap().refresh.is_some(), ran);
    }
}

#[test]
fn what_cannot_be_proven_or_applied_is_stalled_and_not_ready() {
    let (mut object, mut observed) = fixtures::minimal();
    object.status = Some(told(&object, Some(rolled_out()), Some(Ok(facts())), NOW));
    object.metadata.generation = Some(4);
    observed.probe.postgres = Some(Ok(facts()));
    let now = Timestamp::from_second(NOW).unwrap();

    let proven = validate(&object, &observed).unwrap();
    let refusal = ApplyError {
        reason: Reason::Forbidden,
        passing: false,
        kind: "Service".to_owned(),
        name: "ads-api".to_owned(),
        message: "no".to_owned(),
    };
    let refused_by = |refusal| {
        let outcome = Outcome {
            validated: Ok(&proven),
            applied: Some(Err(refusal)),
            troubles: Troubles::new(),
            observed: &observed,
            now,
        };
        status(&object, &SegmentCounterStatus::default(), &outcome)
    };
    let told = refused_by(refusal.clone());
    assert_eq!(word(&told, "Stalled"), is("True", "Forbidden"));
    assert_eq!(word(&told, "Ready"), is("False", "Forbidden"));

    // What may pass by itself needs nobody's help.
    let told = refused_by(ApplyError {
        reason: Reason::ApplyFailed,
        passing: true,
        ..refusal
    });
    assert!(of(&told, "Stalled").is_none());
    assert_eq!(word(&told, "Reconciling"), is("True", "ApplyFailed"));
    assert_eq!(word(&told, "Ready"), is("False", "ApplyFailed"));

    observed.postgres_secret = None;
    let invalid = validate(&object, &observed).unwrap_err();
    let told = status(
        &object,
        &SegmentCounterStatus::default(),
        &Outcome {
            validated: Err(&invalid),
            applied: None,
            troubles: Troubles::new(),
            observed: &observed,
            now,
        },
    );
    assert_eq!(word(&told, "PostgresReady"), is("False", "SecretNotFound"));
    assert_eq!(word(&told, "Stalled"), is("True", "SecretNotFound"));
    assert_eq!(of(&told, "Ready").unwrap().status, "False");
    assert_eq!(told.observed_generation, Some(4));
    assert!(of(&told, "Reconciling").is_none());
}

#[test]
fn a_time_moves_only_when_the_status_of_its_condition_does() {
    let mut object = fixtures::minimal().0;
    let first = told(&object, Some(rolled_out()), Some(Ok(facts())), NOW);
    object.status = Some(first.clone());
    assert_eq!(
        told(&object, Some(rolled_out()), Some(Ok(facts())), NOW + 60),
        first,
        "nothing to write"
    );

    let refused = Some(Err(LedgerError::Unreachable("x".to_owned())));
    let second = told(&object, Some(rolled_out()), refused, NOW + 120);
    let at = |status: &SegmentCounterStatus, type_| of(status, type_).unwrap().last_transition_time.0.as_second();
    assert_eq!(
        (at(&second, "PostgresReady"), at(&second, "APIAvailable")),
        (NOW + 120, NOW)
    );
}
