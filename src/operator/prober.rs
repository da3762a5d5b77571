//! Logs in to each object's Postgres and cache with the application's own credentials, apart from the reconcile, and wakes it only when
//! a result changes: nothing in Kubernetes tells that a password was mended.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use kube::ResourceExt;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::{
    controller::{Context, Guarded, Wake},
    observed::{Observed, PostgresFacts, Probe},
    validate::{RedisTarget, Validated, validate},
};
use crate::{
    crd::SegmentCounter,
    ledger::{Job, JobState, Ledger, LedgerError, PostgresLedger, PostgresOptions, Settings},
    runtime::credentials::PostgresCredentials,
};

const EVERY: Duration = Duration::from_secs(13);
const LOGIN: Duration = Duration::from_secs(6);
const AT_ONCE: usize = 8;

/// Probes every object of `objects` for ever. `wake` starts a reconcile.
pub(crate) async fn run(context: Arc<Context>, objects: impl Fn() -> Vec<Arc<Guarded>>, wake: Wake) {
    loop {
        let jitter = rand::rng().random_range(0..4_000);
        sleep(EVERY + Duration::from_millis(jitter)).await;
        let all = objects();
        stream::iter(all)
            .for_each_concurrent(AT_ONCE, |object| {
                let (context, wake) = (&context, &wake);
                async move {
                    let Ok(decoded) = &object.0 else { return };
                    if look(context, decoded).await {
                        let _ = wake.send(());
                    }
                }
            })
            .await;
    }
}

/// Probes one; true when what was found is not what was found before.
async fn look(context: &Context, object: &SegmentCounter) -> bool {
    let Ok(observed) = context.observe(object).await else {
        return false;
    };
    let (probe, valid) = match validate(object, &observed) {
        Ok(v) => (
            Probe {
                postgres: Some(postgres(&v, &observed).await),
                redis: match &v.redis {
                    Some(target) => redis(target, &observed).await,
                    None => Vec::new(),
                },
            },
            String::new(),
        ),
        // Nothing to log in to; that this changed wakes the reconcile all the same.
        Err(invalid) => (Probe::default(), invalid.to_string()),
    };
    if let Some(result) = &probe.postgres {
        context
            .metrics
            .probed(result.as_ref().map_or_else(LedgerError::class, |_| "ok"));
    }
    let uid = object.uid().unwrap_or_default();
    context.with(&uid, |memory| {
        let changed = still(&memory.probe) != still(&probe) || memory.invalid != valid;
        memory.probe = probe;
        memory.invalid = valid;
        changed
    })
}

/// Without what moves at every look.
fn still(probe: &Probe) -> Probe {
    let quiet = |job: &JobState| JobState {
        seconds_since_success: None,
        oldest_recount_seconds: None,
        ..job.clone()
    };
    let mut probe = probe.clone();
    if let Some(Ok(facts)) = &mut probe.postgres {
        facts.archive = quiet(&facts.archive);
        facts.refresh = quiet(&facts.refresh);
    }
    probe
}

async fn postgres(v: &Validated, observed: &Observed) -> Result<PostgresFacts, LedgerError> {
    let data = observed.postgres_secret.clone().unwrap_or_default();
    let login =
        PostgresCredentials::parse(&data).map_err(|error| LedgerError::AuthenticationFailed(error.to_string()))?;
    let options = PostgresOptions::new(login.connect_options(), &v.postgres.schema, 1)?;
    let ledger = PostgresLedger::open(&options, Settings::default())?;
    let facts = timeout(LOGIN, facts(&ledger, &login)).await;
    // Without waiting for a server that does not answer.
    let _ = timeout(Duration::from_secs(1), ledger.close()).await;
    facts.unwrap_or_else(|_| Err(LedgerError::Unreachable("no answer in time".to_owned())))
}

async fn facts(ledger: &PostgresLedger, login: &PostgresCredentials) -> Result<PostgresFacts, LedgerError> {
    login_is_good(ledger.check().await)?;
    let schema = ledger.schema().await?;
    let (archive, refresh) = if schema.is_current() {
        (
            ledger.job_state(Job::Archive).await?,
            ledger.job_state(Job::Refresh).await?,
        )
    } else {
        (JobState::default(), JobState::default())
    };
    Ok(PostgresFacts {
        schema,
        archive,
        refresh,
        server_version: server_version(login).await.unwrap_or_default(),
    })
}

/// A schema that is not this version's says nothing against the login: it is a fact of its own, and a migration that failed is only
/// tried again where the login is good.
fn login_is_good(check: Result<(), LedgerError>) -> Result<(), LedgerError> {
    match check {
        Err(LedgerError::Schema(_)) => Ok(()),
        other => other,
    }
}

/// For people only: what cannot be read stays empty.
async fn server_version(login: &PostgresCredentials) -> Option<String> {
    use sqlx::Connection;
    let mut connection = sqlx::PgConnection::connect_with(&login.connect_options()).await.ok()?;
    let version = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut connection)
        .await
        .ok();
    let _ = connection.close().await;
    version
}

async fn redis(target: &RedisTarget, observed: &Observed) -> Vec<(String, Option<Result<(), String>>)> {
    let password = observed.redis_secret.as_ref().and_then(|data| data.get("password"));
    let Some(password) = password.and_then(|bytes| std::str::from_utf8(bytes).ok()) else {
        return target.hosts.iter().map(|host| (host.clone(), None)).collect();
    };
    let looks = target.hosts.iter().map(|host| async move {
        let result = timeout(LOGIN, ping(host, password))
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()));
        (host.clone(), Some(result))
    });
    futures_util::future::join_all(looks).await
}

async fn ping(host: &str, password: &str) -> Result<(), String> {
    // The kind of an error is told, never its text: a server may repeat what it was sent.
    let told = |error: redis::RedisError| error.category().to_owned();
    // Letters and digits: nothing in it needs an escape.
    let client = redis::Client::open(format!("redis://:{password}@{host}:6379/")).map_err(told)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(told)?;
    redis::cmd("PING")
        .query_async::<String>(&mut connection)
        .await
        .map_err(told)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_waits_for_its_migration_is_logged_in_to_all_the_same() {
        assert_eq!(login_is_good(Err(LedgerError::Schema("absent".into()))), Ok(()));
        let refused = Err(LedgerError::AuthenticationFailed("no".into()));
        assert_eq!(login_is_good(refused.clone()), refused);
    }
}
