//! What the process is told to be: documented defaults ← YAML file ← environment ← flags, judged as a whole.
//!
//! Every mistake is told at once, with the key's name and the place where it was given. No value of a key that may hold a secret is
//! ever repeated.

mod command;
mod database;
mod keys;
mod layers;
mod redis;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::counting::Rules;
use crate::runtime::secrets::SecretFile;
use crate::runtime::telemetry::LogFormat;

pub use command::{Command, StartError, Started, command_line, start};
pub use database::{Database, Login, LoginError, Postgres};
pub use keys::{KEYS, Key, Section, VARIABLE_PREFIX};
pub use layers::{Merged, Origin};
pub use redis::{NodesFile, NodesFileError, RedisNodes};

mod judge;

/// The whole configuration, valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where health and metrics are.
    pub health_listen: SocketAddr,
    /// Where the truth is.
    pub database: Database,
    /// Where the nodes of the cache are.
    pub redis: RedisNodes,
    /// The password of the Redis nodes.
    pub redis_password_file: Option<SecretFile>,
    /// Window and resolution.
    pub rules: Rules,
    /// How old an answer may be where the request does not say.
    pub max_staleness: Duration,
    /// How long the last known count is answered while the database is away; `None`: not at all.
    pub serve_stale: Option<Duration>,
    /// Whether counts fail while the cache is away.
    pub cache_required: bool,
    /// How long a membership has ended before the archive touches it.
    pub settle: Duration,
    /// How many lanes a migration provides.
    pub lanes: u64,
    /// How many segments pairs may create.
    pub max_segments_from_pairs: u64,
    /// The tokens.
    pub tokens_file: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How long the end may take.
    pub shutdown_grace: Duration,
    /// Memberships of one statement of the archive.
    pub batch_size: u32,
    /// How long history is kept.
    pub keep_days: u32,
    /// How long one run of a job may take, where it is said.
    pub timeout: Option<Duration>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// Where it was given: `--listen`, `SEGMENT_COUNTER_LISTEN`, `listen in config.yaml`.
    pub place: String,
    /// What is wrong, and what would be right; no secret.
    pub message: String,
}

/// Every mistake of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    fn one(key: &str, place: String, message: String) -> Self {
        Self {
            problems: vec![Problem {
                key: key.to_owned(),
                place,
                message,
            }],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "the configuration has a mistake:")?,
            many => write!(f, "the configuration has {many} mistakes:")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {} {}", problem.place, problem.message)?;
        }
        Ok(())
    }
}
