//! What goes into a cache and what comes out of it.

use std::time::Duration;

use jiff::Timestamp;

use crate::counting::SegmentId;

/// A value that a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// The count.
    pub members: i64,
    /// The instant at which it was exact, by the database's clock.
    pub as_of: Timestamp,
    /// An upper bound of its age: the time since the claim that it was stored under, by the cache's own clock.
    pub age: Duration,
    /// False once a writer has changed the segment since: servable inside the bound, but somebody should refresh it.
    pub fresh: bool,
}

/// The right to refresh a segment's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The segment.
    pub segment: SegmentId,
    /// A random token; the value is stored only if this very one still stands.
    pub token: u64,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The value, of any age (it may be older than the bound: for serving stale when the ledger is away).
    pub value: Option<Cached>,
    /// The right to refresh, if this reader got it.
    pub claim: Option<Claim>,
}

/// How one node of a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// Host and port; no password.
    pub node: String,
    /// Why it is away, if it is; no secret.
    pub error: Option<CacheError>,
}

/// Why a cache did not answer; no secret in any text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// No connection could be made, it broke, or its circuit is open.
    #[error("the cache cannot be reached: {0}")]
    Unreachable(String),
    /// The password is wrong or missing.
    #[error("the cache refused the login: {0}")]
    AuthenticationFailed(String),
    /// It took too long.
    #[error("the cache took too long: {0}")]
    Timeout(String),
    /// Anything else.
    #[error("the cache failed: {0}")]
    Internal(String),
}
