//! How to log in to a Postgres, read from the keys of a Secret in the forms that are in use.
//!
//! CloudNativePG, Service Binding and RDS write a key for each part, most of them a `uri` too; the names differ. The operator
//! parses the Secret's data, the service the same keys as files, both with [`PostgresCredentials::parse`]: what the operator
//! accepts, the service accepts. Pure: no I/O here, and nothing of a Secret's values ever enters an error or a `Debug`.

mod uri;

use std::{collections::BTreeMap, fmt, str::FromStr};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use uri::Uri;

/// The accepted names of each part, the usual one first.
const HOST: &[&str] = &["host", "hostname"];
const PORT: &[&str] = &["port"];
const DATABASE: &[&str] = &["dbname", "database", "db"];
const USER: &[&str] = &["username", "user"];
const PASSWORD: &[&str] = &["password"];
const URI: &[&str] = &["uri"];
const SSL_MODE: &[&str] = &["sslmode"];

const DEFAULT_PORT: u16 = 5432;

/// A password that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The password itself, for the moment of logging in.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Everything that a login needs. No part is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresCredentials {
    /// A host name or an address, without brackets.
    pub host: String,
    /// The TCP port; 5432 where the Secret names none.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// The role's password.
    pub password: Password,
    /// How much TLS is asked for: the Secret's `sslmode` (a key, or in its `uri`), else `prefer`.
    pub ssl_mode: SslMode,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Why a Secret cannot be used. Names keys, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Neither one of the keys nor the `uri` gives this part.
    #[error("no key {} (nor a uri that holds it)", accepted.join(" or "))]
    Missing {
        /// The names under which it would have been found.
        accepted: &'static [&'static str],
    },
    /// The key is there, but what it holds cannot be used.
    #[error("key {key} {why}")]
    Unusable {
        /// The key as the Secret spells it.
        key: String,
        /// What is wrong, without the value.
        why: &'static str,
    },
}

impl PostgresCredentials {
    /// Reads a Secret's keys. A part's own key wins over the same part of the `uri`; one line end after a value is not part of
    /// it (files made by `echo` end in one).
    ///
    /// # Errors
    /// [`CredentialsError`] names the first part that is missing or cannot be used.
    pub fn parse(keys: &BTreeMap<String, Vec<u8>>) -> Result<Self, CredentialsError> {
        let uri = match find(keys, URI)? {
            Some((key, value)) => Uri::parse(value).map_err(|why| unusable(key, why))?,
            None => Uri::default(),
        };
        let port = match find(keys, PORT)? {
            Some((key, value)) => value.parse().map_err(|_| unusable(key, "is not a port number"))?,
            None => uri.port.unwrap_or(DEFAULT_PORT),
        };
        let ssl_mode = match find(keys, SSL_MODE)? {
            Some((key, value)) => value.parse().map_err(|why| unusable(key, why))?,
            None => uri.ssl_mode.unwrap_or(SslMode::Prefer),
        };
        let host = part(keys, HOST, uri.host)?;
        if host.contains([',', '/', '@']) {
            return Err(unusable("host", "is not one host"));
        }
        Ok(Self {
            host,
            port,
            database: part(keys, DATABASE, uri.database)?,
            user: part(keys, USER, uri.user)?,
            password: Password(part(keys, PASSWORD, uri.password)?),
            ssl_mode,
        })
    }

    /// The same as options of the driver. Neither the environment nor a `.pgpass` has a say.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.user)
            .password(self.password.expose())
            .ssl_mode(self.ssl_mode.into())
    }
}

impl FromStr for SslMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return Err("names an sslmode that does not exist"),
        })
    }
}

impl From<SslMode> for PgSslMode {
    fn from(mode: SslMode) -> Self {
        match mode {
            SslMode::Disable => Self::Disable,
            SslMode::Allow => Self::Allow,
            SslMode::Prefer => Self::Prefer,
            SslMode::Require => Self::Require,
            SslMode::VerifyCa => Self::VerifyCa,
            SslMode::VerifyFull => Self::VerifyFull,
        }
    }
}

fn part(
    keys: &BTreeMap<String, Vec<u8>>,
    accepted: &'static [&'static str],
    from_uri: Option<String>,
) -> Result<String, CredentialsError> {
    match find(keys, accepted)? {
        Some((_, value)) => Ok(value.to_owned()),
        None => from_uri.ok_or(CredentialsError::Missing { accepted }),
    }
}

/// The first of these keys that holds something.
fn find<'a>(
    keys: &'a BTreeMap<String, Vec<u8>>,
    accepted: &'static [&'static str],
) -> Result<Option<(&'static str, &'a str)>, CredentialsError> {
    for key in accepted {
        let Some(bytes) = keys.get(*key) else { continue };
        let text = std::str::from_utf8(bytes).map_err(|_| unusable(key, "is not UTF-8"))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.contains('\0') {
            return Err(unusable(key, "holds a NUL"));
        }
        if !text.is_empty() {
            return Ok(Some((key, text)));
        }
    }
    Ok(None)
}

fn unusable(key: &str, why: &'static str) -> CredentialsError {
    CredentialsError::Unusable {
        key: key.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
            .collect()
    }

    fn expected() -> PostgresCredentials {
        PostgresCredentials {
            host: "pg-rw".into(),
            port: 5433,
            database: "app".into(),
            user: "ann".into(),
            password: Password("p@ss/w:rd".into()),
            ssl_mode: SslMode::Prefer,
        }
    }

    #[test]
    fn every_form_in_use_gives_the_same_login() {
        let forms: &[&[(&str, &str)]] = &[
            // CloudNativePG
            &[
                ("host", "pg-rw"),
                ("port", "5433"),
                ("dbname", "app"),
                ("user", "ann"),
                ("username", "ann"),
                ("password", "p@ss/w:rd"),
                ("uri", "postgresql://ann:p%40ss%2Fw%3Ard@pg-rw:5433/app"),
                ("pgpass", "pg-rw:5433:app:ann:p@ss/w\\:rd\n"),
                ("jdbc-uri", "jdbc:postgresql://pg-rw:5433/app?password=x&user=ann"),
            ],
            // Service Binding
            &[
                ("type", "postgresql"),
                ("provider", "x"),
                ("host", "pg-rw"),
                ("port", "5433"),
                ("database", "app"),
                ("username", "ann"),
                ("password", "p@ss/w:rd"),
            ],
            // RDS
            &[
                ("engine", "postgres"),
                ("hostname", "pg-rw"),
                ("port", "5433"),
                ("db", "app"),
                ("user", "ann"),
                ("password", "p@ss/w:rd"),
            ],
            // one uri, as a file made by echo
            &[("uri", "postgres://ann:p%40ss%2Fw%3Ard@pg-rw:5433/app\n")],
            // Zalando writes no address: the uri gives it
            &[
                ("username", "ann"),
                ("password", "p@ss/w:rd"),
                ("uri", "postgres://pg-rw:5433/app"),
            ],
        ];
        for form in forms {
            assert_eq!(PostgresCredentials::parse(&keys(form)), Ok(expected()), "{form:?}");
        }
    }

    #[test]
    fn a_missing_part_is_named_by_all_its_accepted_keys() {
        let whole = [("host", "h"), ("dbname", "d"), ("user", "u"), ("password", "p")];
        for (gone, message) in [
            ("host", "no key host or hostname (nor a uri that holds it)"),
            ("dbname", "no key dbname or database or db (nor a uri that holds it)"),
            ("user", "no key username or user (nor a uri that holds it)"),
            ("password", "no key password (nor a uri that holds it)"),
        ] {
            let rest: Vec<_> = whole.into_iter().filter(|(k, _)| *k != gone).collect();
            assert_eq!(
                PostgresCredentials::parse(&keys(&rest)).unwrap_err().to_string(),
                message
            );
        }
        assert_eq!(PostgresCredentials::parse(&keys(&whole)).unwrap().port, 5432);
    }

    #[test]
    fn what_cannot_be_used_is_named_without_its_value() {
        let base = [("host", "h"), ("dbname", "d"), ("user", "u"), ("password", "hunter2")];
        for (key, value, message) in [
            ("port", "hunter2", "key port is not a port number"),
            ("port", "70000", "key port is not a port number"),
            ("uri", "mysql://hunter2", "key uri does not begin with postgresql://"),
            ("uri", "postgres://u:%zz@h/d", "key uri has a broken percent-encoding"),
            ("uri", "postgres://u:p@h:x/d", "key uri has a port that is not a number"),
            (
                "uri",
                "postgres://u:p@[::1/d",
                "key uri has an address without its closing bracket",
            ),
            (
                "uri",
                "postgres://h/d?sslmode=hunter2",
                "key uri names an sslmode that does not exist",
            ),
            ("sslmode", "hunter2", "key sslmode names an sslmode that does not exist"),
            ("host", "a,b", "key host is not one host"),
            ("password", "hunter2\0", "key password holds a NUL"),
        ] {
            let mut all = keys(&base);
            all.insert(key.into(), value.as_bytes().to_vec());
            let error = PostgresCredentials::parse(&all).unwrap_err().to_string();
            assert_eq!(error, message);
            assert!(!error.contains("hunter2"));
        }
        let mut all = keys(&base);
        all.insert("user".into(), vec![0xff]);
        assert_eq!(
            PostgresCredentials::parse(&all).unwrap_err().to_string(),
            "key user is not UTF-8"
        );
    }

    #[test]
    fn a_uri_may_hold_a_v6_address_and_an_sslmode() {
        let login = PostgresCredentials::parse(&keys(&[(
            "uri",
            "postgres://u:p@[fd00::1]:6/d?a=b&sslmode=verify-full",
        )]))
        .unwrap();
        assert_eq!(
            (login.host.as_str(), login.port, login.ssl_mode),
            ("fd00::1", 6, SslMode::VerifyFull)
        );
    }

    #[test]
    fn the_driver_is_given_every_part() {
        let options = expected().connect_options();
        assert_eq!(
            (
                options.get_host(),
                options.get_port(),
                options.get_username(),
                options.get_database()
            ),
            ("pg-rw", 5433, "ann", Some("app"))
        );
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Prefer));
    }

    #[test]
    fn a_password_does_not_print() {
        assert!(!format!("{:?}", expected()).contains("w:rd"));
    }
}
