//! `GET /v1/segments/{segment}/count` and `POST /v1/counts`.

use std::borrow::Cow;
use std::time::Duration;

use arrayvec::ArrayString;
use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Serialize};

use super::Api;
use super::json;
use super::name::{InPath, NoQuery, number, query, segment};
use super::pairs::json_body;
use super::problem::{Kind, Problem, ProblemBody};
use crate::counting::{Resolution, SegmentName};
use crate::service::CountAnswer;

/// The oldest answer that may be asked for.
const MAX_STALENESS_MS: u64 = 60_000;
/// The most segments of one call.
const MAX_SEGMENTS: usize = 1_000;
/// The largest list: 1,000 of the longest names, with every byte escaped.
const MAX_BYTES: usize = 1024 * 1024;

/// How many users are in a segment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SegmentCount {
    /// The segment.
    #[schema(value_type = String)]
    segment: SegmentText,
    /// How many users were in it at `as_of`.
    count: i64,
    /// The instant at which the count was exact, by the ledger's clock.
    #[schema(value_type = String, format = DateTime)]
    as_of: Timestamp,
    /// An upper bound of the age of the answer.
    staleness_ms: u64,
    /// The grain at which users leave.
    resolution_seconds: i64,
    /// False only for the last known count, served because the ledger is away.
    exact: bool,
}

/// An `ETag`; the longest has two numbers of 20 characters.
type Tag = ArrayString<64>;

#[derive(Debug)]
struct SegmentText(SegmentName);

impl Serialize for SegmentText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl SegmentCount {
    fn new(answer: CountAnswer, resolution: Resolution) -> Self {
        Self {
            segment: SegmentText(answer.segment),
            count: answer.count,
            as_of: answer.as_of,
            // Rounded up: it is a bound.
            staleness_ms: u64::try_from(answer.staleness.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
            resolution_seconds: resolution.seconds(),
            exact: answer.exact,
        }
    }

    /// The `Age` of the answer: whole seconds, so rounded down; `staleness_ms` is the bound.
    fn age(&self) -> HeaderValue {
        HeaderValue::from(self.staleness_ms / 1_000)
    }

    /// Weak: equal tags mean an equal count of equal standing, while `as_of` may have moved on.
    fn tag(&self) -> Tag {
        // Without `format!`, which would be a good part of an answer from memory.
        let mut tag = Tag::new();
        tag.push_str("W/\"");
        tag.push_str(itoa::Buffer::new().format(self.count));
        tag.push_str(if self.exact { "-" } else { "-stale-" });
        tag.push_str(itoa::Buffer::new().format(self.resolution_seconds));
        tag.push('"');
        tag
    }

    /// The bytes that its `Serialize` makes: there the names of the fields are looked through for what must be escaped, in every answer anew, which was
    /// a seventh of the instructions that an answer from memory takes.
    #[expect(
        clippy::expect_used,
        reason = "a name is text, a timestamp has a date, and a vector takes both"
    )]
    fn json(&self) -> Vec<u8> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new();
        let mut json = Vec::with_capacity(192);
        json.extend_from_slice(br#"{"segment":"#);
        serde_json::to_writer(&mut json, &self.segment).expect("a string");
        json.extend_from_slice(br#","count":"#);
        json.extend_from_slice(itoa::Buffer::new().format(self.count).as_bytes());
        json.extend_from_slice(br#","as_of":""#);
        PRINTER.print_timestamp(&self.as_of, &mut json).expect("an instant");
        json.extend_from_slice(br#"","staleness_ms":"#);
        json.extend_from_slice(itoa::Buffer::new().format(self.staleness_ms).as_bytes());
        json.extend_from_slice(br#","resolution_seconds":"#);
        json.extend_from_slice(itoa::Buffer::new().format(self.resolution_seconds).as_bytes());
        json.extend_from_slice(if self.exact {
            br#","exact":true}"#
        } else {
            br#","exact":false}"#
        });
        json
    }
}

impl IntoResponse for SegmentCount {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        let media_type = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }
}

/// Count one segment
///
/// Exact at `as_of`, and no older than `max_staleness_ms`. Names are percent-encoded in the path: `owner%2Frepo:dir`.
#[utoipa::path(
    get,
    path = "/v1/segments/{segment}/count",
    tag = "counts",
    operation_id = "countSegment",
    security(("token" = ["counts:read"])),
    params(
        ("segment" = String, Path, description = "The segment, percent-encoded"),
        ("max_staleness_ms" = Option<u64>, Query, maximum = 60_000, description = "How old the answer may be; 0 asks the ledger"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The count", body = SegmentCount, headers(
            ("ETag" = String, description = "Equal while the count is"),
            ("Age" = u64, description = "The age of the answer in whole seconds, rounded down; staleness_ms is the bound"))),
        (status = 304, description = "The count is the one of If-None-Match", headers(("Age" = u64, description = "As with 200"))),
        (status = 400, description = "The path cannot be decoded", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such segment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter or the name cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "No answer can be given now", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn one(
    State(api): State<Api>,
    InPath(name): InPath,
    RawQuery(text): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let staleness = match query(text.as_deref(), ["max_staleness_ms"])? {
        [None] => None,
        [Some(text)] => Some(number("max_staleness_ms", &text, 0, MAX_STALENESS_MS)?),
    };
    let answer = api.service().count(&name, staleness.map(Duration::from_millis)).await?;
    let answer = answer.ok_or_else(|| Problem::no_segment(&name))?;
    let count = SegmentCount::new(answer, api.rules().resolution());
    let (tag, age) = (count.tag(), count.age());
    let response = if matches(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        count.into_response()
    };
    Ok(tagged(response, &tag, age))
}

/// What [`one`] answers to a request without a condition.
pub(crate) fn answered(api: &Api, answer: CountAnswer) -> Response {
    let count = SegmentCount::new(answer, api.rules().resolution());
    let (tag, age) = (count.tag(), count.age());
    tagged(count.into_response(), &tag, age)
}

fn tagged(mut response: Response, tag: &str, age: HeaderValue) -> Response {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::AGE, age);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Whether a tag of `If-None-Match` is `tag`, compared weakly.
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim() == "*" || opaque(one) == opaque(tag))
}

/// Segments to count.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountsQuery<'a> {
    /// At most 1,000 names.
    #[serde(borrow)]
    #[schema(max_items = 1_000, value_type = Vec<String>)]
    segments: Vec<Cow<'a, str>>,
    /// How old the answers may be; 0 asks the ledger.
    #[serde(default)]
    #[schema(maximum = 60_000)]
    max_staleness_ms: Option<u64>,
}

/// Counts of many segments.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SegmentCounts {
    /// In the order of the request; those that do not exist are left out.
    counts: Vec<SegmentCount>,
    /// The segments that do not exist.
    #[schema(value_type = Vec<String>)]
    missing: Vec<SegmentText>,
}

/// Count many segments
///
/// At most 1,000 at once. Each count is exact at its own `as_of`.
#[utoipa::path(
    post,
    path = "/v1/counts",
    tag = "counts",
    operation_id = "countSegments",
    security(("token" = ["counts:read"])),
    request_body(content = CountsQuery<'static>, content_type = "application/json"),
    responses(
        (status = 200, description = "The counts", body = SegmentCounts, headers(
            ("Age" = u64, description = "The age of the oldest of them in whole seconds, rounded down"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More than 1,000 segments", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is of another type", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is missing, unknown or cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "No answer can be given now", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn many(
    State(api): State<Api>,
    _: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let whole = json_body(&headers, body, MAX_BYTES, api.bodies()).await?;
    let wanted = json::object::<CountsQuery<'_>>(&whole.bytes)?;
    if wanted.segments.len() > MAX_SEGMENTS {
        let detail = format!("at most {MAX_SEGMENTS} segments are counted at once");
        return Err(Problem::new(Kind::TooManyItems, detail).at("segments"));
    }
    if wanted
        .max_staleness_ms
        .is_some_and(|staleness| staleness > MAX_STALENESS_MS)
    {
        let detail = format!("must be a whole number from 0 to {MAX_STALENESS_MS}");
        return Err(Problem::invalid("max_staleness_ms", detail));
    }
    let staleness = wanted.max_staleness_ms.map(Duration::from_millis);
    let mut names = Vec::with_capacity(wanted.segments.len());
    for (index, text) in wanted.segments.into_iter().enumerate() {
        names.push(segment("segments", text).map_err(|problem| problem.at(format!("segments[{index}]")))?);
    }
    drop(whole);
    let answers = api.service().counts(&names, staleness).await?;
    let resolution = api.rules().resolution();
    let (mut counts, mut missing) = (Vec::with_capacity(names.len()), Vec::new());
    for (name, answer) in names.into_iter().zip(answers) {
        match answer {
            Some(answer) => counts.push(SegmentCount::new(answer, resolution)),
            None => missing.push(SegmentText(name)),
        }
    }
    let oldest = counts
        .iter()
        .max_by_key(|count| count.staleness_ms)
        .map(SegmentCount::age);
    let mut response = Json(SegmentCounts { counts, missing }).into_response();
    if let Some(age) = oldest {
        response.headers_mut().insert(header::AGE, age);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_json_is_that_of_serde() {
        let longest = "ü".repeat(64);
        let names = ["a", "owner/repo:dir", "\"\\\"", "größe 🦀", "\u{2028}<&>", &longest];
        let instants = [
            "2026-03-01T23:59:59Z",
            "2026-03-01T23:59:59.5Z",
            "1969-12-31T23:59:59.000001Z",
        ];
        let instants = instants.map(|text| text.parse().unwrap());
        for name in names {
            for as_of in instants.into_iter().chain([Timestamp::MIN, Timestamp::MAX]) {
                for (count, staleness_ms, exact) in [(0, 0, true), (i64::MAX, u64::MAX, false), (-1, 999, true)] {
                    let one = SegmentCount {
                        segment: SegmentText(SegmentName::new(name).unwrap()),
                        count,
                        as_of,
                        staleness_ms,
                        resolution_seconds: 60,
                        exact,
                    };
                    let written = String::from_utf8(one.json()).unwrap();
                    assert_eq!(written, serde_json::to_string(&one).unwrap());
                }
            }
        }
    }
}
