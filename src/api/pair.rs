//! The pair on the wire: what all three ways of sending one have in common.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::json;
use super::name;
use super::problem::Problem;
use crate::counting::{Outcome, Pair, Rules, Window};
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
        let ttl = match self.ttl_seconds {
            None => None,
            Some(seconds) => Some(window("ttl_seconds", seconds, rules)?),
        };
        Ok(Pair {
            user: name::user("user_id", self.user_id)?,
            segment: name::segment("segment", self.segment)?,
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
    parse_instant(text).ok_or_else(|| {
        Problem::invalid(
            "observed_at",
            "is not an RFC 3339 instant with its offset before the end of the year 9999, such as 2026-01-31T12:00:00Z",
        )
    })
}

fn parse_instant(text: &str) -> Option<Timestamp> {
    if !has_form_of_rfc3339(text.as_bytes()) {
        return None;
    }
    let at: Timestamp = text.parse().ok()?;
    // The parser takes a leap second for the one before it, and the user would leave that much early.
    match text.get(17..19) {
        Some("60") => at.checked_add(SignedDuration::from_secs(1)).ok(),
        _ => Some(at),
    }
}

/// Whether `text` is written as RFC 3339 has it. The parser takes more: times without minutes, weeks, zones in brackets whose meaning it drops.
fn has_form_of_rfc3339(text: &[u8]) -> bool {
    let Some((instant, rest)) = text.split_at_checked(19) else {
        return false;
    };
    let fits = |byte: &u8, form: u8| match form {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        mark => *byte == mark,
    };
    let has_form = |bytes: &[u8], form: &[u8]| {
        bytes.len() == form.len() && bytes.iter().zip(form).all(|(byte, form)| fits(byte, *form))
    };
    let offset = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            &fraction[digits..]
        }
        None => rest,
    };
    has_form(instant, b"0000-00-00T00:00:00")
        && match offset {
            [b'Z' | b'z'] => true,
            [b'+' | b'-', offset @ ..] => has_form(offset, b"00:00") && offset < b"24".as_slice(),
            _ => false,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_as_rfc_3339_has_it() {
        for good in [
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00.5z",
            "2026-01-31 12:00:00.123456789+23:59",
            "0000-01-01T00:00:00-00:00",
        ] {
            assert!(parse_instant(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "2026-01-31T12Z",
            "2026-01-31T12:00Z",
            "20260131T120000Z",
            "2026-W05-6T12:00:00Z",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00,5Z",
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+01:00:30",
            "2026-01-31T12:00:00Z[Europe/Berlin]",
            "+002026-01-31T12:00:00Z",
            "2026-01-31T12:00:00Zé",
        ] {
            assert!(parse_instant(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_leap_second_is_not_cut_off() {
        let at = |text| parse_instant(text).unwrap();
        assert_eq!(at("1990-12-31T23:59:60Z"), at("1991-01-01T00:00:00Z"));
        assert_eq!(at("1990-12-31T15:59:60.25-08:00"), at("1991-01-01T00:00:00.25Z"));
    }
}
