//! What became of a pair: rules 9, 10 and 11.

/// What recording one pair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The user was not in the segment just before, and is now.
    Created,
    /// The user was in the segment, and stays longer.
    Renewed,
    /// The user was in the segment, and stays exactly as long.
    Unchanged,
    /// The pair's membership would have ended already: nothing was written but the segment itself.
    Expired,
    /// A removal that was made after the pair was observed beats it: nothing was written but the segment itself.
    Removed,
    /// The user was erased after the pair was observed: nothing was written but the segment itself.
    Erased,
    /// The pair was not taken; nothing was written.
    Refused(Refusal),
}

/// Why the ledger did not take a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// It was observed more than [`crate::counting::MAX_FUTURE_SECONDS`] ahead of the database's clock.
    #[error("is more than 5 minutes ahead of the ledger's clock")]
    ObservedInFuture,
    /// It names a new segment, and pairs may create no more of them.
    #[error(
        "is a new segment, and the limit on segments created by pairs is reached; create it by PUT /v1/segments/{{segment}}"
    )]
    SegmentLimit,
}
