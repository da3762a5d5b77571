//! What a client is told when something is wrong: RFC 9457 problem details, from one list of types.
//!
//! Nothing internal is ever in one: an error of the ledger or the cache becomes [`Kind::Unavailable`], and its text goes to the log.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::counting::{Refusal, SegmentName};
use crate::ledger::Job;
use crate::service::ServiceError;

/// Where the types are described; a type's address never changes.
const BASE: &str = "https://segmentcounter.io/problems/";

/// The types of problems, each with its status. docs/api.md describes them; a test compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The body is no JSON.
    MalformedJson,
    /// The path cannot be decoded.
    MalformedPath,
    /// The body ended early, or does not decompress.
    MalformedBody,
    /// A token is missing or unknown.
    Unauthorized,
    /// The token's scopes do not hold this.
    Forbidden,
    /// No such route.
    NotFound,
    /// No such segment.
    SegmentNotFound,
    /// The route has other methods.
    MethodNotAllowed,
    /// The body took too long.
    BodyTimeout,
    /// A job of the kind runs.
    JobRunning,
    /// Pairs may create no more segments.
    SegmentLimit,
    /// The body is too large.
    BodyTooLarge,
    /// The array holds too many items.
    TooManyItems,
    /// The body's type or encoding is not taken.
    UnsupportedMediaType,
    /// A field's value cannot be.
    InvalidField,
    /// A field is missing.
    MissingField,
    /// A field is not known.
    UnknownField,
    /// Too much is waiting already.
    Overloaded,
    /// The ledger is away.
    Unavailable,
    /// The cache is away, and declared to be needed.
    CacheUnavailable,
    /// The process ends.
    ShuttingDown,
    /// A defect; no request of a client's should bring it.
    Internal,
}

impl Kind {
    /// Every type.
    pub const ALL: [Self; 22] = [
        Self::MalformedJson,
        Self::MalformedPath,
        Self::MalformedBody,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::SegmentNotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::JobRunning,
        Self::SegmentLimit,
        Self::BodyTooLarge,
        Self::TooManyItems,
        Self::UnsupportedMediaType,
        Self::InvalidField,
        Self::MissingField,
        Self::UnknownField,
        Self::Overloaded,
        Self::Unavailable,
        Self::CacheUnavailable,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// Status, the last part of the type's address, and title.
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "The body is not JSON"),
            Self::MalformedPath => (StatusCode::BAD_REQUEST, "malformed-path", "The path cannot be decoded"),
            Self::MalformedBody => (StatusCode::BAD_REQUEST, "malformed-body", "The body cannot be read"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "This is not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such route"),
            Self::SegmentNotFound => (StatusCode::NOT_FOUND, "segment-not-found", "There is no such segment"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The route has other methods",
            ),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body took too long"),
            Self::JobRunning => (StatusCode::CONFLICT, "job-running", "A run is under way"),
            Self::SegmentLimit => (
                StatusCode::CONFLICT,
                "segment-limit",
                "Pairs may create no more segments",
            ),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            Self::TooManyItems => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-items",
                "The array holds too many items",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body's type or encoding is not taken",
            ),
            Self::InvalidField => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-field",
                "A field's value cannot be",
            ),
            Self::MissingField => (StatusCode::UNPROCESSABLE_ENTITY, "missing-field", "A field is missing"),
            Self::UnknownField => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "unknown-field",
                "A field is not known",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Too much is waiting already",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The ledger does not answer",
            ),
            Self::CacheUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "cache-unavailable",
                "The cache does not answer",
            ),
            Self::ShuttingDown => (
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting-down",
                "This replica is ending",
            ),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "A defect"),
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.parts().0
    }

    /// Its address.
    #[must_use]
    pub fn address(self) -> String {
        format!("{BASE}{}", self.parts().1)
    }

    /// What it says in general.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.parts().2
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address())
    }
}

/// What is wrong with one request.
#[derive(Debug)]
pub struct Problem {
    /// Its type.
    pub kind: Kind,
    /// What is wrong here, and what would be right.
    pub detail: Cow<'static, str>,
    /// The field, where one is at fault: `ttl_seconds`, `segments[3]`.
    pub field: Option<Cow<'static, str>>,
    /// What few problems have; apart, since a problem is the error of every function here and should be small.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    /// Further members of the body.
    members: Map<String, Value>,
    /// When to try again.
    retry_after: Option<Duration>,
    /// A header that the type demands.
    header: Option<(HeaderName, HeaderValue)>,
    /// For the log alone.
    cause: Option<String>,
}

/// A cause for the log, handed to the outermost layer in the response's extensions; never in the body.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub(crate) String);

impl Problem {
    /// A problem of `kind`.
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            more: None,
        }
    }

    /// A field whose value cannot be.
    pub(crate) fn invalid(field: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidField, detail).at(field)
    }

    /// The segment that does not exist.
    pub(crate) fn no_segment(name: &SegmentName) -> Self {
        let detail = format!(
            "there is no segment {:?}: it exists from its first valid pair, or from PUT /v1/segments/{{segment}}",
            name.as_str()
        );
        Self::new(Kind::SegmentNotFound, detail).at("segment")
    }

    /// A pair that the ledger did not take.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ObservedInFuture => Self::invalid("observed_at", refusal.to_string()),
            Refusal::SegmentLimit => Self::new(Kind::SegmentLimit, refusal.to_string()).at("segment"),
        }
    }

    /// The same with the field at fault.
    pub(crate) fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same with one more member.
    pub(crate) fn with(mut self, member: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.more().members.insert(member.to_owned(), value);
        }
        self
    }

    /// The same with `Retry-After`.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.more().retry_after = Some(after);
        self
    }

    /// The same with a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.more().header = Some((name, value));
        self
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".to_owned(), self.kind.address().into());
        body.insert("title".to_owned(), self.kind.title().into());
        body.insert("status".to_owned(), self.kind.status().as_u16().into());
        body.insert("detail".to_owned(), self.detail.as_ref().into());
        if let Some(field) = &self.field {
            body.insert("field".to_owned(), field.as_ref().into());
        }
        if let Some(more) = &self.more {
            body.extend(more.members.clone());
        }
        Value::Object(body)
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Overloaded { retry_after } => {
                Self::new(Kind::Overloaded, "nothing of the request was taken; send it again").retry_after(retry_after)
            }
            ServiceError::ShuttingDown => shutting_down(),
            ServiceError::AlreadyRunning(job) => job_running(job),
            ServiceError::Cache(_) => {
                let detail = "the cache does not answer, and this server is set to fail rather than ask the database: come again, or ask with \
                              max_staleness_ms=0";
                let mut problem = Self::new(Kind::CacheUnavailable, detail).retry_after(Duration::from_secs(1));
                problem.more().cause = Some(error.to_string());
                problem
            }
            // A failure of the ledger is no fault of the request, and a client can do one thing about any of them: come again.
            ServiceError::Ledger(_) | ServiceError::Unfinished(_) => {
                let after = Duration::from_secs(if error.is_transient() { 1 } else { 10 });
                let detail = "the ledger did not answer; sending the same again is safe";
                let mut problem = Self::new(Kind::Unavailable, detail).retry_after(after);
                problem.more().cause = Some(error.to_string());
                problem
            }
        }
    }
}

/// Another replica will take it.
pub(crate) fn shutting_down() -> Problem {
    Problem::new(
        Kind::ShuttingDown,
        "this replica is ending; send it again, another one takes it",
    )
    .retry_after(Duration::from_secs(1))
}

fn job_running(job: Job) -> Problem {
    Problem::new(
        Kind::JobRunning,
        format!("a run of {} is under way: see GET /v1/admin/status", job.name()),
    )
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
        let mut response = (self.kind.status(), self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, TYPE);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let Some(more) = self.more else { return response };
        if let Some(after) = more.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some((name, value)) = more.header {
            headers.insert(name, value);
        }
        if let Some(cause) = more.cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

/// The document's description of a problem.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// Which problem it is: stable, one of those in docs/api.md.
    #[schema(example = "https://segmentcounter.io/problems/invalid-field")]
    r#type: String,
    /// What the type says in general.
    title: String,
    /// The response's status.
    status: u16,
    /// What is wrong here, and what would be right.
    detail: String,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

#[cfg(test)]
mod tests;
