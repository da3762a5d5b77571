//! Why a ledger did not answer. The classes are what readiness, the API and the operator's conditions need to tell apart; the text inside
//! is for logs and operators, never for a client, and holds no secret.

/// Why a ledger did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No connection could be made, or it broke.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// The user or the password is wrong.
    #[error("the database refused the login: {0}")]
    AuthenticationFailed(String),
    /// TLS was demanded and could not be had or trusted.
    #[error("the database's TLS is not trusted: {0}")]
    TlsUntrusted(String),
    /// The role may not do what the ledger needs.
    #[error("the database role lacks a privilege: {0}")]
    MissingPrivilege(String),
    /// A standby, or `default_transaction_read_only`.
    #[error("the database is read-only: {0}")]
    ReadOnly(String),
    /// Older than what the ledger needs, or with an encoding that cannot hold every name.
    #[error("the database is not supported: {0}")]
    UnsupportedVersion(String),
    /// The database would acknowledge what a crash can lose.
    #[error("the database is not durable: {0}")]
    NotDurable(String),
    /// The schema is absent, older or newer than this version needs.
    #[error("the schema is not this version's: {0}")]
    Schema(String),
    /// It took longer than the statement's limit, or no connection came free.
    #[error("the database took too long: {0}")]
    Timeout(String),
    /// Anything else; a defect or a database in trouble.
    #[error("the database failed: {0}")]
    Internal(String),
}

impl LedgerError {
    /// Whether the same call may go through a moment later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::ReadOnly(_) | Self::Timeout(_))
    }

    /// A short stable word for metrics and status.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::AuthenticationFailed(_) => "authentication_failed",
            Self::TlsUntrusted(_) => "tls_untrusted",
            Self::MissingPrivilege(_) => "missing_privilege",
            Self::ReadOnly(_) => "read_only",
            Self::UnsupportedVersion(_) => "unsupported_version",
            Self::NotDurable(_) => "not_durable",
            Self::Schema(_) => "schema",
            Self::Timeout(_) => "timeout",
            Self::Internal(_) => "internal",
        }
    }
}
