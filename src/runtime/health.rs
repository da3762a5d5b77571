//! The health server, on a port of its own: `/livez`, `/readyz` and `/metrics`.
//!
//! Liveness never looks at a dependency: restarting a process mends no database. Readiness names each dependency, and fails only when
//! no answer could be given.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::http::{Limits, Listener};
use super::shutdown::Shutdown;

/// How long readiness may take before it counts as failed; below the probe's own limit, so that the answer says what hung.
const READINESS_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How a dependency is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyState {
    /// It works.
    Ok,
    /// It does not, and answers come all the same.
    Degraded,
    /// It does not, and no answer can be given.
    Failed,
}

/// One thing that the process needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// `postgres`, `redis host:6379`, `schema`, …
    pub name: String,
    /// How it is.
    pub state: DependencyState,
    /// What is wrong, for people; no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Dependency {
    /// One that works.
    pub fn ok(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: DependencyState::Ok,
            detail: None,
        }
    }

    /// One that is away while answers come all the same.
    pub fn degraded(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: DependencyState::Degraded,
            detail: Some(detail.into()),
        }
    }

    /// One without which no answer can be given.
    pub fn failed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: DependencyState::Failed,
            detail: Some(detail.into()),
        }
    }
}

/// What the health server asks of the process behind it.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// Each dependency as it is now; cheap, since it is asked every few seconds.
    async fn dependencies(&self) -> Vec<Dependency>;

    /// Brings gauges up to date that have to ask for their value; runs before each `/metrics`.
    async fn before_metrics(&self) {}
}

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether answers can be given.
    pub ready: bool,
    /// `ok`, `degraded`, `failed` or `shutting_down`.
    pub state: &'static str,
    /// Each dependency, by name.
    pub dependencies: Vec<Dependency>,
}

impl Readiness {
    /// Ready unless a dependency has failed; degraded where one is.
    #[must_use]
    pub fn of(mut dependencies: Vec<Dependency>) -> Self {
        dependencies.sort_by(|a, b| a.name.cmp(&b.name));
        let any = |state| dependencies.iter().any(|one| one.state == state);
        let (ready, state) = if any(DependencyState::Failed) {
            (false, "failed")
        } else if any(DependencyState::Degraded) {
            (true, "degraded")
        } else {
            (true, "ok")
        };
        Self {
            ready,
            state,
            dependencies,
        }
    }

    fn shutting_down() -> Self {
        Self {
            ready: false,
            state: "shutting_down",
            dependencies: Vec::new(),
        }
    }
}

/// What the routes need.
#[derive(Clone)]
struct Health {
    registry: Arc<Registry>,
    probe: Arc<dyn Probe>,
    shutdown: Shutdown,
}

/// The routes of the health server.
pub fn router(registry: Arc<Registry>, probe: Arc<dyn Probe>, shutdown: Shutdown) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Health {
            registry,
            probe,
            shutdown,
        })
}

/// Serves [`router`] on `address` in the background until `stop`: the very end of the process, later than `shutdown`, which only makes
/// it unready. Returns the bound address.
///
/// # Errors
/// The address could not be bound.
pub async fn spawn(
    address: SocketAddr,
    registry: Arc<Registry>,
    probe: Arc<dyn Probe>,
    shutdown: Shutdown,
    stop: Shutdown,
) -> std::io::Result<SocketAddr> {
    let limits = Limits {
        connections: 64,
        header_timeout: Duration::from_secs(10),
        ..Limits::default()
    };
    let listener = Listener::bind(address, limits).await?;
    let bound = listener.address()?;
    tokio::spawn(listener.serve(router(registry, probe, shutdown), stop));
    Ok(bound)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(health): State<Health>) -> Response {
    let readiness = if health.shutdown.is_requested() {
        Readiness::shutting_down()
    } else {
        match tokio::time::timeout(READINESS_TIMEOUT, health.probe.dependencies()).await {
            Ok(dependencies) => Readiness::of(dependencies),
            Err(_) => Readiness::of(vec![Dependency::failed("readiness", "took too long to find out")]),
        }
    };
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    const TYPE: (HeaderName, &str) = (
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    );
    // A value that cannot be had in time is left as it was: the scrape must not hang with its database.
    if tokio::time::timeout(READINESS_TIMEOUT, health.probe.before_metrics())
        .await
        .is_err()
    {
        tracing::warn!("the metrics that ask the ledger took too long and are the last known ones");
    }
    let mut text = String::with_capacity(16 * 1024);
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) => ([TYPE], text).into_response(),
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    struct Fixed(Vec<Dependency>);

    #[async_trait]
    impl Probe for Fixed {
        async fn dependencies(&self) -> Vec<Dependency> {
            self.0.clone()
        }
    }

    struct Hangs;

    #[async_trait]
    impl Probe for Hangs {
        async fn dependencies(&self) -> Vec<Dependency> {
            std::future::pending().await
        }

        async fn before_metrics(&self) {
            std::future::pending::<()>().await;
        }
    }

    async fn get(probe: impl Probe, shutdown: Shutdown, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(Arc::default(), Arc::new(probe), shutdown)
            .oneshot(request)
            .await
            .unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_cache_that_is_away_degrades_and_a_ledger_that_is_away_fails() {
        let degraded = vec![
            Dependency::ok("postgres"),
            Dependency::degraded("redis 127.0.0.1:6379", "refused"),
        ];
        let (status, body) = get(Fixed(degraded.clone()), Shutdown::new(), "/readyz").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains(r#""state":"degraded""#), "{body}");

        let mut failed = degraded;
        failed.push(Dependency::failed("schema", "absent"));
        let (status, body) = get(Fixed(failed), Shutdown::new(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            body.contains(r#"{"name":"schema","state":"failed","detail":"absent"}"#),
            "{body}"
        );
    }

    #[tokio::test]
    async fn the_end_of_the_process_makes_it_unready_but_not_dead() {
        let shutdown = Shutdown::new();
        shutdown.request();
        let (status, body) = get(Fixed(Vec::new()), shutdown.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("shutting_down"), "{body}");
        assert_eq!(get(Fixed(Vec::new()), shutdown, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dependency_that_hangs_hangs_neither_readiness_nor_metrics() {
        assert_eq!(
            get(Hangs, Shutdown::new(), "/readyz").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            get(Hangs, Shutdown::new(), "/metrics").await,
            (StatusCode::OK, "# EOF\n".to_owned())
        );
        assert_eq!(get(Hangs, Shutdown::new(), "/livez").await.0, StatusCode::OK);
    }
}
