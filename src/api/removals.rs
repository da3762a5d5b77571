//! `DELETE /v1/segments/{segment}/users/{user}`, `POST /v1/pairs:remove` and `DELETE /v1/users/{user}`: what takes users out of segments.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Api;
use super::batch::{MAX_BYTES, MAX_ERRORS, items};
use super::body;
use super::json;
use super::name::{self, MemberInPath, NoQuery, UserInPath};
use super::pairs::unsupported_type;
use super::problem::{Kind, Problem, ProblemBody};
use crate::counting::{Removal, SegmentName};
use crate::ledger::RemovalOutcome;

/// What a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RemovalStatus {
    /// The user was in the segment just before, and is no longer.
    Removed,
    /// The user was not in the segment.
    NotMember,
}

/// What became of a removal, committed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RemovalDone {
    /// What it did.
    status: RemovalStatus,
}

/// Take a user out of a segment
///
/// Ends the membership now, and beats every pair that was observed before, whenever and wherever it arrives. A pair that is sent after the answer
/// counts again.
#[utoipa::path(
    delete,
    path = "/v1/segments/{segment}/users/{user}",
    tag = "removals",
    operation_id = "removeUser",
    security(("token" = ["pairs:write"])),
    params(
        ("segment" = String, Path, description = "The segment, percent-encoded"),
        ("user" = String, Path, description = "The user, percent-encoded"),
    ),
    responses(
        (status = 200, description = "Committed", body = RemovalDone),
        (status = 400, description = "The path cannot be decoded", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such segment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A name cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not done; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn one(
    State(api): State<Api>,
    MemberInPath(segment, user): MemberInPath,
    _: NoQuery,
) -> Result<Json<RemovalDone>, Problem> {
    let removal = Removal {
        user,
        segment: segment.clone(),
    };
    let status = match api.service().remove(vec![removal]).await?.first() {
        Some(RemovalOutcome::Removed) => RemovalStatus::Removed,
        Some(RemovalOutcome::NotMember) => RemovalStatus::NotMember,
        Some(RemovalOutcome::NoSegment) | None => return Err(Problem::no_segment(&segment)),
    };
    Ok(Json(RemovalDone { status }))
}

/// A user to be taken out of a segment. It has no `observed_at`: it is observed when it is recorded.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Removal)]
pub(crate) struct RemovalBody<'a> {
    /// Who.
    #[serde(borrow)]
    #[schema(example = "u-4711", min_length = 1, max_length = 128)]
    user_id: Cow<'a, str>,
    /// From where.
    #[serde(borrow)]
    #[schema(example = "shop/checkout", min_length = 1, max_length = 128)]
    segment: Cow<'a, str>,
}

impl RemovalBody<'_> {
    fn prove(self) -> Result<Removal, Problem> {
        Ok(Removal {
            user: name::user("user_id", self.user_id)?,
            segment: name::segment("segment", self.segment)?,
        })
    }
}

/// What many removals did.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct RemovalTotals {
    /// Removals received, good or bad.
    received: u64,
    /// Users who were in the segment just before.
    removed: u64,
    /// Users who were not.
    not_member: u64,
    /// Removals of a segment that does not exist: nothing was remembered.
    refused: u64,
    /// Removals that could not be read.
    invalid: u64,
    /// The first 100 of the refused and invalid ones.
    errors: Vec<RemovalError>,
}

/// A bad removal.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RemovalError {
    /// Where it stood in the array, from 0.
    index: u64,
    /// The type of the problem.
    #[schema(value_type = String)]
    r#type: Kind,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    field: Option<Cow<'static, str>>,
    /// What is wrong, and what would be right.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
}

impl RemovalTotals {
    fn error(&mut self, index: u64, problem: Problem) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(RemovalError {
                index,
                r#type: problem.kind,
                field: problem.field,
                detail: problem.detail,
            });
        }
    }
}

/// Take many users out of segments
///
/// A JSON array of at most 10,000; a bad one is reported with its index (from 0) and loses no good one. After a 503 send all of it again.
#[utoipa::path(
    post,
    path = "/v1/pairs:remove",
    tag = "removals",
    operation_id = "removeUsers",
    security(("token" = ["pairs:write"])),
    request_body(content = Vec<RemovalBody<'static>>, content_type = "application/json"),
    responses(
        (status = 200, description = "Every good one is committed", body = RemovalTotals),
        (status = 400, description = "The array is no JSON, or the body broke off", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The rest of the body did not come", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "More than 10,000 in an array, or too many bytes", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is of another type", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The body is no array", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not all was done; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn many(
    State(api): State<Api>,
    _: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RemovalTotals>, Problem> {
    if body::media_type(&headers).as_deref() != Some("application/json") {
        return Err(unsupported_type("application/json"));
    }
    let whole = body::whole(&headers, body, MAX_BYTES, api.bodies()).await?;
    let mut totals = RemovalTotals::default();
    let (mut removals, mut places) = (Vec::new(), Vec::new());
    for (index, item) in (0_u64..).zip(items(&whole.bytes, "removals")?) {
        totals.received += 1;
        match json::object::<RemovalBody<'_>>(item.get().as_bytes()).and_then(RemovalBody::prove) {
            Ok(removal) => {
                removals.push(removal);
                places.push(index);
            }
            Err(problem) => {
                totals.invalid += 1;
                totals.error(index, problem);
            }
        }
    }
    drop(whole);
    let segments: Vec<SegmentName> = removals.iter().map(|removal| removal.segment.clone()).collect();
    let outcomes = if removals.is_empty() {
        Vec::new()
    } else {
        api.service().remove(removals).await?
    };
    for ((outcome, index), segment) in outcomes.into_iter().zip(places).zip(&segments) {
        match outcome {
            RemovalOutcome::Removed => totals.removed += 1,
            RemovalOutcome::NotMember => totals.not_member += 1,
            RemovalOutcome::NoSegment => {
                totals.refused += 1;
                totals.error(index, Problem::no_segment(segment));
            }
        }
    }
    totals.errors.sort_by_key(|error| error.index);
    Ok(Json(totals))
}

/// The receipt of an erasure. The user's name is in it in no form.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErasureReceipt {
    /// Names this erasure.
    receipt: String,
    /// When it was done.
    #[schema(value_type = String, format = DateTime)]
    erased_at: Timestamp,
    /// Memberships, and marks of removals, that were deleted.
    memberships: i64,
    /// Rows of the history that were deleted.
    history: i64,
    /// Until when pairs that were observed before the erasure are ignored, should they still arrive: whatever they could make has ended then.
    #[schema(value_type = String, format = DateTime)]
    suppressed_until: Timestamp,
}

/// Erase a user
///
/// Memberships and history are deleted, counts with them. What remains is a keyed hash that keeps out pairs that were observed before, and goes
/// itself at `suppressed_until`. While it runs nothing of the user is recorded; a pair that is sent after the answer counts again.
#[utoipa::path(
    delete,
    path = "/v1/users/{user}",
    tag = "removals",
    operation_id = "eraseUser",
    security(("token" = ["users:erase"])),
    params(("user" = String, Path, description = "The user, percent-encoded")),
    responses(
        (status = 200, description = "Erased", body = ErasureReceipt),
        (status = 400, description = "The path cannot be decoded", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name cannot be", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not done; send it again after Retry-After", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn erase(
    State(api): State<Api>,
    UserInPath(user): UserInPath,
    _: NoQuery,
) -> Result<Json<ErasureReceipt>, Problem> {
    let erasure = api.service().erase(&user).await?;
    Ok(Json(ErasureReceipt {
        receipt: erasure.receipt,
        erased_at: erasure.erased_at,
        memberships: erasure.memberships,
        history: erasure.history,
        suppressed_until: erasure.suppressed_until,
    }))
}
