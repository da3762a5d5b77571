//! Where the ledger is, as the configuration says it; and how to log in, read anew each time it is asked.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::runtime::credentials::PostgresCredentials;
use crate::runtime::secret_dir;
use crate::runtime::secrets::{Secret, SecretFile};

/// The ledger's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// Embedded, in a file.
    SqliteFile(PathBuf),
    /// Embedded, in memory: gone with the process.
    SqliteMemory,
    /// PostgreSQL.
    Postgres(Postgres),
}

impl Database {
    /// Reads a URL. Its text may hold a password, so no error repeats it.
    pub(super) fn from_url(url: &str) -> Result<Self, String> {
        if let Some(rest) = url.strip_prefix("sqlite:") {
            return match rest.strip_prefix("//").unwrap_or(rest) {
                ":memory:" => Ok(Self::SqliteMemory),
                "" => Err("names no file: sqlite://FILE or sqlite::memory:".to_owned()),
                file if file.contains('?') => {
                    Err("has parameters, and an embedded database takes none: sqlite://FILE".to_owned())
                }
                file => Ok(Self::SqliteFile(PathBuf::from(file))),
            };
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            // Its error may repeat a part of the URL, and so of a password.
            PgConnectOptions::from_str(url)
                .map_err(|_| "is not a Postgres URL: postgres://USER@HOST:PORT/DATABASE".to_owned())?;
            return Ok(Self::Postgres(Postgres {
                login: Login::Url {
                    url: Secret::new(url),
                    password_file: None,
                },
                schema: String::new(),
                max_connections: 0,
            }));
        }
        Err("begins with neither postgres:// nor sqlite:".to_owned())
    }
}

/// A PostgreSQL, and how many connections it may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// How to log in.
    pub login: Login,
    /// The base schema.
    pub schema: String,
    /// The most connections of this process.
    pub max_connections: u32,
}

/// Where the login comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A URL, its password perhaps in a file.
    Url {
        /// The URL; secret, since it may hold the password.
        url: Secret,
        /// The file of the password; it wins over the URL's.
        password_file: Option<SecretFile>,
    },
    /// A mounted Secret.
    SecretDir(PathBuf),
}

/// Why there is no login; no secret in any text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoginError(String);

impl Login {
    /// How to log in now: files are read anew, so a rotated password holds from the next connection on.
    ///
    /// # Errors
    /// [`LoginError`]: a file cannot be read, or lacks what a login needs.
    pub async fn connect_options(&self) -> Result<PgConnectOptions, LoginError> {
        match self {
            Self::Url { url, password_file } => {
                let options = PgConnectOptions::from_str(url.expose())
                    .map_err(|_| LoginError("the database's URL is not a Postgres URL".to_owned()))?;
                match password_file {
                    None => Ok(options),
                    Some(file) => {
                        let password = file.read().await.map_err(|error| LoginError(error.to_string()))?;
                        Ok(options.password(password.expose()))
                    }
                }
            }
            Self::SecretDir(dir) => {
                let keys = secret_dir::read(dir)
                    .await
                    .map_err(|error| LoginError(format!("{} cannot be read: {error}", dir.display())))?;
                let credentials = PostgresCredentials::parse(&keys)
                    .map_err(|error| LoginError(format!("{}: {error}", dir.display())))?;
                Ok(credentials.connect_options())
            }
        }
    }
}

/// Whether a URL carries a password.
pub(super) fn has_password(url: &str) -> bool {
    let authority = url
        .split_once("://")
        .map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    authority
        .rsplit_once('@')
        .is_some_and(|(login, _)| login.split_once(':').is_some_and(|(_, word)| !word.is_empty()))
        || url.contains("password=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_postgres_or_sqlite() {
        assert_eq!(Database::from_url("sqlite::memory:"), Ok(Database::SqliteMemory));
        assert_eq!(Database::from_url("sqlite://:memory:"), Ok(Database::SqliteMemory));
        assert_eq!(
            Database::from_url("sqlite:///data/x.db"),
            Ok(Database::SqliteFile("/data/x.db".into()))
        );
        assert_eq!(
            Database::from_url("sqlite://x.db"),
            Ok(Database::SqliteFile("x.db".into()))
        );
        assert!(matches!(
            Database::from_url("postgres://u@h/d"),
            Ok(Database::Postgres(_))
        ));
        for bad in [
            "mysql://hunter2",
            "sqlite://",
            "postgres://u:hunter2@h:port/d",
            "sqlite://f?mode=rw",
        ] {
            let error = Database::from_url(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_seen() {
        assert!(has_password("postgres://u:p@h/d"));
        assert!(has_password("redis://:p@h:6379"));
        assert!(has_password("postgres://h/d?user=u&password=p"));
        assert!(!has_password("postgres://u@h:5432/d"));
        assert!(!has_password("redis://h:6379"));
        assert!(!has_password("sqlite::memory:"));
    }
}
