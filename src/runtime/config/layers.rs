//! Where values come from: defaults ← file ← environment ← flags. Raw text here; what it means is judged once, of the merged whole.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::keys::{KEYS, Key, VARIABLE_PREFIX};
use super::{ConfigError, Problem};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default.
    Default,
    /// In the file.
    File(PathBuf),
    /// In the environment.
    Environment,
    /// On the command line.
    Flag,
}

impl Origin {
    /// How a person finds the place: `--listen`, `SEGMENT_COUNTER_LISTEN`, `listen in config.yaml`.
    pub(super) fn describe(&self, key: &str) -> String {
        match (self, Key::named(key)) {
            (Self::File(path), _) => format!("{key} in {}", path.display()),
            (Self::Environment, Some(known)) => known.variable(),
            (Self::Environment, None) => format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase()),
            (Self::Flag, _) => format!("--{}", key.replace('_', "-")),
            (Self::Default, _) => format!("{key} (default)"),
        }
    }
}

/// Raw values by key, with the layer that each came from.
#[derive(Clone, Default)]
pub struct Merged {
    values: BTreeMap<&'static str, (Origin, Vec<String>)>,
}

impl fmt::Debug for Merged {
    /// Names and places only: a value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.values.iter().map(|(key, (origin, _))| (key, origin)))
            .finish()
    }
}

impl Merged {
    /// The documented defaults.
    #[must_use]
    pub fn defaults() -> Self {
        let mut merged = Self::default();
        for key in KEYS {
            if let Some(value) = key.default {
                merged.set(key, Origin::Default, vec![value.to_owned()]);
            }
        }
        merged
    }

    /// A layer above those that stand.
    pub fn set(&mut self, key: &'static Key, origin: Origin, values: Vec<String>) {
        self.values.insert(key.name, (origin, values));
    }

    /// Where the value of `key` was given, and what it is.
    pub(super) fn get(&self, key: &str) -> Option<(&Origin, &[String])> {
        self.values.get(key).map(|(origin, values)| (origin, values.as_slice()))
    }

    /// The file's layer.
    ///
    /// # Errors
    /// It cannot be read, is no YAML mapping, or holds keys or values of a wrong kind: all of them, by name.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let origin = Origin::File(path.to_owned());
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::one("config", path.display().to_string(), format!("cannot be read: {error}"))
        })?;
        // Without snippets: the lines around a mistake may hold a password.
        let options = serde_saphyr::options! { with_snippet: false };
        let parsed: Option<BTreeMap<String, FileValue>> =
            serde_saphyr::from_str_with_options(&text, options).map_err(|error| {
                ConfigError::one(
                    "config",
                    path.display().to_string(),
                    format!("is not a YAML mapping of keys: {}", told(&error)),
                )
            })?;
        let mut problems = Vec::new();
        for (name, value) in parsed.unwrap_or_default() {
            match (Key::named(&name), value.texts()) {
                (None, _) => problems.push(unknown(name, path, &origin)),
                (Some(_), None) => {}
                (Some(key), Some(texts)) if key.many || texts.len() == 1 => self.set(key, origin.clone(), texts),
                (Some(key), Some(_)) => problems.push(Problem {
                    key: name,
                    place: origin.describe(key.name),
                    message: "is a list, and takes one value".to_owned(),
                }),
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError { problems })
        }
    }

    /// The environment's layer; an empty variable counts as unset. Returns the names that begin like ours and are none: Kubernetes makes
    /// such of a Service's name, so they are told and not refused.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
        let mut unknown = Vec::new();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            match Key::named(&rest.to_ascii_lowercase()) {
                _ if value.is_empty() => {}
                Some(key) => self.set(key, Origin::Environment, vec![value]),
                None if matches!(rest, "CONFIG" | "LOG") || is_service_link(rest) => {}
                None => unknown.push(name),
            }
        }
        unknown.sort();
        unknown
    }
}

/// What Kubernetes puts into the environment for a Service named `segment-counter-…`.
fn is_service_link(rest: &str) -> bool {
    rest.contains("SERVICE_HOST") || rest.contains("SERVICE_PORT") || rest.contains("PORT_") || rest.ends_with("PORT")
}

/// A key that is none of ours. What does not look like the name of one is not repeated: it may be a line whose value, a password, slipped into it.
fn unknown(name: String, path: &Path, origin: &Origin) -> Problem {
    if looks_like_a_name(&name) {
        return Problem {
            message: format!("is no key of the configuration{}", nearest(&name)),
            place: origin.describe(&name),
            key: name,
        };
    }
    Problem {
        key: "config".to_owned(),
        place: path.display().to_string(),
        message: "holds a key that is no name (it is not repeated here): is a blank missing behind a colon, or a quote not closed?"
            .to_owned(),
    }
}

fn looks_like_a_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(plain)
}

/// What is wrong with a file, without what stands in it but for names.
fn told(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            let which = key.as_deref().filter(|key| looks_like_a_name(key)).unwrap_or("a key");
            format!(
                "{which} is given twice, at line {}, column {}",
                location.line(),
                location.column()
            )
        }
        other => other.to_string(),
    }
}

/// A hint where a name is one or two letters off, or has dashes.
fn nearest(name: &str) -> String {
    let plain = name.replace('-', "_").to_ascii_lowercase();
    KEYS.iter()
        .map(|key| (distance(&plain, key.name), key.name))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, key)| format!("; do you mean {key}?"))
        .unwrap_or_default()
}

/// Levenshtein's distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A value as YAML gives it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum FileValue {
    One(Scalar),
    Many(Vec<Scalar>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Null(()),
    Number(i64),
    Text(String),
}

impl FileValue {
    /// `None`: null, which says nothing.
    fn texts(self) -> Option<Vec<String>> {
        let text = |scalar| match scalar {
            Scalar::Null(()) => None,
            Scalar::Number(number) => Some(number.to_string()),
            Scalar::Text(text) => Some(text),
        };
        match self {
            Self::One(scalar) => text(scalar).map(|text| vec![text]),
            Self::Many(scalars) => Some(scalars.into_iter().filter_map(text).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Merged, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        let mut merged = Merged::defaults();
        merged.file(&path).map(|()| merged)
    }

    #[test]
    fn a_file_overrides_defaults_and_may_hold_lists_numbers_and_nothing() {
        let merged = file(
            "window_seconds: 60\nredis_url: [redis://a:1, redis://b:2]\ntokens_file: null\nlisten: \"[::1]:80\"\n",
        )
        .unwrap();
        assert_eq!(merged.get("window_seconds").unwrap().1, ["60"]);
        assert_eq!(merged.get("redis_url").unwrap().1, ["redis://a:1", "redis://b:2"]);
        assert_eq!(merged.get("listen").unwrap().1, ["[::1]:80"]);
        assert!(merged.get("tokens_file").is_none());
        assert!(file("").is_ok());
        assert!(file("# nothing\n").is_ok());
    }

    #[test]
    fn every_unknown_key_of_a_file_is_named_at_once() {
        let error = file("windw_seconds: 60\nmax-staleness-ms: 1\ncolour: red\nlisten: [a, b]\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("windw_seconds in"), "{error}");
        assert!(error.contains("do you mean window_seconds?"), "{error}");
        assert!(error.contains("do you mean max_staleness_ms?"), "{error}");
        assert!(error.contains("colour in"), "{error}");
        assert!(error.contains("is a list, and takes one value"), "{error}");
    }

    #[test]
    fn a_broken_file_is_refused_without_repeating_what_it_holds() {
        for text in [
            "database_url: \"postgres://u:hunter2@h/d",
            "- hunter2",
            "database_url: {a: hunter2}",
            "a: 1\na: hunter2",
        ] {
            let error = file(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("config.yaml"), "{error}");
        }
    }

    #[test]
    fn an_empty_variable_is_unset_and_an_unknown_one_is_told() {
        let mut merged = Merged::defaults();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let unknown = merged.environment([
            variable("SEGMENT_COUNTER_LISTEN", ""),
            variable("SEGMENT_COUNTER_REDIS_URL", "redis://a:1"),
            variable("SEGMENT_COUNTER_LISSEN", "x"),
            variable("SEGMENT_COUNTER_API_SERVICE_HOST", "10.0.0.1"),
            variable("SEGMENT_COUNTER_API_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            variable("PATH", "/bin"),
        ]);
        assert_eq!(unknown, ["SEGMENT_COUNTER_LISSEN"]);
        assert_eq!(
            merged.get("listen").unwrap(),
            (&Origin::Default, &["127.0.0.1:8080".to_owned()][..])
        );
        assert_eq!(merged.get("redis_url").unwrap().0, &Origin::Environment);
    }
}
