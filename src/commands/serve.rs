//! `serve`: the API on one port, health and metrics on another, until a signal; then unready, drained, flushed, gone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::registry::Registry;

use super::{CommandError, open, say};
use crate::api::{self, Tokens};
use crate::ledger::{Job, SharedLedger};
use crate::runtime::config::{Config, Database, RedisNodes};
use crate::runtime::health::{self, Dependency, Probe};
use crate::runtime::http::{Limits, Listener};
use crate::runtime::shutdown::Shutdown;
use crate::service::{Metrics, Service, ServiceConfig};

/// Between becoming unready and taking nothing new: load balancers need a moment to look elsewhere.
const LAME_DUCK: Duration = Duration::from_millis(500);
/// How long the ledger may take to do what it was given, once the grace period is over.
const LAST: Duration = Duration::from_secs(5);

pub(super) async fn serve(config: Config) -> Result<(), CommandError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CommandError::System("signals", error))?;
    let ledger = open::ledger(&config).await?;
    prepare(&config, &ledger).await?;
    let cache = open::cache(&config, &ledger).await?;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let bounds = ServiceConfig {
        max_staleness: config.max_staleness,
        serve_stale: config.serve_stale,
        cache_required: config.cache_required,
        ..ServiceConfig::default()
    };
    let service = Service::start(ledger, cache, metrics, bounds);
    let tokens = match &config.tokens_file {
        Some(path) => Tokens::watch(path.clone(), shutdown.clone()).await?,
        None => {
            tracing::warn!("no tokens file: pairs and counts are open to everybody, administration is closed");
            Tokens::open()
        }
    };
    let mut options = api::Options::new(Arc::clone(&service), tokens, shutdown.clone());
    // The rest of the grace is for the flush.
    options.stream_grace = config.shutdown_grace / 2;
    options.jobs.batch_size = config.batch_size;
    options.jobs.keep_days = config.keep_days;
    if let Some(timeout) = config.timeout {
        options.jobs.archive_timeout = timeout;
        options.jobs.refresh_timeout = timeout;
    }
    let routes = api::routes(options, &mut registry);

    let stop = Shutdown::new();
    let listener = Listener::bind(config.listen, Limits::default())
        .await
        .map_err(|error| CommandError::System("listen", error))?;
    let address = listener
        .address()
        .map_err(|error| CommandError::System("listen", error))?;
    let probe = Arc::new(ServiceProbe(Arc::clone(&service)));
    let health = health::spawn(
        config.health_listen,
        Arc::new(registry),
        probe,
        shutdown.clone(),
        stop.clone(),
    )
    .await
    .map_err(|error| CommandError::System("health_listen", error))?;
    greet(&config, address, health);

    let drained = Shutdown::new();
    let serving = tokio::spawn(listener.serve(routes, drained.clone()));
    shutdown.requested().await;
    tokio::time::sleep(LAME_DUCK).await;
    drained.request();
    let ending = async {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the server broke off");
        }
        service.shutdown().await;
    };
    if tokio::time::timeout(config.shutdown_grace, ending).await.is_err() {
        tracing::warn!("the grace period is over; connections that are still open are cut");
        if tokio::time::timeout(LAST, service.shutdown()).await.is_err() {
            tracing::warn!("the ledger does not answer; what it was asked may or may not have been done");
        }
    }
    stop.request();
    Ok(())
}

/// An embedded ledger is nobody else's: its schema is brought up to date at once. PostgreSQL's only by `migrate`, since other replicas may
/// still serve from the old one; until then this replica is unready.
async fn prepare(config: &Config, ledger: &SharedLedger) -> Result<(), CommandError> {
    if !matches!(config.database, Database::Postgres(_)) {
        ledger.migrate().await?;
        ledger.check().await?;
        return Ok(());
    }
    if let Err(error) = ledger.check().await {
        tracing::warn!(%error, "the database is not ready; serving begins when it is");
    }
    Ok(())
}

fn greet(config: &Config, address: std::net::SocketAddr, health: std::net::SocketAddr) {
    match &config.database {
        Database::SqliteFile(path) => say(&format!("embedded ledger: the SQLite file {}", path.display())),
        Database::SqliteMemory => say("embedded ledger: in memory, gone when this process ends"),
        Database::Postgres(postgres) => say(&format!("ledger: PostgreSQL, schema {}", postgres.schema)),
    }
    match &config.redis {
        RedisNodes::None => say("cache: in the memory of this process"),
        RedisNodes::Urls(urls) => say(&format!("cache: {} Redis nodes", urls.len())),
        RedisNodes::File(file) => say(&format!("cache: the Redis nodes of {}", file.path().display())),
        RedisNodes::Cluster(_) => say("cache: a Redis Cluster"),
    }
    say(&format!(
        "\nserving on http://{address}, health and metrics on http://{health}\n\n  \
         curl -X POST http://{address}/v1/pairs -H 'content-type: application/json' -d '{{\"user_id\": \"ada\", \"segment\": \"readers\"}}'\n  \
         curl http://{address}/v1/segments/readers/count\n"
    ));
}

struct ServiceProbe(Arc<Service>);

#[async_trait]
impl Probe for ServiceProbe {
    async fn dependencies(&self) -> Vec<Dependency> {
        let readiness = self.0.readiness().await;
        let mut all = Vec::with_capacity(1 + readiness.cache.len());
        all.push(match &readiness.ledger {
            Ok(()) => Dependency::ok(readiness.ledger_kind),
            Err(error) if readiness.serves_stale => Dependency::degraded(readiness.ledger_kind, error.class()),
            Err(error) => Dependency::failed(readiness.ledger_kind, error.class()),
        });
        if readiness.cache.is_empty() {
            all.push(Dependency::ok(readiness.cache_kind));
        }
        for node in &readiness.cache {
            let name = format!("{} {}", readiness.cache_kind, node.node);
            all.push(match &node.error {
                None => Dependency::ok(name),
                Some(error) if readiness.lacks_cache() => Dependency::failed(name, error.to_string()),
                Some(error) => Dependency::degraded(name, error.to_string()),
            });
        }
        all
    }

    async fn before_metrics(&self) {
        for job in [Job::Archive, Job::Refresh] {
            if let Err(error) = self.0.job_state(job).await {
                tracing::debug!(%error, "how long ago the jobs ran cannot be told");
            }
        }
    }
}
