//! The pair on the wire: what all three ways of sending one have in common.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::json;
use super::problem::Problem;
use crate::counting::{NameError, Outcome, Pair, Rules, SegmentName, UserId, Window};
use crate::ledger::Recording;

/// A user seen in a segment.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Pair)]
pub(crate) struct PairBody<'a> {
    /// Who: opaque UTF-8 of 1 to 128 bytes without control characters.
    #[serde(borrow)]
    #[schema(example = "u-4711", min_length = 1, max_length = 128)]
    user_id: Cow<'a, str>,
    /// Where: opaque UTF-8 of 1 to 128 bytes without control characters.
    #[serde(borrow)]
    #[schema(example = "shop/checkout", min_length = 1, max_length = 128)]
    segment: Cow<'a, str>,
    /// When, RFC 3339; at most five minutes ahead of the ledger's clock. Absent: when it is recorded.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-01-31T12:00:00Z")]
    observed_at: Option<Cow<'a, str>>,
    /// How long it lasts, in seconds. Absent: the segment's window, else the counter's.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000_000_i64)]
    ttl_seconds: Option<i64>,
}

impl PairBody<'_> {
    /// Proves every field.
    pub(crate) fn prove(self, rules: &Rules) -> Result<Pair, Problem> {
        let name = |field: &'static str| move |error: NameError| Problem::invalid(field, error.to_string());
        let ttl = match self.ttl_seconds {
            None => None,
            Some(seconds) => Some(window("ttl_seconds", seconds, rules)?),
        };
        Ok(Pair {
            user: UserId::new(self.user_id).map_err(name("user_id"))?,
            segment: SegmentName::new(self.segment).map_err(name("segment"))?,
            observed_at: self.observed_at.as_deref().map(instant).transpose()?,
            ttl,
        })
    }
}

/// Parses and proves one pair.
pub(crate) fn parse(bytes: &[u8], rules: &Rules) -> Result<Pair, Problem> {
    json::object::<PairBody<'_>>(bytes)?.prove(rules)
}

/// A window that goes with the rules.
pub(crate) fn window(field: &'static str, seconds: i64, rules: &Rules) -> Result<Window, Problem> {
    let window = Window::from_seconds(seconds).map_err(|error| Problem::invalid(field, error.to_string()))?;
    rules
        .admit(window)
        .map_err(|error| Problem::invalid(field, error.to_string()))?;
    Ok(window)
}

fn instant(text: &str) -> Result<Timestamp, Problem> {
    text.parse().map_err(|_| {
        Problem::invalid(
            "observed_at",
            "is not an RFC 3339 instant with its offset before the end of the year 9999, such as 2026-01-31T12:00:00Z",
        )
    })
}

/// What a pair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// The user was not in the segment just before, and is now.
    Created,
    /// The user was in it, and stays longer.
    Renewed,
    /// The user was in it, and stays exactly as long.
    Unchanged,
    /// Nothing was recorded; `reason` says why.
    Ignored,
}

/// What became of a pair, committed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct PairRecorded {
    /// What it did.
    status: Status,
    /// When the membership ends (of an expired pair: when it would have ended).
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// Why it was ignored: `expired` (its membership would have ended already), `removed` or `erased` (the user was, after it was observed).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "expired")]
    reason: Option<&'static str>,
}

impl TryFrom<Recording> for PairRecorded {
    type Error = Problem;

    fn try_from(recording: Recording) -> Result<Self, Problem> {
        let (status, reason) = match recording.outcome {
            Outcome::Created => (Status::Created, None),
            Outcome::Renewed => (Status::Renewed, None),
            Outcome::Unchanged => (Status::Unchanged, None),
            Outcome::Expired => (Status::Ignored, Some("expired")),
            Outcome::Removed => (Status::Ignored, Some("removed")),
            Outcome::Erased => (Status::Ignored, Some("erased")),
            Outcome::Refused(refusal) => return Err(Problem::refused(refusal)),
        };
        Ok(Self {
            status,
            expires_at: recording.expires_at,
            reason,
        })
    }
}
