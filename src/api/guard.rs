//! What stands around every route, in one layer so that a count stays nearly as cheap as a constant: methods, scopes, request ids, metrics, and
//! an answer even where a handler panics.
//!
//! A route's scopes are those of its documentation: what the OpenAPI document says is what is enforced.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arrayvec::ArrayString;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::time::Instant;
use tower::{Layer, Service};
use utoipa::openapi::path::{Operation, PathItem};

use super::metrics::RouteMetrics;
use super::problem::{Cause, Kind, Problem};
use super::tokens::{Scope, Tokens};
use crate::runtime::http::Later;

/// Names a request in the answer and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that a client may give.
const MAX_REQUEST_ID: usize = 64;

/// What a method of a route demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Nothing.
    Public,
    /// A scope.
    Scope(Scope),
}

/// The methods of a route with what they demand, from its documentation. A route whose documentation says nothing of it is for administrators:
/// what was forgotten is closed.
pub(crate) fn demands(item: &PathItem) -> Vec<(Method, Demand)> {
    let operations = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
    ];
    operations
        .into_iter()
        .filter_map(|(method, operation)| operation.as_ref().map(|operation| (method, demand(operation))))
        .collect()
}

fn demand(operation: &Operation) -> Demand {
    let Ok(security) = serde_json::to_value(&operation.security) else {
        return Demand::Scope(Scope::Admin);
    };
    match security.get(0) {
        Some(one) if one.as_object().is_some_and(serde_json::Map::is_empty) => Demand::Public,
        Some(one) => {
            let scope = one
                .pointer("/token/0")
                .and_then(|scope| scope.as_str())
                .and_then(|text| text.parse().ok());
            Demand::Scope(scope.unwrap_or(Scope::Admin))
        }
        None => Demand::Scope(Scope::Admin),
    }
}

/// One route's guard.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Inner>);

struct Inner {
    /// `None`: every method, as of what is no route.
    demands: Option<Vec<(Method, Demand)>>,
    allow: HeaderValue,
    tokens: Tokens,
    metrics: RouteMetrics,
    ids: Arc<RequestIds>,
}

impl Guard {
    pub(crate) fn new(
        demands: Option<Vec<(Method, Demand)>>,
        tokens: Tokens,
        metrics: RouteMetrics,
        ids: Arc<RequestIds>,
    ) -> Self {
        let mut names: Vec<&str> = demands.iter().flatten().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        names.sort_unstable();
        let allow = HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""));
        Self(Arc::new(Inner {
            demands,
            allow,
            tokens,
            metrics,
            ids,
        }))
    }
}

impl Guard {
    /// An answer that needs no wait, measured and named as every other; `None` where `answer` has none or the request is to be refused: then
    /// nothing was measured. `answer` is told when the request began, since each look at the clock would be a part of what it costs.
    pub(crate) fn at_once<B>(
        &self,
        request: &http::Request<B>,
        answer: impl FnOnce(Instant) -> Option<Response>,
    ) -> Option<Response> {
        let guard = &*self.0;
        let begun = Instant::now();
        guard.admit(request).ok()?;
        // After a panic the router has its turn, and answers for what happens then.
        let mut response = std::panic::catch_unwind(AssertUnwindSafe(|| answer(begun)))
            .ok()
            .flatten()?;
        let method = method_name(request.method());
        let id = guard.ids.of(request);
        guard.ended(method, id, &mut response, begun);
        Some(response)
    }

    /// What `answer` makes of an admitted request, measured and named; an answer even where it panics.
    pub(crate) fn around<B, F>(&self, request: http::Request<B>, answer: impl FnOnce(http::Request<B>) -> F) -> Later
    where
        F: Future<Output = Result<Response, Infallible>> + Send + 'static,
    {
        let guard = Arc::clone(&self.0);
        let begun = Instant::now();
        let in_flight = guard.metrics.begin();
        let method = method_name(request.method());
        let id = guard.ids.of(&request);
        let answer = guard.admit(&request).map(|()| answer(request));
        Box::pin(async move {
            let mut response = match answer {
                Err(problem) => problem.into_response(),
                Ok(answer) => match AssertUnwindSafe(answer).catch_unwind().await {
                    Ok(Ok(response)) => response,
                    Err(_) => {
                        Problem::new(Kind::Internal, "the request ended in a defect; please report it").into_response()
                    }
                },
            };
            drop(in_flight);
            guard.ended(method, id, &mut response, begun);
            Ok(response)
        })
    }
}

impl Inner {
    fn ended(&self, method: &'static str, id: HeaderValue, response: &mut Response, begun: Instant) {
        let seconds = begun.elapsed().as_secs_f64();
        self.metrics.answered(method, response.status().as_u16(), seconds);
        report(self, method, &id, response, seconds);
        response.headers_mut().insert(REQUEST_ID, id);
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<(), Problem> {
        let Some(demands) = &self.demands else { return Ok(()) };
        let asked = if request.method() == Method::HEAD {
            &Method::GET
        } else {
            request.method()
        };
        match demands.iter().find(|(method, _)| method == asked) {
            None => {
                let detail = format!("this route takes {}", self.allow.to_str().unwrap_or_default());
                Err(Problem::new(Kind::MethodNotAllowed, detail).header(header::ALLOW, self.allow.clone()))
            }
            Some((_, Demand::Public)) => Ok(()),
            Some((_, Demand::Scope(scope))) => self.tokens.authorize(*scope, request.headers()),
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            guard: self.clone(),
            inner,
        }
    }
}

/// A service behind its guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Later;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.guard.around(request, |request| self.inner.call(request))
    }
}

/// A failure is worth a line; an answer only where somebody asked for it. A request that is told to come again is no failure: there are as many of
/// them as clients care to send.
fn report(guard: &Inner, method: &str, id: &HeaderValue, response: &Response, seconds: f64) {
    let route = &*guard.metrics.route;
    let status = response.status().as_u16();
    let request = id.to_str().unwrap_or_default();
    let cause = response.extensions().get::<Cause>();
    if cause.is_some() || response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        let cause = cause.map_or("", |cause| cause.0.as_str());
        tracing::warn!(method, route, status, seconds, request, cause, "a request failed");
    } else {
        tracing::debug!(method, route, status, seconds, request, "a request was answered");
    }
}

/// A closed set of labels, whatever clients call their methods.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Eight digits of the process, a hyphen and a number of at most 20.
type Id = ArrayString<32>;

/// Names for requests that bring none: one of the process, and a number.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: Id,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self {
            process: Id::try_from(format_args!("{:08x}-", rand::random::<u32>())).unwrap_or_default(),
            next: AtomicU64::new(1),
        }
    }

    fn of<B>(&self, request: &http::Request<B>) -> HeaderValue {
        // By the few names that there are: a look-up would hash the one that is asked for.
        let mut headers = request.headers().iter();
        let given = headers.find(|(name, _)| name.as_str() == REQUEST_ID.as_str());
        let given = given.map(|(_, id)| id).filter(|id| {
            let bytes = id.as_bytes();
            !bytes.is_empty() && bytes.len() <= MAX_REQUEST_ID && bytes.iter().all(u8::is_ascii_graphic)
        });
        given.cloned().unwrap_or_else(|| {
            let mut id = self.process;
            id.push_str(itoa::Buffer::new().format(self.next.fetch_add(1, Ordering::Relaxed)));
            HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
        })
    }
}
