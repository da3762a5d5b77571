//! `{name}-api`, the ConfigMap: the settings that the API and its jobs share, by the names that the service gives its environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::common::{map, meta};
use crate::crd::{OnCacheFailure, OnPostgresFailure};
use crate::operator::validate::Validated;

pub(super) fn settings(v: &Validated) -> BTreeMap<String, String> {
    let (counting, archive, api) = (&v.spec.counting, &v.spec.maintenance.archive, &v.spec.api);
    let on_cache_failure = match api.on_cache_failure {
        OnCacheFailure::ServeFromPostgres => "serve_from_database",
        OnCacheFailure::Fail => "fail",
    };
    let on_postgres_failure = match api.on_postgres_failure {
        OnPostgresFailure::ServeStale => "serve_stale",
        OnPostgresFailure::Fail => "fail",
    };
    let mut settings = map([
        ("SEGMENT_COUNTER_LISTEN", "0.0.0.0:8080"),
        ("SEGMENT_COUNTER_HEALTH_LISTEN", "0.0.0.0:9090"),
        ("SEGMENT_COUNTER_LOG_FORMAT", "json"),
        ("SEGMENT_COUNTER_DATABASE_SCHEMA", &v.postgres.schema),
        // Those that serve look for lanes by themselves; with their number here they also begin anew, each lane with a queue of its own.
        ("SEGMENT_COUNTER_LANES", &v.postgres.lanes.to_string()),
        (
            "SEGMENT_COUNTER_DATABASE_MAX_CONNECTIONS",
            &v.postgres.max_connections.to_string(),
        ),
        ("SEGMENT_COUNTER_WINDOW_SECONDS", &counting.window_seconds.to_string()),
        (
            "SEGMENT_COUNTER_RESOLUTION_SECONDS",
            &counting.resolution_seconds.to_string(),
        ),
        (
            "SEGMENT_COUNTER_MAX_STALENESS_MS",
            &counting.max_staleness_milliseconds.to_string(),
        ),
        ("SEGMENT_COUNTER_ON_CACHE_FAILURE", on_cache_failure),
        ("SEGMENT_COUNTER_ON_DATABASE_FAILURE", on_postgres_failure),
        (
            "SEGMENT_COUNTER_SERVE_STALE_SECONDS",
            &api.serve_stale_seconds.to_string(),
        ),
        ("SEGMENT_COUNTER_SETTLE_SECONDS", &archive.settle_seconds.to_string()),
        ("SEGMENT_COUNTER_BATCH_SIZE", &archive.batch_size.to_string()),
        ("SEGMENT_COUNTER_KEEP_DAYS", &archive.keep_days.to_string()),
    ]);
    if let Some(seconds) = counting.max_ttl_seconds {
        settings.insert("SEGMENT_COUNTER_MAX_TTL_SECONDS".to_owned(), seconds.to_string());
    }
    settings
}

pub(super) fn config_map(v: &Validated) -> ConfigMap {
    ConfigMap {
        metadata: meta(v, format!("{}-api", v.name), "api"),
        data: Some(settings(v)),
        ..ConfigMap::default()
    }
}
