//! Independent nodes: a list that may change while it is used, and a segment's place in it.
//!
//! A call goes to the node that the list named when it began. Whoever still uses an older list, or has gone back to one, finds values that no
//! notice reached: they are as old as they say all the same, since an age is counted from the claim and by the node that holds the value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::{IntoConnectionInfo, Value};

use crate::counting::SegmentId;

use super::super::{CacheError, NodeHealth};
use super::node::{Node, Refusal, address};
use super::scripts::Call;
use super::{NodesChange, RedisConfig, RedisConfigError, rendezvous};

pub(super) struct Nodes {
    config: RedisConfig,
    /// By name, so that every process chooses alike whatever the order that it was told.
    list: ArcSwap<Vec<Node>>,
}

impl Nodes {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        let list = list(config, &config.urls, &[])?;
        Ok(Self {
            config: config.clone(),
            list: ArcSwap::from_pointee(list),
        })
    }

    /// Takes another list; a node of both keeps its connection and its circuit.
    pub(super) fn set(&self, urls: &[String]) -> Result<NodesChange, RedisConfigError> {
        let before = self.list.load_full();
        let after = list(&self.config, urls, &before)?;
        let names = |of: &[Node], not: &[Node]| {
            let new = of
                .iter()
                .filter(|node| not.iter().all(|other| other.name() != node.name()));
            new.map(|node| node.name().to_owned()).collect()
        };
        let change = NodesChange {
            added: names(&after, &before),
            removed: names(&before, &after),
        };
        self.list.store(Arc::new(after));
        Ok(change)
    }

    pub(super) fn of(&self, segment: SegmentId) -> Node {
        let nodes = self.list.load();
        nodes[rendezvous::choose(nodes.iter().map(Node::hash), segment)].clone()
    }

    pub(super) async fn run(&self, segment: SegmentId, call: &Call) -> Result<Value, CacheError> {
        let node = self.of(segment);
        node.run(call, false).await.map_err(|refusal| failure(&node, refusal))
    }

    /// Every node is asked before the first failure is told: one that is away must not keep the others from being told.
    pub(super) async fn run_all(&self, calls: Vec<(SegmentId, Call)>) -> Result<(), CacheError> {
        let mut shares: BTreeMap<String, (Node, Vec<Call>)> = BTreeMap::new();
        for (segment, call) in calls {
            let node = self.of(segment);
            let share = shares.entry(node.name().to_owned());
            share.or_insert_with(|| (node, Vec::new())).1.push(call);
        }
        let told = shares.into_values().map(|(node, share)| async move {
            let answers = node.run_all(&share).await.into_iter();
            let all: Result<(), Refusal> = answers.collect();
            all.map_err(|refusal| failure(&node, refusal))
        });
        join_all(told).await.into_iter().collect()
    }

    pub(super) async fn health(&self) -> Vec<NodeHealth> {
        let nodes = self.list.load_full();
        let health = nodes.iter().map(|node| async move {
            let mut health = node.health().await;
            if health.error.is_none() && node.is_of_a_cluster() {
                health.error = Some(of_a_cluster(node));
            }
            health
        });
        join_all(health).await
    }
}

/// The nodes of these URLs, those that stand already among them as they are.
fn list(config: &RedisConfig, urls: &[String], standing: &[Node]) -> Result<Vec<Node>, RedisConfigError> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for (index, url) in urls.iter().enumerate() {
        let info = url
            .as_str()
            .into_connection_info()
            .map_err(|_| RedisConfigError::Url(index + 1))?;
        if address(info.addr()).is_none() {
            return Err(RedisConfigError::Transport(index + 1));
        }
        let node = Node::new(info.clone(), config);
        let stands = standing
            .iter()
            .find(|other| other.name() == node.name() && other.is_as(&info));
        let node = stands.cloned().unwrap_or(node);
        let name = node.name().to_owned();
        if nodes.insert(name.clone(), node).is_some() {
            return Err(RedisConfigError::Twice(name));
        }
    }
    if nodes.is_empty() {
        return Err(RedisConfigError::NoNodes);
    }
    Ok(nodes.into_values().collect())
}

fn failure(node: &Node, refusal: Refusal) -> CacheError {
    match refusal {
        Refusal::Failed(error) => error,
        Refusal::Elsewhere(_) => {
            let error = of_a_cluster(node);
            if node.note_of_a_cluster() {
                tracing::error!(%error, "a node of the cache refuses keys");
            }
            error
        }
    }
}

fn of_a_cluster(node: &Node) -> CacheError {
    CacheError::Internal(format!(
        "{} is one of a Redis Cluster and serves a part of the keys: redis_mode must be cluster",
        node.name()
    ))
}
