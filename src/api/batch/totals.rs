//! What a batch did, counted.

use std::borrow::Cow;

use serde::Serialize;

use crate::api::problem::{Kind, Problem};
use crate::counting::Outcome;
use crate::ledger::Recording;

/// How many bad items are reported in detail.
pub(crate) const MAX_ERRORS: usize = 100;

/// Where a pair stood in the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// In an array, from 0.
    Index(u64),
    /// In a stream, from 1.
    Line(u64),
}

/// What a batch did.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[schema(as = BatchTotals)]
pub(crate) struct Totals {
    /// Pairs received, good or bad.
    received: u64,
    /// Users who were not in the segment just before.
    created: u64,
    /// Memberships that end later now.
    renewed: u64,
    /// Pairs that changed nothing.
    unchanged: u64,
    /// Pairs so old that their membership would have ended already, or that a removal or an erasure came after.
    ignored: u64,
    /// Good pairs that the ledger did not take: observed in the future, or in one new segment too many.
    refused: u64,
    /// Pairs that could not be read.
    invalid: u64,
    /// The first 100 of the refused and invalid ones.
    errors: Vec<ItemError>,
}

/// A bad pair.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ItemError {
    /// Where it stood in the array, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    /// Where it stood in the stream, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// The type of the problem, as in the problem of a single pair.
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

impl Totals {
    /// How many pairs could not be read.
    pub(super) fn bad_lines(&self) -> u64 {
        self.invalid
    }

    /// How many pairs were answered.
    pub(super) fn answered(&self) -> u64 {
        self.received - self.invalid
    }

    /// A pair that could not be read.
    pub(super) fn invalid(&mut self, place: Place, problem: Problem) {
        self.received += 1;
        self.invalid += 1;
        self.error(place, problem);
    }

    /// A pair that the ledger answered.
    pub(super) fn recorded(&mut self, place: Place, recording: Recording) {
        self.received += 1;
        match recording.outcome {
            Outcome::Created => self.created += 1,
            Outcome::Renewed => self.renewed += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Expired | Outcome::Removed | Outcome::Erased => self.ignored += 1,
            Outcome::Refused(refusal) => {
                self.refused += 1;
                self.error(place, Problem::refused(refusal));
            }
        }
    }

    /// Puts the errors into the order of the request: chunks may have ended in another one.
    pub(super) fn sort(&mut self) {
        self.errors.sort_by_key(|error| error.line.or(error.index));
    }

    fn error(&mut self, place: Place, problem: Problem) {
        if self.errors.len() < MAX_ERRORS {
            let (index, line) = match place {
                Place::Index(index) => (Some(index), None),
                Place::Line(line) => (None, Some(line)),
            };
            self.errors.push(ItemError {
                index,
                line,
                r#type: problem.kind,
                field: problem.field,
                detail: problem.detail,
            });
        }
    }
}
