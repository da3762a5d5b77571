//! What takes users out of segments: removals, the deletion of a segment, the erasure of a user.

use jiff::Timestamp;

use crate::counting::SegmentId;

/// What a batch of removals did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The instant at which they were recorded: whatever says that it was observed no later is beaten.
    pub at: Timestamp,
    /// One for each removal, in their order.
    pub outcomes: Vec<RemovalOutcome>,
    /// The segments whose count it changed, sorted, each once.
    pub changed: Vec<SegmentId>,
}

/// What became of one removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemovalOutcome {
    /// The user was in the segment just before, and is no longer.
    Removed,
    /// The user was not in the segment; what was observed before is beaten all the same.
    NotMember,
    /// There is no such segment, and nothing was remembered: a removal creates none.
    NoSegment,
}

/// What an erasure did: the receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Names this erasure; the user's name is in it in no form.
    pub receipt: String,
    /// When it was done (or an erasure before, where the clock has stepped back since): whatever says that it was observed no later is suppressed.
    pub erased_at: Timestamp,
    /// Until when: whatever was observed before would have ended by then.
    pub suppressed_until: Timestamp,
    /// Memberships (and marks of removals) that were deleted.
    pub memberships: i64,
    /// Rows of the history that were deleted.
    pub history: i64,
    /// The segments whose count it changed, sorted, each once.
    pub changed: Vec<SegmentId>,
}
