//! Redis: any number of nodes, each an independent cache, or a Redis Cluster.
//!
//! Of independent nodes a segment's is chosen by rendezvous hashing of its number. A node that is away costs its share of the segments a read
//! of the ledger, decided within microseconds by its circuit. Its segments do not move to other nodes: they would miss the writers' notices
//! there. Every operation is one script, atomic in the server, by the server's own clock. Keys hold numbers only: no client's text ever
//! becomes a key.

mod circuit;
mod cluster;
mod node;
mod nodes;
mod rendezvous;
mod scripts;
mod slots;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use redis::Value;

use crate::counting::SegmentId;

use super::{Cache, CacheError, Claim, Lookup, MAX_CLAIM, NodeHealth};

use cluster::Cluster;
use nodes::Nodes;
use scripts::{Call, Scripts};

/// Where the password of the nodes is read, at each new connection: a changed one is used from the next connection on. `None`: the one in
/// the node's URL, if there is one.
pub type PasswordSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Tells whose counts these are, in letters and digits, or why that is not known yet: asked at the first use, and kept.
pub type OwnerSource = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// What the URLs name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RedisMode {
    /// Independent caches: each node, and nothing else.
    #[default]
    Nodes,
    /// Some nodes of a Redis Cluster, which tells the others and who serves what.
    Cluster,
}

/// How to reach the nodes and what to keep there.
#[derive(Clone)]
pub struct RedisConfig {
    /// What the URLs name.
    pub mode: RedisMode,
    /// One URL for each node, `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS; their order means nothing.
    pub urls: Vec<String>,
    /// The password, where it is not in the URLs.
    pub password: Option<PasswordSource>,
    /// What keys begin with.
    pub prefix: String,
    /// What they go on with: segments' numbers are a database's own, so counters that share a node must differ in one of the two.
    pub owner: Option<OwnerSource>,
    /// How long values stay: how long they may be served while the ledger is away.
    pub keep: Duration,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::Nodes,
            urls: Vec::new(),
            password: None,
            prefix: "sc".to_owned(),
            owner: None,
            keep: Duration::from_secs(900),
            connect_timeout: Duration::from_millis(500),
            response_timeout: Duration::from_millis(250),
        }
    }
}

/// Why nodes cannot be used as configured; says which, never with its password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisConfigError {
    /// There is none.
    #[error("names no Redis node")]
    NoNodes,
    /// Not a URL of a Redis; the number counts from 1.
    #[error("URL {0} is not of the form redis://[user[:password]@]host[:port][/database] (rediss:// for TLS)")]
    Url(usize),
    /// No TCP, or TLS with whomever; the number counts from 1.
    #[error(
        "URL {0} asks for a Unix socket or for TLS without a look at the certificate, which is not supported: use redis://host:port or rediss://host:port"
    )]
    Transport(usize),
    /// A Redis Cluster has one database; the number counts from 1.
    #[error("URL {0} names a database other than 0, and a Redis Cluster has no other")]
    Database(usize),
    /// A Redis Cluster was asked to take a list of nodes.
    #[error("names nodes, and a Redis Cluster tells its own")]
    Cluster,
    /// Two URLs are one node: its segments would be counted twice in the shares.
    #[error("names the node {0} twice")]
    Twice(String),
    /// Braces would move the part of the key that a Redis Cluster hashes.
    #[error("prefix {0:?} is not 1 to 64 letters, digits, dots, colons, dashes or underscores")]
    Prefix(String),
}

/// How a list of nodes changed, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodesChange {
    /// Those that are new in it.
    pub added: Vec<String>,
    /// Those that are not in it any more.
    pub removed: Vec<String>,
}

/// Counts in Redis.
pub struct RedisCache {
    place: Place,
    scripts: Scripts,
    prefix: String,
    owner: Option<OwnerSource>,
    /// Prefix and owner, once both are known.
    named: OnceLock<String>,
    patience: Duration,
    keep: Duration,
}

enum Place {
    Nodes(Nodes),
    Cluster(Cluster),
}

impl RedisCache {
    /// A cache on the nodes of `config`. Connects to nothing yet: a node is connected when it is first used.
    ///
    /// # Errors
    /// [`RedisConfigError`]
    pub fn new(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        check_prefix(&config.prefix)?;
        let place = match config.mode {
            RedisMode::Nodes => Place::Nodes(Nodes::new(config)?),
            RedisMode::Cluster => Place::Cluster(Cluster::new(config)?),
        };
        Ok(Self {
            place,
            scripts: Scripts::new(),
            prefix: config.prefix.clone(),
            owner: config.owner.clone(),
            named: OnceLock::new(),
            patience: config.response_timeout,
            keep: config.keep,
        })
    }

    /// Takes another list of independent nodes from the next call on. A node of both lists keeps its connection; of the segments, those
    /// move that the new list gives to another node, 1/N of them for the Nth node that is added. No call fails for it.
    ///
    /// # Errors
    /// [`RedisConfigError`]: the old list stays in use. [`RedisConfigError::Cluster`]: this is a Redis Cluster.
    pub fn set_nodes(&self, urls: &[String]) -> Result<NodesChange, RedisConfigError> {
        match &self.place {
            Place::Nodes(nodes) => nodes.set(urls),
            Place::Cluster(_) => Err(RedisConfigError::Cluster),
        }
    }

    /// The node that holds a segment: host, port and database; `None` while a Redis Cluster has not told yet.
    #[must_use]
    pub fn node_of(&self, segment: SegmentId) -> Option<String> {
        match &self.place {
            Place::Nodes(nodes) => Some(nodes.of(segment).name().to_owned()),
            Place::Cluster(cluster) => cluster.node_of(segment),
        }
    }

    /// The key of a segment. The braces make one slot of all that a segment has, on a Redis Cluster too.
    ///
    /// # Errors
    /// [`CacheError::Unreachable`]: whose it is is not known yet.
    pub async fn key_of(&self, segment: SegmentId) -> Result<String, CacheError> {
        Ok(key(self.name().await?, segment))
    }

    async fn name(&self) -> Result<&str, CacheError> {
        if let Some(name) = self.named.get() {
            return Ok(name);
        }
        let name = match &self.owner {
            None => self.prefix.clone(),
            Some(owner) => match tokio::time::timeout(self.patience, owner()).await {
                Ok(Ok(owner)) => format!("{}-{owner}", self.prefix),
                Ok(Err(why)) => {
                    return Err(CacheError::Unreachable(format!(
                        "whose counts it holds is not known: {why}"
                    )));
                }
                Err(_) => {
                    return Err(CacheError::Timeout(
                        "whose counts it holds was not told in time".to_owned(),
                    ));
                }
            },
        };
        Ok(self.named.get_or_init(|| name))
    }

    async fn run(&self, segment: SegmentId, call: &Call) -> Result<Value, CacheError> {
        match &self.place {
            Place::Nodes(nodes) => nodes.run(segment, call).await,
            Place::Cluster(cluster) => cluster.run(segment, call).await,
        }
    }
}

fn key(name: &str, segment: SegmentId) -> String {
    format!("{name}:{{{}}}", segment.0)
}

fn check_prefix(prefix: &str) -> Result<(), RedisConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if (1..=64).contains(&prefix.len()) && prefix.chars().all(plain) {
        Ok(())
    } else {
        Err(RedisConfigError::Prefix(prefix.to_owned()))
    }
}

#[async_trait]
impl Cache for RedisCache {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn read(&self, segment: SegmentId, bound: Duration) -> Result<Lookup, CacheError> {
        let token = rand::random();
        let call = self
            .scripts
            .read(&self.key_of(segment).await?, token, bound, bound.min(MAX_CLAIM));
        let found = self.run(segment, &call).await?;
        scripts::lookup(&found, segment, token)
    }

    async fn store(&self, claim: &Claim, members: i64, as_of: Timestamp) -> Result<bool, CacheError> {
        let call = self.scripts.store(
            &self.key_of(claim.segment).await?,
            claim.token,
            members,
            as_of,
            self.keep,
        );
        let stored = self.run(claim.segment, &call).await?;
        Ok(stored == Value::Int(1))
    }

    async fn invalidate(&self, segments: &[SegmentId]) -> Result<(), CacheError> {
        let name = self.name().await?;
        let calls = segments
            .iter()
            .map(|segment| (*segment, self.scripts.invalidate(&key(name, *segment))));
        let calls = calls.collect();
        match &self.place {
            Place::Nodes(nodes) => nodes.run_all(calls).await,
            Place::Cluster(cluster) => cluster.run_all(calls).await,
        }
    }

    async fn health(&self) -> Vec<NodeHealth> {
        match &self.place {
            Place::Nodes(nodes) => nodes.health().await,
            Place::Cluster(cluster) => cluster.health().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(urls: &[&str]) -> Result<RedisCache, RedisConfigError> {
        let urls = urls.iter().map(ToString::to_string).collect();
        RedisCache::new(&RedisConfig {
            urls,
            ..RedisConfig::default()
        })
    }

    #[test]
    fn a_bad_configuration_is_refused_without_its_password() {
        let refusal = |urls: &[&str]| open(urls).err().unwrap();
        assert_eq!(refusal(&[]), RedisConfigError::NoNodes);
        assert_eq!(refusal(&["redis://a", "http://u:hunter2@b"]), RedisConfigError::Url(2));
        for other in ["unix:///run/redis.sock", "rediss://a:6379/#insecure"] {
            assert_eq!(
                refusal(&["redis://b", other]),
                RedisConfigError::Transport(2),
                "{other}"
            );
        }
        assert_eq!(
            refusal(&["redis://:x@a", "redis://:hunter2@a:6379"]),
            RedisConfigError::Twice("a:6379/0".to_owned())
        );
        let error = refusal(&["redis://:hunter2@a:notaport"]);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let prefix = RedisConfig {
            prefix: "a{b}".to_owned(),
            ..RedisConfig::default()
        };
        assert!(matches!(RedisCache::new(&prefix), Err(RedisConfigError::Prefix(_))));
    }

    #[test]
    fn a_segments_node_does_not_depend_on_the_order_of_the_urls() {
        let one = open(&["redis://a", "redis://b", "redis://c"]).unwrap();
        let other = open(&["redis://c", "redis://a", "redis://b"]).unwrap();
        for id in 0..1_000 {
            assert_eq!(one.node_of(SegmentId(id)), other.node_of(SegmentId(id)));
        }
    }

    #[test]
    fn a_changed_list_says_what_changed_and_a_bad_one_changes_nothing() {
        let cache = open(&["redis://a", "redis://b"]).unwrap();
        let urls = |urls: &[&str]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
        let change = cache.set_nodes(&urls(&["redis://c", "redis://b"])).unwrap();
        assert_eq!(
            (change.added, change.removed),
            (vec!["c:6379/0".to_owned()], vec!["a:6379/0".to_owned()])
        );
        let before: Vec<_> = (0..100).map(|id| cache.node_of(SegmentId(id))).collect();
        assert_eq!(cache.set_nodes(&[]), Err(RedisConfigError::NoNodes));
        assert_eq!(
            cache.set_nodes(&urls(&["redis://c", "x"])),
            Err(RedisConfigError::Url(2))
        );
        assert_eq!(
            (0..100).map(|id| cache.node_of(SegmentId(id))).collect::<Vec<_>>(),
            before
        );
        assert_eq!(
            cache.set_nodes(&urls(&["redis://b", "redis://c"])),
            Ok(NodesChange::default())
        );
        let cluster = RedisConfig {
            mode: RedisMode::Cluster,
            urls: urls(&["redis://a"]),
            ..RedisConfig::default()
        };
        let cluster = RedisCache::new(&cluster).unwrap();
        assert_eq!(cluster.set_nodes(&urls(&["redis://b"])), Err(RedisConfigError::Cluster));
    }
}
