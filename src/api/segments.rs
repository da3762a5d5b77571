//! `GET /v1/segments` and `GET`, `PUT`, `DELETE /v1/segments/{segment}`.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Api;
use super::json;
use super::name::{InPath, NoQuery, encoded, number, query, segment};
use super::pair::window;
use super::pairs::json_body;
use super::problem::{Problem, ProblemBody};
use crate::counting::SegmentName;
use crate::ledger::{LedgerError, NewSegment, SegmentInfo};
use crate::service::ServiceError;

/// Segments of a page where the request does not say.
const PAGE: u64 = 100;
/// The most segments of a page.
const MAX_PAGE: u64 = 1_000;
/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 1_024;
/// The largest settings: a description with every byte escaped.
const MAX_BYTES: usize = 8 * 1024;

/// A segment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Segment {
    /// Its name.
    segment: String,
    /// How many users are in it.
    count: i64,
    /// How long a pair of it lasts that names no time of its own.
    window_seconds: i64,
    /// Whether that window is its own, or the counter's.
    own_window: bool,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Since when it is known.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl Segment {
    fn new(api: &Api, info: SegmentInfo) -> Self {
        Self {
            window_seconds: api.service().ledger().effective_window(info.window).seconds(),
            own_window: info.window.is_some(),
            segment: info.name.as_str().to_owned(),
            count: info.members,
            description: info.description,
            created_at: info.created_at,
        }
    }
}

/// A page of segments.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SegmentPage {
    /// The instant at which the counts are exact.
    #[schema(value_type = String, format = DateTime)]
    as_of: Timestamp,
    /// In byte order of their names.
    segments: Vec<Segment>,
    /// The value of `after` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_after: Option<String>,
}

/// List segments
///
/// In byte order of their names, with their counts. The header `Link` with `rel="next"` leads to the next page.
#[utoipa::path(
    get,
    path = "/v1/segments",
    tag = "segments",
    operation_id = "listSegments",
    security(("token" = ["counts:read"])),
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1_000, description = "Segments of a page, 100 where nothing is said"),
        ("after" = Option<String>, Query, description = "The name after which the page begins"),
    ),
    responses(
        (status = 200, description = "A page", body = SegmentPage, headers(("Link" = String, description = "The next page, rel=next"))),
        (status = 422, description = "A parameter cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "No answer can be given now", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(State(api): State<Api>, RawQuery(text): RawQuery) -> Result<Response, Problem> {
    let [limit, after] = query(text.as_deref(), ["limit", "after"])?;
    let limit = limit.map_or(Ok(PAGE), |text| number("limit", &text, 1, MAX_PAGE))?;
    let after = after.map(|text| segment("after", text)).transpose()?;
    let page = api
        .service()
        .segments(after.as_ref(), u32::try_from(limit).unwrap_or(u32::MAX))
        .await?;
    let next = page.segments.last().filter(|_| page.more).map(|last| last.name.clone());
    let link = next
        .as_ref()
        .map(|name| format!("</v1/segments?limit={limit}&after={}>; rel=\"next\"", encoded(name)));
    let body = SegmentPage {
        as_of: page.as_of,
        segments: page.segments.into_iter().map(|info| Segment::new(&api, info)).collect(),
        next_after: next.map(|name| name.as_str().to_owned()),
    };
    let mut response = Json(body).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// Look at one segment
#[utoipa::path(
    get,
    path = "/v1/segments/{segment}",
    tag = "segments",
    operation_id = "getSegment",
    security(("token" = ["counts:read"])),
    params(("segment" = String, Path, description = "The segment, percent-encoded")),
    responses(
        (status = 200, description = "The segment", body = Segment),
        (status = 404, description = "There is no such segment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "No answer can be given now", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get(State(api): State<Api>, InPath(name): InPath, _: NoQuery) -> Result<Json<Segment>, Problem> {
    let info = api.service().ledger().segment(&name).await.map_err(problem)?;
    info.map(|info| Json(Segment::new(&api, info)))
        .ok_or_else(|| Problem::no_segment(&name))
}

/// Settings of a segment. A PUT replaces: what is absent is unset.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentSettings<'a> {
    /// Its own window. Absent: the counter's.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000_000_i64)]
    window_seconds: Option<i64>,
    /// For people, at most 1,024 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 1_024)]
    description: Option<Cow<'a, str>>,
}

/// Create a segment, or change it
///
/// A changed window holds for pairs from then on.
#[utoipa::path(
    put,
    path = "/v1/segments/{segment}",
    tag = "segments",
    operation_id = "putSegment",
    security(("token" = ["pairs:write"])),
    params(("segment" = String, Path, description = "The segment, percent-encoded")),
    request_body(content = SegmentSettings<'static>, content_type = "application/json"),
    responses(
        (status = 200, description = "Changed", body = Segment),
        (status = 201, description = "Created", body = Segment, headers(("Location" = String, description = "Where it is"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is of another type", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown or cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not taken; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn put(
    State(api): State<Api>,
    InPath(name): InPath,
    _: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let whole = json_body(&headers, body, MAX_BYTES, api.bodies()).await?;
    let settings = json::object::<SegmentSettings<'_>>(&whole.bytes)?;
    let new = prove(&api, name, settings)?;
    let put = api.service().put_segment(&new).await?;
    let status = if put.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = (status, Json(Segment::new(&api, put.segment))).into_response();
    if put.created
        && let Ok(location) = HeaderValue::from_str(&format!("/v1/segments/{}", encoded(&new.name)))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Delete a segment
///
/// With its members and its history. Its name is free at once: a pair or a PUT may create it anew, empty. Its rows are cleared away by the next archive.
#[utoipa::path(
    delete,
    path = "/v1/segments/{segment}",
    tag = "segments",
    operation_id = "deleteSegment",
    security(("token" = ["admin"])),
    params(("segment" = String, Path, description = "The segment, percent-encoded")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "There is no such segment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not done; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn delete(State(api): State<Api>, InPath(name): InPath, _: NoQuery) -> Result<StatusCode, Problem> {
    if api.service().delete_segment(&name).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::no_segment(&name))
    }
}

fn prove(api: &Api, name: SegmentName, settings: SegmentSettings<'_>) -> Result<NewSegment, Problem> {
    let own = settings
        .window_seconds
        .map(|seconds| window("window_seconds", seconds, api.rules()))
        .transpose()?;
    if let Some(text) = &settings.description {
        if text.len() > MAX_DESCRIPTION {
            let detail = format!(
                "is {} bytes long: at most {MAX_DESCRIPTION} bytes of UTF-8 are allowed",
                text.len()
            );
            return Err(Problem::invalid("description", detail));
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return Err(Problem::invalid(
                "description",
                "holds a control character other than a line end or a tab",
            ));
        }
    }
    Ok(NewSegment {
        name,
        window: own,
        description: settings.description.map(Cow::into_owned),
    })
}

fn problem(error: LedgerError) -> Problem {
    ServiceError::Ledger(error).into()
}
