//! From raw text to a configuration that cannot be wrong; every mistake is collected, none ends the judging.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::database::{Database, Login, has_password};
use super::layers::{Merged, Origin};
use super::redis::{NodesFile, RedisNodes, urls};
use super::{Config, ConfigError, Key, Problem};
use crate::counting::{Resolution, Rules, Window};
use crate::runtime::secrets::SecretFile;
use crate::runtime::telemetry::LogFormat;

/// The longest Postgres name is 63 bytes, and a lane's schema adds to it.
const MAX_SCHEMA_BYTES: usize = 48;

impl Config {
    /// Judges the merged layers; the texts returned beside the configuration are warnings for the start.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn judge(merged: &Merged) -> Result<(Self, Vec<String>), ConfigError> {
        let mut judge = Judge {
            merged,
            problems: Vec::new(),
        };
        let config = judge.config();
        match (config, judge.problems.is_empty()) {
            (Some(config), true) => Ok((config, warnings(merged))),
            _ => Err(ConfigError {
                problems: judge.problems,
            }),
        }
    }
}

struct Judge<'a> {
    merged: &'a Merged,
    problems: Vec<Problem>,
}

impl Judge<'_> {
    fn config(&mut self) -> Option<Config> {
        let listen = self.one("listen", address);
        let health_listen = self.one("health_listen", address);
        if let (Some(api), Some(health)) = (listen, health_listen)
            && api == health
            && api.port() != 0
        {
            self.problem(
                "health_listen",
                "is the address of listen too: health has a port of its own".to_owned(),
            );
        }
        let database = self.database();
        let redis = self.redis();
        let redis_password_file = self.optional("redis_password_file", path).map(SecretFile::new);
        let rules = self.rules();
        let max_staleness = self.one("max_staleness_ms", |text| number(text, 0, 60_000));
        let serve_stale = self.one("serve_stale_seconds", |text| number(text, 0, 604_800));
        let stale_allowed = self.one("on_database_failure", |text| {
            choice(text, [("serve_stale", true), ("fail", false)])
        });
        let cache_required = self.one("on_cache_failure", |text| {
            choice(text, [("serve_from_database", false), ("fail", true)])
        });
        let settle = self.one("settle_seconds", |text| number(text, 10, 86_400));
        let lanes = self.one("lanes", |text| number(text, 1, 1_000));
        let max_segments = self.one("max_segments_from_pairs", |text| number(text, 0, 1_000_000_000));
        let tokens_file = self.optional("tokens_file", path);
        let log_format = self.one("log_format", LogFormat::from_str);
        let shutdown_grace = self.one("shutdown_grace_seconds", |text| number(text, 1, 3_600));
        let batch_size = self.one("batch_size", |text| number(text, 1, 100_000));
        let keep_days = self.one("keep_days", |text| number(text, 1, 36_500));
        let timeout = self.optional("timeout_seconds", |text| number(text, 1, 86_400));
        Some(Config {
            listen: listen?,
            health_listen: health_listen?,
            database: database?,
            redis: redis?,
            redis_password_file,
            rules: rules?,
            max_staleness: Duration::from_millis(max_staleness?),
            serve_stale: Some(Duration::from_secs(serve_stale?))
                .filter(|limit| !limit.is_zero() && stale_allowed == Some(true)),
            cache_required: cache_required?,
            settle: Duration::from_secs(settle?),
            max_segments_from_pairs: max_segments?,
            lanes: lanes?,
            tokens_file,
            log_format: log_format?,
            shutdown_grace: Duration::from_secs(shutdown_grace?),
            batch_size: u32::try_from(batch_size?).ok()?,
            keep_days: u32::try_from(keep_days?).ok()?,
            timeout: timeout.map(Duration::from_secs),
        })
    }

    fn database(&mut self) -> Option<Database> {
        let password_file = self.optional("database_password_file", path).map(SecretFile::new);
        let secret_dir = self.optional("database_secret_dir", path);
        let schema = self.one("database_schema", schema);
        let max_connections = self.one("database_max_connections", |text| number(text, 1, 1_000));
        let url_given = self
            .merged
            .get("database_url")
            .is_some_and(|(origin, _)| *origin != Origin::Default);
        if let Some(dir) = secret_dir {
            if url_given {
                self.problem(
                    "database_secret_dir",
                    "is given beside database_url: one of the two".to_owned(),
                );
            }
            if password_file.is_some() {
                self.problem(
                    "database_password_file",
                    "is given beside database_secret_dir, which holds the password".to_owned(),
                );
            }
            let login = Login::SecretDir(dir);
            return self.postgres(login, schema, max_connections);
        }
        match self.one("database_url", Database::from_url)? {
            Database::Postgres(found) => {
                let Login::Url { url, .. } = found.login else {
                    return None;
                };
                self.postgres(Login::Url { url, password_file }, schema, max_connections)
            }
            embedded => {
                if password_file.is_some() {
                    self.problem(
                        "database_password_file",
                        "is given, and an embedded database has no password".to_owned(),
                    );
                }
                Some(embedded)
            }
        }
    }

    fn postgres(&self, login: Login, schema: Option<String>, max_connections: Option<u64>) -> Option<Database> {
        Some(Database::Postgres(super::Postgres {
            login,
            schema: schema?,
            max_connections: u32::try_from(max_connections?).ok()?,
        }))
    }

    fn redis(&mut self) -> Option<RedisNodes> {
        let file = self.optional("redis_nodes_file", path).map(NodesFile::new);
        let cluster = self.one("redis_mode", |text| match text {
            "nodes" => Ok(false),
            "cluster" => Ok(true),
            other => Err(format!("is {}: nodes or cluster", shown(other))),
        })?;
        let given = self.merged.get("redis_url").map(|(_, values)| values.to_vec());
        let given = given.filter(|values| values.iter().any(|value| !value.trim().is_empty()));
        let urls = match given.as_deref().map(urls).transpose() {
            Ok(urls) => urls,
            Err(problems) => {
                for problem in problems {
                    self.problem("redis_url", problem);
                }
                return None;
            }
        };
        match (file, urls, cluster) {
            (Some(_), Some(_), _) => {
                self.problem(
                    "redis_nodes_file",
                    "is given beside redis_url: one of the two".to_owned(),
                );
                None
            }
            (Some(_), None, true) => {
                let message =
                    "is for independent nodes, and a Redis Cluster tells its nodes itself: name some in redis_url";
                self.problem("redis_nodes_file", message.to_owned());
                None
            }
            (None, None, true) => {
                let message = "is cluster, and redis_url names no node of it";
                self.problem("redis_mode", message.to_owned());
                None
            }
            (Some(file), None, false) => Some(RedisNodes::File(file)),
            (None, Some(urls), true) => Some(RedisNodes::Cluster(urls)),
            (None, Some(urls), false) => Some(RedisNodes::Urls(urls)),
            (None, None, false) => Some(RedisNodes::None),
        }
    }

    fn rules(&mut self) -> Option<Rules> {
        let seconds = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| format!("is {}: not a whole number", shown(text)))
        };
        let window = self.one("window_seconds", |text| {
            Window::from_seconds(seconds(text)?).map_err(|error| error.to_string())
        });
        let resolution = self.one("resolution_seconds", |text| {
            Resolution::from_seconds(seconds(text)?).map_err(|error| error.to_string())
        });
        let max_ttl = self.optional("max_ttl_seconds", |text| {
            Window::from_seconds(seconds(text)?).map_err(|error| error.to_string())
        });
        let rules = Rules::new(window?, resolution?);
        match max_ttl.map_or(rules, |max_ttl| rules.and_then(|rules| rules.with_max_ttl(max_ttl))) {
            Ok(rules) => Some(rules),
            Err(error) => {
                self.problem("window_seconds", error.to_string());
                None
            }
        }
    }

    fn one<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let parsed = match self.merged.get(key) {
            Some((_, [value])) => parse(value.trim()),
            Some((_, _)) => Err("is given more than once".to_owned()),
            None => Err("is not given".to_owned()),
        };
        match parsed {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
    }

    fn optional<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.merged.get(key)?;
        self.one(key, parse)
    }

    fn problem(&mut self, key: &str, message: String) {
        let place = self
            .merged
            .get(key)
            .map_or_else(|| key.to_owned(), |(origin, _)| origin.describe(key));
        self.problems.push(Problem {
            key: key.to_owned(),
            place,
            message,
        });
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "is {}: not ADDRESS:PORT such as 127.0.0.1:8080 or [::]:8080",
            shown(text)
        )
    })
}

#[allow(clippy::unnecessary_wraps, reason = "one shape for every key")]
fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("is {}: a whole number from {least} to {most}", shown(text))),
    }
}

/// One of two words.
fn choice<T: Copy>(text: &str, words: [(&str, T); 2]) -> Result<T, String> {
    let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| format!("is {}: one of {} and {}", shown(text), words[0].0, words[1].0))
}

fn schema(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins && text.len() <= MAX_SCHEMA_BYTES && text.chars().all(fits) && !text.starts_with("pg_") {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "is {}: a schema is 1 to {MAX_SCHEMA_BYTES} lower-case letters, digits and underscores, and begins with neither a digit nor pg_",
            shown(text)
        ))
    }
}

/// A value as an error repeats it: short, and on one line. What may hold a URL, or other lines of the file that a slip made part of it, is not
/// repeated: a password may stand there.
fn shown(text: &str) -> String {
    if text.contains("://") || text.contains(char::is_whitespace) {
        return "a text with blanks or a URL in it, which is not repeated here".to_owned();
    }
    let short: String = text.chars().take(60).collect();
    format!("{short:?}{}", if short.len() < text.len() { "…" } else { "" })
}

fn warnings(merged: &Merged) -> Vec<String> {
    super::KEYS
        .iter()
        .filter(|key| key.secret)
        .filter_map(|key| merged.get(key.name).map(|(origin, values)| (key, origin, values)))
        .filter(|(_, origin, values)| **origin == Origin::Flag && values.iter().any(|value| has_password(value)))
        .map(|(key, _, _)| password_warning(key))
        .collect()
}

fn password_warning(key: &Key) -> String {
    format!(
        "a password stands in --{} on the command line, where every user of this machine can read it: use --{}",
        key.flag(),
        key.flag().replace("-url", "-password-file")
    )
}
