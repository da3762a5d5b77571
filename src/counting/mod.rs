//! The rules of counting: what a name, a window, a pair and its outcome are, and when a membership ends.
//!
//! Pure: nothing here reads a clock, a socket or a file. The instant always comes from the ledger's database.

mod expiry;
mod name;
mod outcome;
mod pair;

pub use expiry::{
    DEFAULT_MAX_TTL_SECONDS, DEFAULT_RESOLUTION_SECONDS, DEFAULT_WINDOW_SECONDS, MAX_BUCKETS, MAX_FUTURE_SECONDS,
    MAX_RESOLUTION_SECONDS, MAX_WINDOW_SECONDS, Resolution, RuleError, Rules, Window, expires_at, is_member,
    is_too_far_ahead,
};
pub use name::{MAX_NAME_BYTES, NameError, SegmentId, SegmentName, UserId};
pub use outcome::{Outcome, Refusal};
pub use pair::{Pair, Removal};
