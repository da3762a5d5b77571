//! Ledger and cache as the configuration names them.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::CommandError;
use crate::cache::{MemoryCache, RedisCache, RedisConfig, RedisMode, SharedCache};
use crate::ledger::{Location, PostgresLedger, PostgresOptions, Settings, SharedLedger, open};
use crate::runtime::config::{Config, Database, NodesFile, Postgres, RedisNodes};
use crate::runtime::secrets::{Secret, SecretFile};

/// How many segments the cache of a process without Redis holds.
const MEMORY_CACHE_ENTRIES: usize = 100_000;
/// How often files of credentials are read again: a rotated password is in use before anybody takes the old one away.
const RELOAD: Duration = Duration::from_secs(5);
/// How often the file of the cache's nodes is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    with(postgres, settings(config)).await
}

/// The same, to be distributed by its migration.
pub(super) async fn distributed(config: &Config, postgres: &Postgres) -> Result<Arc<PostgresLedger>, CommandError> {
    let settings = Settings {
        distributed: true,
        ..settings(config)
    };
    with(postgres, settings).await
}

async fn with(postgres: &Postgres, settings: Settings) -> Result<Arc<PostgresLedger>, CommandError> {
    let ledger = Arc::new(PostgresLedger::open(&options(postgres).await?, settings)?);
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

/// Makes the cache for a ledger's counts; connects at the first use.
pub(super) async fn cache(config: &Config, ledger: &SharedLedger) -> Result<SharedCache, CommandError> {
    let keep = config.serve_stale.unwrap_or_default().max(config.max_staleness);
    let (mode, urls) = match &config.redis {
        RedisNodes::None => return Ok(Arc::new(MemoryCache::new(MEMORY_CACHE_ENTRIES, keep))),
        RedisNodes::Urls(urls) => (RedisMode::Nodes, urls.clone()),
        RedisNodes::Cluster(urls) => (RedisMode::Cluster, urls.clone()),
        RedisNodes::File(file) => (RedisMode::Nodes, file.read().await?),
    };
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
        mode,
        urls: texts(&urls),
        password,
        owner: Some(owner(ledger)),
        keep,
        ..RedisConfig::default()
    };
    let cache = Arc::new(RedisCache::new(&redis)?);
    if let RedisNodes::File(file) = &config.redis {
        tokio::spawn(follow_nodes(file.clone(), urls, Arc::downgrade(&cache)));
    }
    Ok(cache)
}

/// Counters may share their nodes: the ledger tells whose counts are whose.
fn owner(ledger: &SharedLedger) -> crate::cache::OwnerSource {
    let ledger = Arc::clone(ledger);
    Arc::new(move || {
        let ledger = Arc::clone(&ledger);
        Box::pin(async move { ledger.identity().await.map_err(|error| error.to_string()) })
    })
}

fn texts(urls: &[Secret]) -> Vec<String> {
    urls.iter().map(|url| url.expose().to_owned()).collect()
}

/// Hands a changed list of nodes to the cache for as long as it lives. A list that is none leaves the last one in use, and is told once.
async fn follow_nodes(file: NodesFile, mut urls: Vec<Secret>, cache: std::sync::Weak<RedisCache>) {
    let mut told = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(cache) = cache.upgrade() else { return };
        let changed = match file.read().await {
            Ok(new) if new == urls => {
                told = None;
                continue;
            }
            Ok(new) => cache
                .set_nodes(&texts(&new))
                .map(|change| (new, change))
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match changed {
            Ok((new, change)) => {
                tracing::info!(nodes = new.len(), added = ?change.added, removed = ?change.removed, "the list of the cache's nodes changed and is in use");
                urls = new;
                told = None;
            }
            Err(error) if told.as_ref() != Some(&error) => {
                tracing::error!(%error, "the list of the cache's nodes changed and is NOT in use: the old one still is");
                told = Some(error);
            }
            Err(_) => {}
        }
    }
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
