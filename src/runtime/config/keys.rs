//! Every key of the configuration, once: its name, its default, what it says in `--help`, in the file and in the environment.

/// What a key belongs to: the headings of `--help` and of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Addresses, tokens, logs, the end.
    Serving,
    /// Where the truth is.
    Database,
    /// Redis nodes.
    Cache,
    /// The rules.
    Counting,
    /// Archive and refresh.
    Maintenance,
}

impl Section {
    /// Its heading.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Serving => "Serving",
            Self::Database => "Database",
            Self::Cache => "Cache",
            Self::Counting => "Counting",
            Self::Maintenance => "Maintenance",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// `snake_case`: the key in the file; the flag and the variable follow from it.
    pub name: &'static str,
    /// What stands for the value in `--help`.
    pub value: &'static str,
    /// The value where no layer gives one.
    pub default: Option<&'static str>,
    /// Whether it may be given more than once (or with commas).
    pub many: bool,
    /// Whether its value may hold a secret, and so must not be repeated in an error.
    pub secret: bool,
    /// Where it belongs.
    pub section: Section,
    /// One sentence for people.
    pub help: &'static str,
}

impl Key {
    /// Its flag, without the dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Its variable in the environment.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// The key of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }
}

/// What every variable of ours begins with.
pub const VARIABLE_PREFIX: &str = "SEGMENT_COUNTER_";

const fn key(
    section: Section,
    name: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key {
        name,
        value,
        default,
        many: false,
        secret: false,
        section,
        help,
    }
}

/// Every key, as `--help` and the documentation list them.
pub const KEYS: &[Key] = {
    use Section::{Cache, Counting, Database, Maintenance, Serving};
    &[
        key(
            Serving,
            "listen",
            "ADDRESS:PORT",
            Some("127.0.0.1:8080"),
            "Where the API listens",
        ),
        key(
            Serving,
            "health_listen",
            "ADDRESS:PORT",
            Some("127.0.0.1:9090"),
            "Where /livez, /readyz and /metrics are",
        ),
        key(
            Serving,
            "tokens_file",
            "FILE",
            None,
            "Names, SHA-256 hashes and scopes of the tokens, in YAML; re-read when it changes. Absent: pairs and counts are open, administration is closed",
        ),
        key(
            Serving,
            "log_format",
            "text|json",
            Some("text"),
            "How a log line looks; SEGMENT_COUNTER_LOG chooses what is logged",
        ),
        key(
            Serving,
            "shutdown_grace_seconds",
            "SECONDS",
            Some("25"),
            "How long requests under way may take to end after SIGTERM",
        ),
        Key {
            secret: true,
            ..key(
                Database,
                "database_url",
                "URL",
                Some("sqlite://segment-counter.db"),
                "Where the ledger is: postgres://USER@HOST:PORT/DATABASE, sqlite://FILE or sqlite::memory:",
            )
        },
        key(
            Database,
            "database_password_file",
            "FILE",
            None,
            "The password of the database's user; read anew for new connections",
        ),
        key(
            Database,
            "database_secret_dir",
            "DIRECTORY",
            None,
            "A mounted Kubernetes Secret with the credentials of a Postgres (CloudNativePG, Service Binding, RDS, Zalando, or one uri); instead of the URL",
        ),
        key(
            Database,
            "database_schema",
            "NAME",
            Some("segment_counter"),
            "The Postgres schema that the tables are in",
        ),
        key(
            Database,
            "database_max_connections",
            "NUMBER",
            Some("10"),
            "The most Postgres connections of the pool; a job and each of at most two erasures at once hold one beside it",
        ),
        Key {
            many: true,
            secret: true,
            ..key(
                Cache,
                "redis_url",
                "URL",
                None,
                "A Redis node, redis://HOST:PORT or, with TLS, rediss://HOST:PORT; repeated or separated by commas: one for each node. Absent: counts are cached in this process's memory alone",
            )
        },
        key(
            Cache,
            "redis_nodes_file",
            "FILE",
            None,
            "The Redis nodes, a URL a line; re-read when it changes, so that nodes come and go without a restart; instead of redis_url",
        ),
        key(
            Cache,
            "redis_mode",
            "nodes|cluster",
            Some("nodes"),
            "What redis_url names: independent nodes that share the segments, or some nodes of a Redis Cluster, which tells the others",
        ),
        key(
            Cache,
            "redis_password_file",
            "FILE",
            None,
            "The password of the Redis nodes; read anew for new connections",
        ),
        key(
            Database,
            "lanes",
            "NUMBER",
            Some("1"),
            "How many lanes `migrate` provides, each a Postgres schema with some of the segments; more can be added, none is taken away",
        ),
        key(
            Cache,
            "on_cache_failure",
            "serve_from_database|fail",
            Some("serve_from_database"),
            "What a count does that the cache cannot help with: ask the database, within bounds, or fail with 503 (a strict one asks the database always)",
        ),
        key(
            Counting,
            "window_seconds",
            "SECONDS",
            Some("1209600"),
            "How long a pair lasts where neither it nor its segment says",
        ),
        key(
            Counting,
            "max_ttl_seconds",
            "SECONDS",
            None,
            "The longest window that a segment or a pair may have, and so for how long removals and erasures are remembered. Absent: a year, or window_seconds where that is longer",
        ),
        key(
            Counting,
            "resolution_seconds",
            "SECONDS",
            Some("60"),
            "The grain at which users leave",
        ),
        key(
            Counting,
            "max_segments_from_pairs",
            "NUMBER",
            Some("10000"),
            "How many segments pairs may create; PUT is never limited",
        ),
        key(
            Counting,
            "max_staleness_ms",
            "MILLISECONDS",
            Some("1000"),
            "How old an answer may be where the request does not say; 0 asks the ledger each time",
        ),
        key(
            Counting,
            "on_database_failure",
            "serve_stale|fail",
            Some("serve_stale"),
            "What a count does while the database is away: answer the last known one, with its age, or fail with 503",
        ),
        key(
            Counting,
            "serve_stale_seconds",
            "SECONDS",
            Some("900"),
            "How old the last known count may be that is answered while the database is away; 0 is as on_database_failure fail",
        ),
        key(
            Maintenance,
            "settle_seconds",
            "SECONDS",
            Some("600"),
            "How long a membership has ended before the archive touches it",
        ),
        key(
            Maintenance,
            "batch_size",
            "NUMBER",
            Some("10000"),
            "About how many memberships the archive moves at a time, up to four times as many where they lie densest; in a table that is full of such it commits each thousand",
        ),
        key(
            Maintenance,
            "keep_days",
            "DAYS",
            Some("365"),
            "How long the archive keeps history",
        ),
        key(
            Maintenance,
            "timeout_seconds",
            "SECONDS",
            None,
            "How long one run of archive (3600 where nothing is said), refresh (240) or move-segment (no limit) may take",
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    #[test]
    fn every_key_has_a_name_of_its_own_and_a_variable() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        let key = Key::named("max_staleness_ms").unwrap();
        assert_eq!(
            (key.flag().as_str(), key.variable().as_str()),
            ("max-staleness-ms", "SEGMENT_COUNTER_MAX_STALENESS_MS")
        );
    }

    /// The tables of docs/configuration.md, from the keys themselves.
    fn documentation() -> String {
        let mut text = String::new();
        let sections: BTreeSet<_> = KEYS.iter().map(|key| key.section).collect();
        for section in sections {
            let _ = write!(
                text,
                "\n### {}\n\n| key | default | what it does |\n|---|---|---|\n",
                section.heading()
            );
            for key in KEYS.iter().filter(|key| key.section == section) {
                let default = key.default.map_or("none".to_owned(), |value| format!("`{value}`"));
                let _ = writeln!(
                    text,
                    "| `{}` | {default} | {} |",
                    key.name,
                    key.help.replace('|', "\\|")
                );
            }
        }
        text
    }

    #[test]
    fn every_key_is_documented_as_it_is() {
        const BEGIN: &str = "<!-- keys: generated, UPDATE=1 cargo test --lib config -->\n";
        const END: &str = "\n<!-- end of keys -->\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (head, rest) = page.split_once(BEGIN).unwrap();
        let (_, tail) = rest.split_once(END).unwrap();
        let wanted = format!("{head}{BEGIN}{}{END}{tail}", documentation());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, wanted).unwrap();
        } else {
            assert!(
                page == wanted,
                "docs/configuration.md is not what the keys say: run UPDATE=1 cargo test --lib config"
            );
        }
    }
}
