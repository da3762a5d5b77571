//! Which ledger a URL means, and how it is opened.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;

use super::{LedgerError, PostgresLedger, PostgresOptions, Settings, SharedLedger, SqliteLedger};

/// Where a ledger is.
// A process has a handful of these: a box would save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum Location {
    /// In the memory of this process: gone with it.
    Memory,
    /// In a SQLite file.
    File(PathBuf),
    /// In a PostgreSQL database.
    Postgres(PostgresOptions),
}

/// Why a database's URL is refused; holds nothing of the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// No scheme that is known.
    #[error("must begin with postgres://, sqlite:// or be sqlite::memory:")]
    Scheme,
    /// `sqlite://` without a path.
    #[error("names no file: write sqlite://path/to/file.db")]
    NoFile,
    /// A URL of PostgreSQL that cannot be read.
    #[error("is no valid PostgreSQL URL: postgres://user@host:5432/database")]
    Postgres,
    /// The schema's name.
    #[error("{0}")]
    Schema(String),
}

impl Location {
    /// Reads `postgres://…`, `sqlite://path` or `sqlite::memory:`. `password` beats the one in the URL.
    ///
    /// # Errors
    /// [`LocationError`]
    pub fn parse(url: &str, password: Option<&str>, schema: &str, max_connections: u32) -> Result<Self, LocationError> {
        if url == "sqlite::memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = url.strip_prefix("sqlite://") {
            return if path.is_empty() {
                Err(LocationError::NoFile)
            } else {
                Ok(Self::File(PathBuf::from(path)))
            };
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(LocationError::Scheme);
        }
        let mut connect = PgConnectOptions::from_str(url).map_err(|_| LocationError::Postgres)?;
        if let Some(password) = password {
            connect = connect.password(password);
        }
        PostgresOptions::new(connect, schema, max_connections)
            .map(Self::Postgres)
            .map_err(|error| LocationError::Schema(error.to_string()))
    }
}

/// Opens a ledger; connects at the first use.
///
/// # Errors
/// [`LedgerError`] where the options cannot be used.
pub fn open(location: &Location, settings: Settings) -> Result<SharedLedger, LedgerError> {
    Ok(match location {
        Location::Memory => Arc::new(SqliteLedger::open(None, settings)),
        Location::File(path) => Arc::new(SqliteLedger::open(Some(path), settings)),
        Location::Postgres(options) => Arc::new(PostgresLedger::open(options, settings)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_which_ledger() {
        let parse = |url: &str| Location::parse(url, None, "segment_counter", 10);
        assert!(matches!(parse("sqlite::memory:"), Ok(Location::Memory)));
        assert!(matches!(parse("sqlite://a/b.db"), Ok(Location::File(path)) if path.ends_with("a/b.db")));
        assert!(matches!(parse("postgres://u@h/d"), Ok(Location::Postgres(_))));
        assert_eq!(parse("sqlite://").unwrap_err(), LocationError::NoFile);
        assert_eq!(parse("mysql://h/d").unwrap_err(), LocationError::Scheme);
        assert!(matches!(
            Location::parse("postgres://u@h/d", None, "Bad;Name", 1),
            Err(LocationError::Schema(why)) if why.contains("lower-case")
        ));
    }

    #[test]
    fn no_password_is_ever_printed() {
        let location = Location::parse("postgres://u:hunter2@h/d", Some("s3cret"), "s", 1).unwrap();
        let printed = format!("{location:?}");
        assert!(!printed.contains("hunter2") && !printed.contains("s3cret"), "{printed}");
    }
}
