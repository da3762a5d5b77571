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
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A token that may do everything: `password`, by its hash.
const TOKENS: &str =
    "- {name: fuzz, sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8, scopes: [admin]}\n";
const AUTHORIZATION: &str = "Bearer password";

pub struct Api {
    runtime: Runtime,
    router: Router,
    /// Where the file of the tokens is, which is looked at for as long as it serves.
    tokens: Option<TempDir>,
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
    /// Without tokens: pairs and counts are open, administration is closed.
    pub fn new() -> Self {
        Self::serve(None)
    }

    /// One that is asked for everything by who may do everything.
    pub fn administered() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokens.yaml"), TOKENS).unwrap();
        Self::serve(Some(folder))
    }

    fn serve(tokens: Option<TempDir>) -> Self {
        let runtime = Runtime::new().unwrap();
        let file = tokens.as_ref().map(|folder| folder.path().join("tokens.yaml"));
        let router = runtime.block_on(async {
            let ledger = SqliteLedger::open(None, Settings::default());
            ledger.migrate().await.unwrap();
            let cache = Arc::new(MemoryCache::new(1_000, std::time::Duration::from_secs(900)));
            let mut registry = Registry::default();
            let metrics = Metrics::register(&mut registry);
            let service = Service::start(Arc::new(ledger), cache, metrics, ServiceConfig::default());
            let shutdown = Shutdown::new();
            let tokens = match file {
                None => Tokens::open(),
                Some(file) => Tokens::watch(file, shutdown.clone()).await.unwrap(),
            };
            api::routes(Options::new(service, tokens, shutdown), &mut registry).into_router()
        });
        Self {
            runtime,
            router,
            tokens,
        }
    }

    /// A body in these pieces. `None`: the request cannot even be written down, and no server would see it.
    pub fn request(
        &self,
        method: &str,
        path: &[u8],
        headers: &[(&str, &str)],
        pieces: Vec<Bytes>,
    ) -> Option<Request<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if self.tokens.is_some() {
            request = request.header("authorization", AUTHORIZATION);
        }
        let stream = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
        request.body(Body::from_stream(stream)).ok()
    }

    /// Sends one and waits for its answer; `None` as [`Api::request`] says.
    pub fn send(&self, method: &str, path: &[u8], headers: &[(&str, &str)], pieces: Vec<Bytes>) -> Option<Answer> {
        let request = self.request(method, path, headers, pieces)?;
        Some(self.runtime.block_on(answer(self.router.clone(), request)))
    }

    /// Sends all of them at once, since some answers take their time; the answers in the order of the requests.
    pub fn send_all(&self, requests: Vec<Request<Body>>) -> Vec<Answer> {
        let sent: Vec<_> = requests
            .into_iter()
            .map(|request| self.runtime.spawn(answer(self.router.clone(), request)))
            .collect();
        sent.into_iter()
            .map(|one| self.runtime.block_on(one).unwrap())
            .collect()
    }

    /// A whole body of JSON.
    pub fn json(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let body = vec![Bytes::copy_from_slice(body)];
        let headers = [("content-type", "application/json")];
        self.send(method, path.as_bytes(), &headers, body).unwrap()
    }

    /// How many users are in a segment now, by the ledger; its name as a path carries it.
    pub fn count(&self, segment: &str) -> Option<u64> {
        let path = format!("/v1/segments/{segment}/count?max_staleness_ms=0");
        self.json("GET", &path, b"").json["count"].as_u64()
    }
}

/// Asks, and judges what no answer may be.
async fn answer(router: Router, request: Request<Body>) -> Answer {
    let asked = format!("{} {}", request.method(), request.uri());
    let (head, body) = router.oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, 16 << 20).await.unwrap();
    let answer = Answer {
        status: head.status,
        json: serde_json::from_slice(&body).unwrap_or_default(),
    };
    assert!(
        !answer.status.is_server_error(),
        "{} for {asked}: {}",
        answer.status,
        answer.json
    );
    if answer.status.is_client_error() {
        assert_eq!(head.headers["content-type"], "application/problem+json", "{asked}");
        assert_eq!(answer.json["status"], answer.status.as_u16(), "{}", answer.json);
        assert!(answer.json["detail"].is_string(), "{}", answer.json);
    }
    answer
}
