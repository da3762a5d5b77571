//! What `segment-counter` does when it is called: serve, migrate, archive, refresh, move-segment. Each returns its exit code; what it says to people
//! goes to standard output (results) and standard error (progress and why it failed).

mod jobs;
mod migrate;
mod moving;
mod open;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use crate::runtime::config::{Command, StartError, Started, start};
use crate::runtime::telemetry;

/// The exit code of a wrong configuration, as of a wrong flag.
const CONFIGURATION_WRONG: u8 = 2;

/// The whole program: arguments, environment, command, exit code.
#[must_use]
pub fn main() -> ExitCode {
    // A variable that is no text is none of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let started = match start(std::env::args_os(), environment) {
        Ok(started) => started,
        // Help and version go to standard output and are no failures; clap knows.
        Err(StartError::CommandLine(error)) => error.exit(),
        Err(StartError::Config(error)) => {
            fail(&error.to_string());
            return ExitCode::from(CONFIGURATION_WRONG);
        }
    };
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(started)),
        Err(error) => fail(&format!("the runtime could not start: {error}")),
    }
}

async fn run(started: Started) -> ExitCode {
    let Started {
        command,
        config,
        warnings,
    } = started;
    if let Err(error) = telemetry::init(config.log_format) {
        return fail(&error.to_string());
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let done = match command {
        Command::Serve => serve::serve(config).await,
        Command::Migrate { distributed } => migrate::migrate(&config, distributed).await,
        Command::Archive => jobs::archive(&config).await,
        Command::Refresh => jobs::refresh(&config).await,
        Command::MoveSegment { segment, to_lane } => moving::move_segment(&config, &segment, to_lane).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ CommandError::Configuration(_)) => {
            fail(&error.to_string());
            ExitCode::from(CONFIGURATION_WRONG)
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Why a command did not do its work; no secret in any text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// There is no login.
    #[error(transparent)]
    Login(#[from] crate::runtime::config::LoginError),
    /// The configuration is valid, but not for this command.
    #[error("{0}")]
    Configuration(String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
    /// The Redis nodes as configured.
    #[error("redis_url {0}")]
    Redis(#[from] crate::cache::RedisConfigError),
    /// The file of the Redis nodes.
    #[error("redis_nodes_file: {0}")]
    Nodes(#[from] crate::runtime::config::NodesFileError),
    /// The tokens file.
    #[error("tokens_file: {0}")]
    Tokens(#[from] crate::api::TokensError),
    /// The service.
    #[error(transparent)]
    Service(#[from] crate::service::ServiceError),
    /// A segment that was not moved.
    #[error("{segment} was not moved: {why}")]
    Move {
        /// Its name.
        segment: String,
        /// Why.
        why: crate::ledger::MoveError,
    },
    /// A move that was broken off.
    #[error(
        "{0}: the segment lives where it was, or in the new lane if that had begun, and nothing is lost; call it again, \
         or leave it: the next archive clears away what it left"
    )]
    BrokenOff(String),
    /// An address or a signal.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// A refresh that found its counters wrong.
    #[error("the counters were off by {0}: they were mended; this must never happen, please report it")]
    Drift(i64),
}

fn fail(why: &str) -> ExitCode {
    // A closed standard error is no reason to fail otherwise than we do.
    let _ = writeln!(std::io::stderr(), "segment-counter: {why}");
    ExitCode::FAILURE
}

/// A line for people. A reader that went away ends nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
