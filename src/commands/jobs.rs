//! `archive` and `refresh`: what the CronJobs run. Progress goes to standard error, totals to standard output; a failure is an exit code.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{CommandError, open, say};
use crate::ledger::JobReport;
use crate::runtime::config::Config;
use crate::runtime::shutdown::Shutdown;
use crate::service::{ArchiveOptions, Metrics, Progress, RefreshOptions, Service, ServiceConfig};

/// How often a long run says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn archive(config: &Config) -> Result<(), CommandError> {
    let (service, shutdown) = service(config).await?;
    let defaults = ArchiveOptions::default();
    let options = ArchiveOptions {
        batch_size: config.batch_size,
        keep_days: config.keep_days,
        timeout: config.timeout.unwrap_or(defaults.timeout),
        stop: shutdown.token(),
        ..defaults
    };
    let report = service.archive(options, progress("memberships archived")).await;
    service.shutdown().await;
    let report = report?;
    say(&format!(
        "archived {} memberships, cleared {} counters, dropped {} partitions",
        report.processed, report.counters_cleared, report.partitions_dropped
    ));
    Ok(())
}

pub(super) async fn refresh(config: &Config) -> Result<(), CommandError> {
    let (service, shutdown) = service(config).await?;
    let defaults = RefreshOptions::default();
    let options = RefreshOptions {
        budget: config.timeout.unwrap_or(defaults.budget),
        stop: shutdown.token(),
        ..defaults
    };
    let report = service.refresh(options, progress("segments recounted")).await;
    service.shutdown().await;
    let report = report?;
    say(&format!(
        "recounted {} segments, drift {}",
        report.processed, report.drift
    ));
    if report.drift == 0 {
        Ok(())
    } else {
        Err(CommandError::Drift(report.drift))
    }
}

async fn service(config: &Config) -> Result<(Arc<Service>, Shutdown), CommandError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CommandError::System("signals", error))?;
    let ledger = open::ledger(config).await?;
    let cache = open::cache(config, &ledger).await?;
    let metrics = Metrics::register(&mut Registry::default());
    let bounds = ServiceConfig {
        max_staleness: config.max_staleness,
        ..ServiceConfig::default()
    };
    Ok((Service::start(ledger, cache, metrics, bounds), shutdown))
}

/// Says how far a run is, at most every few seconds.
fn progress(what: &'static str) -> Progress {
    let last = Mutex::new(Instant::now());
    Arc::new(move |report: &JobReport| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= SAY_EVERY {
            *last = Instant::now();
            tracing::info!(processed = report.processed, "{what} so far");
        }
    })
}
