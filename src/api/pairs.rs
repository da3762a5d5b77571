//! `POST /v1/pairs`: one pair, answered after its commit.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};

use super::Api;
use super::body::{self, BodyLimits, Whole};
use super::name::NoQuery;
use super::pair::{self, PairBody, PairRecorded};
use super::problem::{Kind, Problem, ProblemBody};

/// The largest pair: two names of 128 bytes, every byte escaped, fit twice.
pub(crate) const MAX_PAIR_BYTES: usize = 4 * 1024;

/// Send one pair
///
/// Answers after the pair is committed durably. Sending it again, later or out of order changes nothing: of two pairs the later end stands.
#[utoipa::path(
    post,
    path = "/v1/pairs",
    tag = "pairs",
    operation_id = "sendPair",
    security(("token" = ["pairs:write"])),
    request_body(content = PairBody<'static>, content_type = "application/json"),
    responses(
        (status = 200, description = "Committed", body = PairRecorded),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Pairs may create no more segments", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is of another type", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is missing, unknown or cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not taken; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn send(
    State(api): State<Api>,
    _: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PairRecorded>, Problem> {
    answer(&api, &headers, body).await
}

/// What [`send`] answers.
pub(crate) async fn answer(api: &Api, headers: &HeaderMap, body: Body) -> Result<Json<PairRecorded>, Problem> {
    let whole = json_body(headers, body, MAX_PAIR_BYTES, api.bodies()).await?;
    let pair = pair::parse(&whole.bytes, api.rules())?;
    let recording = api.service().record(pair).await?;
    Ok(Json(recording.try_into()?))
}

/// A body that must say that it is JSON.
pub(crate) async fn json_body(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    limits: &BodyLimits,
) -> Result<Whole, Problem> {
    match body::media_type(headers).as_deref() {
        Some("application/json") => body::whole(headers, body, limit, limits).await,
        _ => Err(unsupported_type("application/json")),
    }
}

/// Which types a route takes.
pub(crate) fn unsupported_type(accepted: &'static str) -> Problem {
    Problem::new(Kind::UnsupportedMediaType, format!("Content-Type must be {accepted}"))
        .at("Content-Type")
        .header(header::ACCEPT, HeaderValue::from_static(accepted))
}
