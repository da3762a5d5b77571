//! Redis: any number of nodes, each an independent cache; a segment's node is chosen by rendezvous hashing of its number.
//!
//! A node that is away costs its share of the segments a read of the ledger, decided within microseconds by its circuit. Its segments do
//! not move to other nodes: they would miss the writers' notices there. Every operation is one script, atomic in the server, by the server's
//! own clock. Keys hold numbers only: no client's text ever becomes a key.

mod circuit;
mod node;
mod rendezvous;
mod scripts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use jiff::Timestamp;
use redis::IntoConnectionInfo;

use crate::counting::SegmentId;

use super::{Cache, CacheError, Claim, Lookup, MAX_CLAIM, NodeHealth};

use node::Node;
use scripts::Scripts;

/// Where the password of the nodes is read, at each new connection: a changed one is used from the next connection on. `None`: the one in
/// the node's URL, if there is one.
pub type PasswordSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// How to reach the nodes and what to keep there.
#[derive(Clone)]
pub struct RedisConfig {
    /// One URL for each node, `redis://[user[:password]@]host[:port][/database]`; their order means nothing.
    pub urls: Vec<String>,
    /// The password, where it is not in the URLs.
    pub password: Option<PasswordSource>,
    /// What keys begin with. Counters that share a node must differ in it: segments' numbers are a database's own.
    pub prefix: String,
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
            urls: Vec::new(),
            password: None,
            prefix: "sc".to_owned(),
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
    #[error("URL {0} is not of the form redis://[user[:password]@]host[:port][/database]")]
    Url(usize),
    /// TLS; the number counts from 1.
    #[error("URL {0} asks for TLS or a Unix socket, which is not supported: use redis://host:port")]
    Transport(usize),
    /// Two URLs are one node: its segments would be counted twice in the shares.
    #[error("names the node {0} twice")]
    Twice(String),
    /// Braces would move the part of the key that a Redis Cluster hashes.
    #[error("prefix {0:?} is not 1 to 64 letters, digits, dots, colons, dashes or underscores")]
    Prefix(String),
}

/// Counts in Redis.
pub struct RedisCache {
    nodes: Vec<Node>,
    scripts: Scripts,
    prefix: String,
    keep: Duration,
}

impl RedisCache {
    /// A cache on the nodes of `config`. Connects to nothing yet: a node is connected when it is first used.
    ///
    /// # Errors
    /// [`RedisConfigError`]
    pub fn new(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        check_prefix(&config.prefix)?;
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for (index, url) in config.urls.iter().enumerate() {
            let info = url
                .as_str()
                .into_connection_info()
                .map_err(|_| RedisConfigError::Url(index + 1))?;
            if !matches!(info.addr(), redis::ConnectionAddr::Tcp(..)) {
                return Err(RedisConfigError::Transport(index + 1));
            }
            let node = Node::new(info, config);
            let name = node.name().to_owned();
            if nodes.insert(name.clone(), node).is_some() {
                return Err(RedisConfigError::Twice(name));
            }
        }
        if nodes.is_empty() {
            return Err(RedisConfigError::NoNodes);
        }
        Ok(Self {
            nodes: nodes.into_values().collect(),
            scripts: Scripts::new(),
            prefix: config.prefix.clone(),
            keep: config.keep,
        })
    }

    /// The node that holds a segment: host, port and database.
    #[must_use]
    pub fn node_of(&self, segment: SegmentId) -> &str {
        self.node(segment).name()
    }

    /// The key of a segment. The braces make one slot of all that a segment has, on a Redis Cluster too.
    #[must_use]
    pub fn key_of(&self, segment: SegmentId) -> String {
        format!("{}:{{{}}}", self.prefix, segment.0)
    }

    fn node(&self, segment: SegmentId) -> &Node {
        &self.nodes[rendezvous::choose(self.nodes.iter().map(Node::hash), segment)]
    }
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
            .read(&self.key_of(segment), token, bound, bound.min(MAX_CLAIM));
        let found = self.node(segment).run(&call).await?;
        scripts::lookup(&found, segment, token)
    }

    async fn store(&self, claim: &Claim, members: i64, as_of: Timestamp) -> Result<bool, CacheError> {
        let call = self
            .scripts
            .store(&self.key_of(claim.segment), claim.token, members, as_of, self.keep);
        let stored = self.node(claim.segment).run(&call).await?;
        Ok(stored == redis::Value::Int(1))
    }

    async fn invalidate(&self, segments: &[SegmentId]) -> Result<(), CacheError> {
        let mut shares: BTreeMap<&str, (&Node, Vec<SegmentId>)> = BTreeMap::new();
        for segment in segments {
            let node = self.node(*segment);
            shares.entry(node.name()).or_insert((node, Vec::new())).1.push(*segment);
        }
        let told = shares.into_values().map(|(node, share)| async move {
            let calls = share
                .iter()
                .map(|segment| self.scripts.invalidate(&self.key_of(*segment)));
            node.run_all(&calls.collect::<Vec<_>>()).await
        });
        // Every node is told before the first failure is: one that is away must not keep the others' values fresh.
        join_all(told).await.into_iter().collect()
    }

    async fn health(&self) -> Vec<NodeHealth> {
        join_all(self.nodes.iter().map(Node::health)).await
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
        assert_eq!(refusal(&["unix:///run/redis.sock"]), RedisConfigError::Transport(1));
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
}
