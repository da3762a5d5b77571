//! What the database drivers' errors mean to the rest of the house.

use sqlx::migrate::MigrateError;

use crate::ledger::LedgerError;

/// What a pool says that found no connection in time, whatever the reason.
pub(super) const NO_CONNECTION: &str = "no connection came free";

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                let text = database.message().to_owned();
                match database.code().as_deref() {
                    Some("28P01" | "28000") => Self::AuthenticationFailed(text),
                    Some("42501") => Self::MissingPrivilege(text),
                    Some("25006") => Self::ReadOnly(text),
                    Some("42P01" | "3F000" | "42703") => Self::Schema(text),
                    // Query cancelled by its limit, lock not available, too many clients: try again.
                    Some("57014" | "55P03" | "53300" | "40001" | "40P01") => Self::Timeout(text),
                    // A month of the history has no partition yet, since somebody reads the table for long: it is tried again within minutes.
                    Some("23514") => Self::Timeout(text),
                    // The database does not exist, or refuses connections for now (starting, stopping, in recovery).
                    Some("3D000" | "57P01" | "57P02" | "57P03") => Self::Unreachable(text),
                    // SQLite's own numbers: busy and locked; read-only; cannot open; a table that is not there.
                    Some("5" | "6" | "261" | "517") => Self::Timeout(text),
                    Some("8" | "264" | "520" | "776" | "1032") => Self::ReadOnly(text),
                    Some("14") => Self::Unreachable(text),
                    Some("1") if text.starts_with("no such table") => Self::Schema(text),
                    // Of a pooler that hands out sessions without the statements that were prepared in them.
                    Some("26000" | "42P05") => Self::UnsupportedVersion(format!(
                        "{text}: the pooler must keep track of prepared statements (PgBouncer 1.21 or newer with max_prepared_statements = 200)"
                    )),
                    Some("08P01") => of_a_pooler(text),
                    Some(code) if code.starts_with("08") => Self::Unreachable(text),
                    _ => Self::Internal(text),
                }
            }
            sqlx::Error::Io(io) => Self::Unreachable(io.to_string()),
            // A conversation that broke off in the middle, as behind a balancer whose server is away: another connection may do.
            sqlx::Error::Protocol(why) => Self::Unreachable(why.clone()),
            sqlx::Error::Tls(tls) => Self::TlsUntrusted(tls.to_string()),
            sqlx::Error::PoolTimedOut => Self::Timeout(NO_CONNECTION.to_owned()),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Unreachable(error.to_string()),
            _ => Self::Internal(error.to_string()),
        }
    }
}

/// PgBouncer has one code for all that it says itself.
fn of_a_pooler(text: String) -> LedgerError {
    if text.contains("authentication failed") || text == "no such user" {
        LedgerError::AuthenticationFailed(text)
    } else if text.starts_with("unsupported startup parameter") {
        LedgerError::UnsupportedVersion(format!(
            "{text}: the pooler must ignore the settings that sessions ask for, which the role has then \
             (PgBouncer: ignore_startup_parameters = extra_float_digits, options)"
        ))
    } else if text.starts_with("query_wait_timeout") || text.contains("connections") {
        // All of its connections are in use.
        LedgerError::Timeout(text)
    } else {
        LedgerError::Unreachable(text)
    }
}

impl From<MigrateError> for LedgerError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            other => Self::Schema(other.to_string()),
        }
    }
}
