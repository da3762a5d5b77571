//! Rate, errors and durations of requests, by route template: never a path, which holds names.

use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: Arc<str>,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: Arc<str>,
}

/// What the API measures.
#[derive(Debug, Clone)]
pub(crate) struct HttpMetrics {
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram>,
    in_flight: Gauge,
}

impl HttpMetrics {
    /// Metrics registered under the prefix `segment_counter`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 16))),
            in_flight: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("segment_counter");
        registry.register(
            "http_requests",
            "Requests answered, by route and status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time until a request was answered",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests being answered",
            metrics.in_flight.clone(),
        );
        metrics
    }

    /// The part that one route measures with.
    pub(crate) fn of(&self, route: &str) -> RouteMetrics {
        let route: Arc<str> = route.into();
        let seconds = self.seconds.get_or_create_owned(&Route {
            route: Arc::clone(&route),
        });
        RouteMetrics {
            requests: self.requests.clone(),
            seconds,
            in_flight: self.in_flight.clone(),
            route,
            ok: Arc::default(),
        }
    }
}

/// What one route measures with.
#[derive(Debug, Clone)]
pub(crate) struct RouteMetrics {
    pub(crate) route: Arc<str>,
    requests: Family<Answered, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
    /// The counters of 200, one for each of [`METHODS`]: nearly all answers, which need not be looked up by their labels each time.
    ok: Arc<[OnceLock<Counter>; METHODS.len()]>,
}

/// The methods that routes answer with 200.
const METHODS: [&str; 3] = ["GET", "POST", "PUT"];

impl RouteMetrics {
    /// A request begins; it ends when what is returned is dropped, answered or not.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &'static str, status: u16, seconds: f64) {
        let counter = || {
            self.requests.get_or_create_owned(&Answered {
                method,
                route: Arc::clone(&self.route),
                status,
            })
        };
        match METHODS.iter().position(|known| status == 200 && *known == method) {
            Some(index) => self.ok[index].get_or_init(counter).inc(),
            None => counter().inc(),
        };
        self.seconds.observe(seconds);
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
