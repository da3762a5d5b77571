//! What the service measures. No user and no segment is ever a label: labels are the closed sets below.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::counting::{Outcome, Refusal};
use crate::ledger::{Job, LedgerError};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    operation: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabel {
    job: &'static str,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The process' own memory.
    Local,
    /// The cache.
    Cache,
    /// The ledger.
    Ledger,
    /// The last value, because the ledger was away.
    Stale,
}

/// What a pair can do, as the label says it; see [`Metrics::pair`].
const OUTCOMES: [&str; 8] = [
    "created",
    "renewed",
    "unchanged",
    "expired",
    "refused_future",
    "refused_limit",
    "removed",
    "erased",
];

impl Level {
    /// In the order of their declaration.
    const ALL: [Self; 4] = [Self::Local, Self::Cache, Self::Ledger, Self::Stale];

    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cache => "cache",
            Self::Ledger => "ledger",
            Self::Stale => "stale",
        }
    }
}

/// The service's metrics, shared by all that measures.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) queue_pairs: Gauge,
    pub(crate) overloaded: Counter,
    pub(crate) repeats: Counter,
    pub(crate) flush_pairs: Histogram,
    pub(crate) flush_seconds: Histogram,
    pairs: Family<OutcomeLabel, Counter>,
    counts: Family<LevelLabel, Counter>,
    /// The members of `pairs` and of `counts`, in the order of [`OUTCOMES`] and of [`Level`]: there is one for every pair and every count, which
    /// should not be looked up by its label each time.
    by_outcome: [Counter; OUTCOMES.len()],
    by_level: [Counter; Level::ALL.len()],
    staleness: Histogram,
    pub(crate) ledger_read_seconds: Histogram,
    ledger_errors: Family<ErrorLabel, Counter>,
    pub(crate) ledger_up: Gauge,
    cache_errors: Family<OperationLabel, Counter>,
    pub(crate) cache_nodes: Gauge,
    pub(crate) cache_nodes_up: Gauge,
    pub(crate) invalidations: Counter,
    pub(crate) invalidations_dropped: Counter,
    pub(crate) drift: Counter,
    pub(crate) recounts: Counter,
    job_runs: Family<JobLabel, Counter>,
    job_failures: Family<JobLabel, Counter>,
    job_age: Family<JobLabel, Gauge<f64, AtomicU64>>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

impl Metrics {
    /// Metrics that are registered in `registry` under the prefix `segment_counter`. Counters of closed sets begin at 0 rather than be absent.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self::new();
        let r = registry.sub_registry_with_prefix("segment_counter");
        let m = &metrics;
        r.register(
            "recorder_queue_pairs",
            "Single pairs that wait for a flush",
            m.queue_pairs.clone(),
        );
        r.register(
            "recorder_overloaded",
            "Requests refused because the queue was full",
            m.overloaded.clone(),
        );
        r.register(
            "recorder_repeats",
            "Pairs answered without a statement: known to be committed and to change nothing",
            m.repeats.clone(),
        );
        r.register("recorder_flush_pairs", "Pairs of a flush", m.flush_pairs.clone());
        r.register_with_unit(
            "recorder_flush",
            "Time of a flush until it was committed",
            Unit::Seconds,
            m.flush_seconds.clone(),
        );
        r.register("pairs", "Pairs by what they did", m.pairs.clone());
        r.register("counts", "Counts answered, by where they came from", m.counts.clone());
        r.register_with_unit(
            "count_staleness",
            "Upper bound of the age of the counts answered",
            Unit::Seconds,
            m.staleness.clone(),
        );
        r.register_with_unit(
            "ledger_read",
            "Time of a counting statement",
            Unit::Seconds,
            m.ledger_read_seconds.clone(),
        );
        r.register(
            "ledger_errors",
            "Calls of the ledger that failed",
            m.ledger_errors.clone(),
        );
        r.register(
            "ledger_up",
            "Whether the ledger answered when it was last asked",
            m.ledger_up.clone(),
        );
        r.register("cache_errors", "Calls of the cache that failed", m.cache_errors.clone());
        r.register("cache_nodes", "Nodes of the cache", m.cache_nodes.clone());
        r.register(
            "cache_nodes_up",
            "Nodes of the cache that answered when they were last asked",
            m.cache_nodes_up.clone(),
        );
        r.register(
            "cache_invalidations",
            "Segments marked unfresh after a commit",
            m.invalidations.clone(),
        );
        r.register(
            "cache_invalidations_dropped",
            "Segments not marked unfresh because too many waited",
            m.invalidations_dropped.clone(),
        );
        r.register(
            "drift_members",
            "Members by which recounts differed from the counters: anything but 0 is a defect",
            m.drift.clone(),
        );
        r.register("recounts", "Segments recounted", m.recounts.clone());
        r.register("job_runs", "Runs of a job by this process", m.job_runs.clone());
        r.register(
            "job_failures",
            "Runs of a job by this process that failed",
            m.job_failures.clone(),
        );
        r.register_with_unit(
            "job_last_success_age",
            "Time since a job last succeeded anywhere",
            Unit::Seconds,
            m.job_age.clone(),
        );
        Arc::new(metrics)
    }

    fn new() -> Self {
        let (pairs, counts) = (Family::default(), Family::default());
        let by_outcome = OUTCOMES.map(|outcome| Family::get_or_create_owned(&pairs, &OutcomeLabel { outcome }));
        let by_level =
            Level::ALL.map(|level| Family::get_or_create_owned(&counts, &LevelLabel { level: level.name() }));
        let metrics = Self {
            queue_pairs: Gauge::default(),
            overloaded: Counter::default(),
            repeats: Counter::default(),
            flush_pairs: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            flush_seconds: seconds(),
            pairs,
            counts,
            by_outcome,
            by_level,
            staleness: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            ledger_read_seconds: seconds(),
            ledger_errors: Family::default(),
            ledger_up: Gauge::default(),
            cache_errors: Family::default(),
            cache_nodes: Gauge::default(),
            cache_nodes_up: Gauge::default(),
            invalidations: Counter::default(),
            invalidations_dropped: Counter::default(),
            drift: Counter::default(),
            recounts: Counter::default(),
            job_runs: Family::default(),
            job_failures: Family::default(),
            job_age: Family::default(),
        };
        for operation in ["read", "store", "invalidate"] {
            metrics
                .cache_errors
                .get_or_create(&OperationLabel { operation })
                .inc_by(0);
        }
        for job in [Job::Archive, Job::Refresh] {
            metrics.job_runs.get_or_create(&JobLabel { job: job.name() }).inc_by(0);
            metrics
                .job_failures
                .get_or_create(&JobLabel { job: job.name() })
                .inc_by(0);
        }
        metrics
    }

    pub(crate) fn pair(&self, outcome: Outcome) {
        let index = match outcome {
            Outcome::Created => 0,
            Outcome::Renewed => 1,
            Outcome::Unchanged => 2,
            Outcome::Expired => 3,
            Outcome::Refused(Refusal::ObservedInFuture) => 4,
            Outcome::Refused(Refusal::SegmentLimit) => 5,
            Outcome::Removed => 6,
            Outcome::Erased => 7,
        };
        self.by_outcome[index].inc();
    }

    pub(crate) fn count(&self, level: Level, staleness: Duration) {
        self.by_level[level as usize].inc();
        self.staleness.observe(staleness.as_secs_f64());
    }

    pub(crate) fn ledger_error(&self, operation: &'static str, error: &LedgerError) {
        let class = error.class();
        self.ledger_errors.get_or_create(&ErrorLabel { operation, class }).inc();
    }

    pub(crate) fn cache_error(&self, operation: &'static str) {
        self.cache_errors.get_or_create(&OperationLabel { operation }).inc();
    }

    pub(crate) fn job(&self, job: Job, succeeded: bool) {
        self.job_runs.get_or_create(&JobLabel { job: job.name() }).inc();
        if !succeeded {
            self.job_failures.get_or_create(&JobLabel { job: job.name() }).inc();
        }
    }

    pub(crate) fn job_age(&self, job: Job, seconds: i64) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since a job ran are far below 2^52")]
        self.job_age
            .get_or_create(&JobLabel { job: job.name() })
            .set(seconds as f64);
    }

    /// How many counts were answered from a level.
    #[must_use]
    pub fn counts_from(&self, level: Level) -> u64 {
        self.by_level[level as usize].get()
    }
}
