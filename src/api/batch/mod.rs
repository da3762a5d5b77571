//! `POST /v1/pairs:batch`: many pairs, as a JSON array or as a stream of lines.

mod array;
mod chunk;
mod flights;
mod lines;
mod stream;
mod totals;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::Api;
use super::body;
use super::name::NoQuery;
use super::pair::PairBody;
use super::pairs::unsupported_type;
use super::problem::{Problem, ProblemBody};
use totals::Totals;

pub(crate) use array::{MAX_BYTES, items};
pub(crate) use totals::MAX_ERRORS;

/// Send many pairs
///
/// As a JSON array of at most 10,000 pairs, or as NDJSON (`application/x-ndjson`: one pair a line, at most 4 KiB each) of any length; either may be
/// compressed by gzip or zstd. Pairs are committed as they come; the answer follows the last commit and says what they did. A bad pair is reported
/// with its line (counted from 1) or index (from 0) and loses no good one; the first 100 are reported in detail. After a 503 send
/// all of it again: what was committed already changes nothing.
#[utoipa::path(
    post,
    path = "/v1/pairs:batch",
    tag = "pairs",
    operation_id = "sendPairs",
    security(("token" = ["pairs:write"])),
    request_body(content(
        (Vec<PairBody<'static>> = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "Every good pair is committed", body = Totals),
        (status = 400, description = "The array is no JSON, or the body broke off", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The rest of the body did not come", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More than 10,000 pairs in an array, or too many bytes", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is of another type", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The body is no array", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not all was taken; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn send(
    State(api): State<Api>,
    _: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Totals>, Problem> {
    match body::media_type(&headers).as_deref() {
        Some("application/json") => array::send(&api, &headers, body).await,
        Some("application/x-ndjson" | "application/ndjson") => stream::send(&api, &headers, body).await,
        _ => Err(unsupported_type("application/json, application/x-ndjson")),
    }
    .map(Json)
}
