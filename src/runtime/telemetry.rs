//! Where log lines go and how they look. Always to standard error: standard output belongs to what a command prints as its result.
//!
//! No secret may reach a line: what holds one is a [`super::secrets::Secret`], which does not print.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that chooses what is logged (`info`, `segment_counter=debug,sqlx=warn`, …); `RUST_LOG` is read where it is unset.
pub const FILTER_VARIABLE: &str = "SEGMENT_COUNTER_LOG";

/// What is logged where nothing is chosen: our own lines, and only the warnings of libraries.
const DEFAULT_FILTER: &str = "warn,segment_counter=info,segment_counter_operator=info";

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is neither text nor json".to_owned()),
        }
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("{FILTER_VARIABLE} (or RUST_LOG) is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// It was started before, in this process.
    #[error("telemetry is already running: {0}")]
    Running(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`TelemetryError`]
pub fn init(format: LogFormat) -> Result<(), TelemetryError> {
    let chosen = [FILTER_VARIABLE, "RUST_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let filter = EnvFilter::builder().parse(chosen.as_deref().unwrap_or(DEFAULT_FILTER))?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init()?,
        LogFormat::Json => registry
            .with(
                lines
                    .with_ansi(false)
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_span_list(false),
            )
            .try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_format_is_text_or_json() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().unwrap_err().contains("neither"));
    }
}
