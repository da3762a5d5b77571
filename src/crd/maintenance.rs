//! `spec.maintenance`: the jobs that keep the ledger small and prove its counters. No answer depends on them.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// The jobs that keep the ledger small and prove its counters.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Moves memberships that ended into the history, and drops history that is too old.
    #[serde(default)]
    pub archive: Archive,

    /// Recounts every segment and compares.
    #[serde(default)]
    pub refresh: Refresh,
}

/// Moves memberships that ended into the history, and drops history that is too old.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::STALE_AFTER_TIMEOUT)]
pub struct Archive {
    /// When, as a cron schedule.
    #[serde(default = "archive_schedule")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = rules::SCHEDULE)]
    pub schedule: String,

    /// Time zone of the schedule.
    #[serde(default = "time_zone")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::TIME_ZONE)]
    pub time_zone: String,

    /// About how many rows are moved at a time; up to four times as many where they lie densest.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_size: i32,

    /// How long ago, in seconds, a membership must have ended before it is moved. Statements of the API may take a tenth of it.
    #[serde(default = "settle_seconds")]
    #[schemars(range(min = 10, max = 86_400))]
    pub settle_seconds: i32,

    /// How long one run may take, in seconds.
    #[serde(default = "archive_timeout_seconds")]
    #[schemars(range(min = 60, max = 86_400))]
    pub timeout_seconds: i32,

    /// How long history is kept, in days.
    #[serde(default = "keep_days")]
    #[schemars(range(min = 1, max = 36_500))]
    pub keep_days: i32,

    /// Age of the last success, in seconds, beyond which ArchiveCurrent is False.
    #[serde(default = "archive_stale_after_seconds")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub stale_after_seconds: i32,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            schedule: archive_schedule(),
            time_zone: time_zone(),
            batch_size: batch_size(),
            settle_seconds: settle_seconds(),
            timeout_seconds: archive_timeout_seconds(),
            keep_days: keep_days(),
            stale_after_seconds: archive_stale_after_seconds(),
        }
    }
}

/// Recounts every segment and compares.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::STALE_AFTER_TIMEOUT)]
pub struct Refresh {
    /// When, as a cron schedule.
    #[serde(default = "refresh_schedule")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = rules::SCHEDULE)]
    pub schedule: String,

    /// Time zone of the schedule.
    #[serde(default = "time_zone")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::TIME_ZONE)]
    pub time_zone: String,

    /// How long one run may take, in seconds; what is not recounted by then comes first in the next run.
    #[serde(default = "refresh_timeout_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub timeout_seconds: i32,

    /// Age of the last success, in seconds, beyond which CountsCurrent is False.
    #[serde(default = "refresh_stale_after_seconds")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub stale_after_seconds: i32,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            schedule: refresh_schedule(),
            time_zone: time_zone(),
            timeout_seconds: refresh_timeout_seconds(),
            stale_after_seconds: refresh_stale_after_seconds(),
        }
    }
}

fn archive_schedule() -> String {
    "15 2 * * *".to_owned()
}

fn refresh_schedule() -> String {
    "*/5 * * * *".to_owned()
}

fn time_zone() -> String {
    "Etc/UTC".to_owned()
}

fn batch_size() -> i32 {
    10_000
}

fn settle_seconds() -> i32 {
    600
}

fn archive_timeout_seconds() -> i32 {
    3_600
}

fn refresh_timeout_seconds() -> i32 {
    240
}

fn keep_days() -> i32 {
    365
}

fn archive_stale_after_seconds() -> i32 {
    172_800
}

fn refresh_stale_after_seconds() -> i32 {
    900
}
