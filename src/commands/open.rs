//! Ledger and cache as the configuration names them.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::CommandError;
use crate::cache::{MemoryCache, RedisCache, RedisConfig, SharedCache};
use crate::ledger::{Location, PostgresLedger, PostgresOptions, Settings, SharedLedger, open};
use crate::runtime::config::{Config, Database, Postgres};
use crate::runtime::secrets::{Secret, SecretFile};

/// How many segments the cache of a process without Redis holds.
const MEMORY_CACHE_ENTRIES: usize = 100_000;
/// How often files of credentials are read again: a rotated password is in use before anybody takes the old one away.
const RELOAD: Duration = Duration::from_secs(5);

/// Opens the ledger.
pub(super) async fn ledger(config: &Config) -> Result<SharedLedger, CommandError> {
    match &config.database {
        Database::SqliteMemory => Ok(open(&Location::Memory, settings(config))?),
        Database::SqliteFile(path) => Ok(open(&Location::File(path.clone()), settings(config))?),
        Database::Postgres(found) => Ok(postgres(config, found).await?),
    }
}

/// Opens a ledger on PostgreSQL, which follows a password that is rotated.
pub(super) async fn postgres(config: &Config, postgres: &Postgres) -> Result<Arc<PostgresLedger>, CommandError> {
    let ledger = Arc::new(PostgresLedger::open(&options(postgres).await?, settings(config))?);
    tokio::spawn(follow(postgres.clone(), Arc::downgrade(&ledger)));
    Ok(ledger)
}

fn settings(config: &Config) -> Settings {
    Settings {
        rules: config.rules,
        settle: config.settle,
        lanes: i32::try_from(config.lanes).unwrap_or(i32::MAX),
        max_segments_from_pairs: i64::try_from(config.max_segments_from_pairs).unwrap_or(i64::MAX),
        ..Settings::default()
    }
}

async fn options(postgres: &Postgres) -> Result<PostgresOptions, CommandError> {
    let connect = postgres.login.connect_options().await?;
    Ok(PostgresOptions::new(
        connect,
        &postgres.schema,
        postgres.max_connections,
    )?)
}

/// Hands new credentials to the pool for as long as the ledger lives.
async fn follow(postgres: Postgres, ledger: std::sync::Weak<PostgresLedger>) {
    loop {
        tokio::time::sleep(RELOAD).await;
        let Some(ledger) = ledger.upgrade() else { return };
        match options(&postgres).await {
            Ok(options) => ledger.set_credentials(&options),
            Err(error) => {
                tracing::warn!(%error, "the database's credentials cannot be read; the last ones stay in use");
            }
        }
    }
}

/// Makes the cache; connects at the first use.
pub(super) async fn cache(config: &Config) -> Result<SharedCache, CommandError> {
    let keep = config.serve_stale.unwrap_or_default().max(config.max_staleness);
    if config.redis_urls.is_empty() {
        return Ok(Arc::new(MemoryCache::new(MEMORY_CACHE_ENTRIES, keep)));
    }
    let password = match &config.redis_password_file {
        None => None,
        Some(file) => {
            let last = Arc::new(RwLock::new(read(file).await));
            tokio::spawn(follow_password(file.clone(), Arc::downgrade(&last)));
            let source: crate::cache::PasswordSource =
                Arc::new(move || last.read().ok()?.as_ref().map(|secret| secret.expose().to_owned()));
            Some(source)
        }
    };
    let redis = RedisConfig {
        urls: config.redis_urls.iter().map(|url| url.expose().to_owned()).collect(),
        password,
        keep,
        ..RedisConfig::default()
    };
    Ok(Arc::new(RedisCache::new(&redis)?))
}

async fn read(file: &SecretFile) -> Option<Secret> {
    match file.read().await {
        Ok(secret) => Some(secret),
        Err(error) => {
            tracing::warn!(%error, "the cache's password cannot be read");
            None
        }
    }
}

async fn follow_password(file: SecretFile, last: std::sync::Weak<RwLock<Option<Secret>>>) {
    loop {
        tokio::time::sleep(RELOAD).await;
        let Some(last) = last.upgrade() else { return };
        if let Some(secret) = read(&file).await
            && let Ok(mut last) = last.write()
        {
            *last = Some(secret);
        }
    }
}
