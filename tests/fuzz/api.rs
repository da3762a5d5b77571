//! The router in this process, on an embedded ledger: thousands of requests a second, each judged for what none may be.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use segment_counter::api::{self, Options, Tokens};
use segment_counter::cache::MemoryCache;
use segment_counter::ledger::{Ledger, Settings, SqliteLedger};
use segment_counter::runtime::shutdown::Shutdown;
use segment_counter::service::{Metrics, Service, ServiceConfig};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;

pub struct Api {
    runtime: Runtime,
    router: Router,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// `Null` where the body is no JSON.
    pub json: Value,
}

impl Answer {
    /// The last part of the problem's type.
    pub fn kind(&self) -> Option<&str> {
        self.json["type"].as_str()?.rsplit('/').next()
    }
}

impl Api {
    pub fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let router = runtime.block_on(async {
            let ledger = SqliteLedger::open(None, Settings::default());
            ledger.migrate().await.unwrap();
            let cache = Arc::new(MemoryCache::new(1_000, std::time::Duration::from_secs(900)));
            let mut registry = Registry::default();
            let metrics = Metrics::register(&mut registry);
            let service = Service::start(Arc::new(ledger), cache, metrics, ServiceConfig::default());
            api::routes(Options::new(service, Tokens::open(), Shutdown::new()), &mut registry).into_router()
        });
        Self { runtime, router }
    }

    /// A body in these pieces. `None`: the request cannot even be written down, and no server would see it.
    pub fn send(&self, method: &str, path: &[u8], headers: &[(&str, &str)], pieces: Vec<Bytes>) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let stream = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
        let request = request.body(Body::from_stream(stream)).ok()?;
        let answer = self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = axum::body::to_bytes(body, 16 << 20).await.unwrap();
            let json = serde_json::from_slice(&body).unwrap_or_default();
            let answer = Answer {
                status: head.status,
                json,
            };
            (head, answer)
        });
        let (head, answer) = answer;
        assert!(
            !answer.status.is_server_error(),
            "{} for {method} {path:?}: {}",
            answer.status,
            answer.json
        );
        if answer.status.is_client_error() {
            assert_eq!(head.headers["content-type"], "application/problem+json");
            assert_eq!(answer.json["status"], answer.status.as_u16(), "{}", answer.json);
            assert!(answer.json["detail"].is_string(), "{}", answer.json);
        }
        Some(answer)
    }

    /// A whole body of JSON.
    pub fn json(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let body = vec![Bytes::copy_from_slice(body)];
        let headers = [("content-type", "application/json")];
        self.send(method, path.as_bytes(), &headers, body).unwrap()
    }
}
