//! Logs in to an object's Postgres and to each node of its cache as the application does, and asks what they say of themselves.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    observed::{Observed, PostgresFacts},
    validate::Validated,
};
use crate::{
    ledger::{Job, JobState, Ledger, LedgerError, PostgresLedger, PostgresOptions, Settings},
    runtime::credentials::PostgresCredentials,
};

/// How long a login with all its questions may take.
const LOGIN: Duration = Duration::from_secs(8);
/// How long the login itself may: enough for a machine that is busy, with time left to find out why it failed.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn postgres(v: &Validated, observed: &Observed) -> Result<PostgresFacts, LedgerError> {
    let data = observed.postgres_secret.clone().unwrap_or_default();
    let login =
        PostgresCredentials::parse(&data).map_err(|error| LedgerError::AuthenticationFailed(error.to_string()))?;
    let options = PostgresOptions::new(login.connect_options(), &v.postgres.schema, 1)?.waiting(CONNECT);
    let ledger = PostgresLedger::open(&options, Settings::default())?;
    let facts = timeout(LOGIN, facts(&ledger)).await;
    // Without waiting for a server that does not answer.
    let _ = timeout(Duration::from_secs(1), ledger.close()).await;
    facts.unwrap_or_else(|_| Err(LedgerError::Unreachable("no answer in time".to_owned())))
}

async fn facts(ledger: &PostgresLedger) -> Result<PostgresFacts, LedgerError> {
    // First: it waits for the one connection that all the others use.
    let server_version = ledger.server_version().await?;
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
        server_version,
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

/// Each node with its answer; none where there is no cache.
pub(super) async fn redis(v: &Validated, observed: &Observed) -> Vec<(String, Option<Result<(), String>>)> {
    let Some(target) = &v.redis else { return Vec::new() };
    let Some(password) = observed.redis_password() else {
        return target.hosts.iter().map(|host| (host.clone(), None)).collect();
    };
    let password = &password;
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
