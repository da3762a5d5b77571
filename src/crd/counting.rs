//! `spec.counting`: the rules of counting that a user may choose.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// How long a pair counts, how finely it expires and how old an answer may be.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::WINDOW_BUCKETS, validation = rules::RESOLUTION_WITHIN_WINDOW, validation = rules::WINDOW_WITHIN_MAX_TTL)]
pub struct Counting {
    /// How long a user stays in a segment after a pair, in seconds, unless the segment or the pair has its own window. A change
    /// holds for pairs from then on.
    #[serde(default = "window_seconds")]
    #[schemars(range(min = 1, max = 1_000_000_000_i64))]
    pub window_seconds: i64,

    /// The longest window that a segment or a pair may have, in seconds, and so for how long removals and erasures are remembered. Unset: a
    /// year, or windowSeconds where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_i64))]
    pub max_ttl_seconds: Option<i64>,

    /// The grain of expiry, in seconds: nobody stays longer than this beyond the window, and nobody leaves early.
    #[serde(default = "resolution_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub resolution_seconds: i64,

    /// How old an answer may be, in milliseconds; 0 asks the ledger every time.
    #[serde(default = "max_staleness_milliseconds")]
    #[schemars(range(min = 0, max = 60_000))]
    pub max_staleness_milliseconds: i64,
}

impl Default for Counting {
    fn default() -> Self {
        Self {
            window_seconds: window_seconds(),
            max_ttl_seconds: None,
            resolution_seconds: resolution_seconds(),
            max_staleness_milliseconds: max_staleness_milliseconds(),
        }
    }
}

fn window_seconds() -> i64 {
    1_209_600
}

fn resolution_seconds() -> i64 {
    60
}

fn max_staleness_milliseconds() -> i64 {
    1_000
}
