//! HTTP: one file a resource, problem details, OpenAPI, tokens.
//!
//! Knows [`crate::service`] and nothing of SQL or Redis. What a client can send is answered with 2xx, 3xx, 4xx or, where it should come again, 503;
//! nothing internal is ever told. Names of users and segments reach neither labels nor log lines.

mod admin;
mod batch;
mod body;
mod counts;
mod document;
mod front;
mod guard;
mod hot;
mod json;
mod metrics;
mod name;
mod pair;
mod pairs;
mod problem;
mod removals;
mod segments;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::response::IntoResponse;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::counting::Rules;
use crate::runtime::http::{Routes, Shortcut};
use crate::runtime::shutdown::Shutdown;
use crate::service::Service;

pub use body::BodyLimits;
pub use problem::{Kind as ProblemKind, Problem};
pub use tokens::{Scope, Tokens, TokensError};

use document::Documents;
use guard::{Guard, RequestIds};
use metrics::HttpMetrics;

/// How the jobs run that an administrator asks for.
#[derive(Debug, Clone)]
pub struct JobDefaults {
    /// About how many memberships are moved by one statement.
    pub batch_size: u32,
    /// How long history is kept.
    pub keep_days: u32,
    /// How long an archive may take.
    pub archive_timeout: Duration,
    /// How long a refresh recounts.
    pub refresh_timeout: Duration,
}

impl Default for JobDefaults {
    fn default() -> Self {
        Self {
            batch_size: 10_000,
            keep_days: 365,
            archive_timeout: Duration::from_secs(3_600),
            refresh_timeout: Duration::from_secs(240),
        }
    }
}

/// What the API is made of.
pub struct Options {
    /// What records and counts.
    pub service: Arc<Service>,
    /// Who may do what.
    pub tokens: Tokens,
    /// The end of the process.
    pub shutdown: Shutdown,
    /// How long a stream may go on after the end was requested.
    pub stream_grace: Duration,
    /// What bodies may cost.
    pub bodies: BodyLimits,
    /// Streams of pairs at once; more wait.
    pub streams: usize,
    /// How jobs run.
    pub jobs: JobDefaults,
}

impl Options {
    /// The usual bounds.
    #[must_use]
    pub fn new(service: Arc<Service>, tokens: Tokens, shutdown: Shutdown) -> Self {
        Self {
            service,
            tokens,
            shutdown,
            stream_grace: Duration::from_secs(10),
            bodies: BodyLimits::default(),
            streams: 64,
            jobs: JobDefaults::default(),
        }
    }
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

struct Shared {
    options: Options,
    streams: Arc<Semaphore>,
    documents: Documents,
    rules: Rules,
}

impl Api {
    fn service(&self) -> &Arc<Service> {
        &self.0.options.service
    }

    fn rules(&self) -> &Rules {
        &self.0.rules
    }

    fn bodies(&self) -> &BodyLimits {
        &self.0.options.bodies
    }

    fn streams(&self) -> &Arc<Semaphore> {
        &self.0.streams
    }

    fn jobs(&self) -> &JobDefaults {
        &self.0.options.jobs
    }

    fn shutdown(&self) -> &Shutdown {
        &self.0.options.shutdown
    }

    fn documents(&self) -> &Documents {
        &self.0.documents
    }

    /// Waits until streams of pairs must end, some time after the end was requested.
    async fn streams_must_end(&self) {
        self.0.options.shutdown.requested().await;
        tokio::time::sleep(self.0.options.stream_grace).await;
    }
}

/// Every route, once.
fn all_routes() -> Vec<UtoipaMethodRouter<Api>> {
    let mut all = vec![
        routes!(pairs::send),
        routes!(batch::send),
        routes!(removals::many),
        routes!(counts::one),
        routes!(counts::many),
        routes!(segments::list),
        routes!(segments::get, segments::put, segments::delete),
        routes!(removals::one),
        routes!(removals::erase),
        routes!(admin::archive),
        routes!(admin::refresh),
        routes!(admin::status),
        routes!(document::openapi_json),
        routes!(document::docs),
    ];
    for routes in &mut all {
        document::complete(&mut routes.1);
    }
    all
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> OpenApi {
    let router = OpenApiRouter::<Api>::with_openapi(document::head());
    all_routes()
        .into_iter()
        .fold(router, OpenApiRouter::routes)
        .into_openapi()
}

/// The API's routes, and what answers in front of them.
pub fn routes(options: Options, registry: &mut Registry) -> Routes {
    let metrics = HttpMetrics::register(registry);
    let ids = Arc::new(RequestIds::new());
    let tokens = options.tokens.clone();
    let mut router = OpenApiRouter::<Api>::with_openapi(document::head());
    let (mut of_hot, mut of_pairs) = (None, None);
    for routes in all_routes() {
        let Some((path, item)) = routes.1.paths.first_key_value() else {
            continue;
        };
        let guard = Guard::new(
            Some(guard::demands(item)),
            tokens.clone(),
            metrics.of(path),
            Arc::clone(&ids),
        );
        match path.as_str() {
            hot::ROUTE => of_hot = Some(guard.clone()),
            front::PAIRS => of_pairs = Some(guard.clone()),
            _ => {}
        }
        router = router.routes(routes.layer(guard));
    }
    let (router, openapi) = router.split_for_parts();
    let guard = Guard::new(None, tokens, metrics.of("unmatched"), ids);
    let unmatched = tower::service_fn(|_| async { Ok(no_route().into_response()) });
    let api = Api(Arc::new(Shared {
        streams: Arc::new(Semaphore::new(options.streams)),
        documents: Documents::of(&openapi),
        rules: options.service.ledger().settings().rules,
        options,
    }));
    let shortcut = of_hot.zip(of_pairs).map(|(of_hot, of_pairs)| {
        let hot = hot::Hot {
            api: api.clone(),
            guard: of_hot,
        };
        let crowd = front::Crowd {
            api: api.clone(),
            guard: of_pairs,
        };
        Arc::new(front::Front { hot, crowd }) as Arc<dyn Shortcut>
    });
    let router = router
        .fallback_service(tower::Layer::layer(&guard, unmatched))
        .with_state(api);
    Routes::new(router, shortcut)
}

fn no_route() -> Problem {
    Problem::new(problem::Kind::NotFound, "there is no such route: see /docs")
}
