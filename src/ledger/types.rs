//! What goes into a ledger and what comes out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::LedgerError;
use crate::counting::{Outcome, Rules, SegmentId, SegmentName, Window};

/// What a ledger is opened with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The window and resolution of pairs.
    pub rules: Rules,
    /// How long a membership has ended before the archive touches it or its counters; writers keep to the later half of it.
    pub settle: Duration,
    /// How many segments pairs may create (a PUT is never limited).
    pub max_segments_from_pairs: i64,
    /// PostgreSQL: how many lanes there are to be, at least, once the schema is migrated.
    pub lanes: i32,
    /// PostgreSQL with Citus: whether the lanes are to be on its machines once the schema is migrated. Once they are they stay.
    pub distributed: bool,
    /// The most pairs of one [`super::Ledger::record`].
    pub max_batch: usize,
    /// Moves time in the conformance suite; `None` everywhere else: the database's clock.
    pub clock: Option<TestClock>,
}

impl Settings {
    /// Whether a batch may be recorded: a larger one would hold its locks longer than the statement's limit is meant for.
    ///
    /// # Errors
    /// [`LedgerError::Internal`]: a defect of the caller, who cuts what clients send.
    pub(super) fn admit(&self, pairs: usize) -> Result<(), LedgerError> {
        if pairs > self.max_batch {
            return Err(LedgerError::Internal(format!(
                "a batch of {pairs} pairs, and at most {} are recorded at once",
                self.max_batch
            )));
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            settle: Duration::from_secs(600),
            max_segments_from_pairs: 10_000,
            lanes: 1,
            distributed: false,
            max_batch: 10_000,
            clock: None,
        }
    }
}

/// The clock that the conformance suite passes to every statement in the place of the database's.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    /// A clock that stands at `at`.
    #[must_use]
    pub fn at(at: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// Sets it.
    pub fn set(&self, at: Timestamp) {
        self.0.store(at.as_microsecond(), Ordering::SeqCst);
    }

    /// Where it stands, in microseconds since the epoch.
    #[must_use]
    pub fn micros(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a batch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The instant at which it was recorded.
    pub at: Timestamp,
    /// One for each pair, in their order.
    pub pairs: Vec<Recording>,
    /// The segments whose count it changed, sorted, each once.
    pub changed: Vec<SegmentId>,
    /// The removal epoch as it stood when the batch was recorded: removals, erasures, deletions and changed windows raise it.
    pub epoch: i64,
    /// For each pair the window that its segment had of its own when it was recorded, in their order.
    pub windows: Vec<Option<Window>>,
}

/// What became of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording {
    /// What it did.
    pub outcome: Outcome,
    /// When the membership ends: of a recorded pair what now stands in the ledger, of an expired one when it would have ended; none of a
    /// refused one.
    pub expires_at: Option<Timestamp>,
}

/// A segment's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The segment.
    pub segment: SegmentId,
    /// How many users are in it.
    pub members: i64,
    /// The instant at which that is exact, by the database's clock.
    pub as_of: Timestamp,
    /// Whether there is such a segment: it may have been deleted since its number was learnt.
    pub exists: bool,
}

/// A segment to create or change. What is `None` is unset: a PUT replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSegment {
    /// Its name.
    pub name: SegmentName,
    /// Its own window.
    pub window: Option<Window>,
    /// For people, at most 1,024 bytes.
    pub description: Option<String>,
}

/// What a PUT did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutSegment {
    /// Whether it is new.
    pub created: bool,
    /// As it stands now.
    pub segment: SegmentInfo,
}

/// A segment as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub id: SegmentId,
    /// Its name.
    pub name: SegmentName,
    /// Its own window, if it has one.
    pub window: Option<Window>,
    /// For people.
    pub description: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// How many users are in it, exact at the answer's instant.
    pub members: i64,
}

/// A page of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPage {
    /// The instant at which the counts are exact.
    pub as_of: Timestamp,
    /// In byte order of their names.
    pub segments: Vec<SegmentInfo>,
    /// Whether more follow the last of them.
    pub more: bool,
}

/// The schema that stands, against what this version needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaState {
    /// The newest migration that stands; `None`: no schema.
    pub installed: Option<i64>,
    /// The newest migration that this version knows.
    pub expected: i64,
}

impl SchemaState {
    /// Whether this version can serve from it. A newer schema serves too: migrations are written so that the version before can go on.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.installed.is_some_and(|installed| installed >= self.expected)
    }

    /// The error of a schema that this version cannot serve from.
    pub(crate) fn refusal(&self) -> LedgerError {
        let stands = self.installed.map_or("none".to_owned(), |version| version.to_string());
        let expected = self.expected;
        LedgerError::Schema(format!(
            "{stands} stands, {expected} is needed: run `segment-counter migrate`"
        ))
    }
}
