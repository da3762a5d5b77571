//! What is asked of the ledger: counts and numbers of segments, gathered into few statements.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::counting::{SegmentId, SegmentName};
use crate::ledger::{Count, LedgerError, SharedLedger};
use crate::service::ServiceConfig;
use crate::service::gather::Gather;
use crate::service::metrics::Metrics;

pub(super) fn counts(ledger: SharedLedger, metrics: Arc<Metrics>, config: &ServiceConfig) -> Gather<SegmentId, Count> {
    let lanes = Arc::clone(&ledger);
    Gather::new(
        config.ledger_reads,
        config.ledger_read_waiters,
        move |id| lanes.lane_of_id(*id),
        move |ids: Vec<SegmentId>| {
            let (ledger, metrics) = (Arc::clone(&ledger), Arc::clone(&metrics));
            async move {
                let started = Instant::now();
                let counts = ledger.count(&ids).await;
                metrics.ledger_read_seconds.observe(started.elapsed().as_secs_f64());
                counts.inspect_err(|error| report(&metrics, "count", error))
            }
            .boxed()
        },
    )
}

pub(super) fn names(
    ledger: SharedLedger,
    metrics: Arc<Metrics>,
    config: &ServiceConfig,
) -> Gather<SegmentName, Option<SegmentId>> {
    Gather::new(
        config.ledger_reads,
        config.ledger_read_waiters,
        |_| 0,
        move |names: Vec<SegmentName>| {
            let (ledger, metrics) = (Arc::clone(&ledger), Arc::clone(&metrics));
            async move {
                ledger
                    .resolve(&names)
                    .await
                    .inspect_err(|error| report(&metrics, "resolve", error))
            }
            .boxed()
        },
    )
}

fn report(metrics: &Metrics, operation: &'static str, error: &LedgerError) {
    metrics.ledger_error(operation, error);
    tracing::warn!(%error, operation, "the ledger did not answer");
}
