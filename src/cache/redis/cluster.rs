//! A Redis Cluster, by its own protocol: it says itself which of its nodes serves which slots, and each of them is a [`Node`] like any other,
//! with its own connection and circuit.
//!
//! So a node that is away costs its slots microseconds, and the others nothing. Where a slot has moved, the node that had it says so and the
//! call follows; the map is then asked for anew, aside. It is asked for again too while a node is away, since a replica may take its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Value};
use tokio::time::Instant;

use crate::counting::SegmentId;

use super::super::{CacheError, NodeHealth};
use super::node::{Node, Redirect, Refusal, address};
use super::scripts::Call;
use super::slots::{Range, SLOTS, ranges, slot_of};
use super::{RedisConfig, RedisConfigError};

/// How often a call is sent on: to where a slot moved, and from there to where it is moving.
const MAX_REDIRECTS: usize = 4;
/// The shortest time between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A cluster; clones are the same one.
#[derive(Clone)]
pub(super) struct Cluster(Arc<Shared>);

struct Shared {
    config: RedisConfig,
    /// How every node is logged in to: as the first of the URLs says.
    login: ConnectionInfo,
    /// Where the cluster is asked for its nodes while none is known.
    seeds: Vec<Node>,
    map: ArcSwap<Map>,
    /// Held while the first map is asked for.
    loading: tokio::sync::Mutex<()>,
    looked: Mutex<Option<Instant>>,
}

/// Which node serves which slots.
#[derive(Default, Clone)]
struct Map {
    nodes: BTreeMap<String, Node>,
    /// Sorted, without overlaps.
    ranges: Vec<(u16, u16, Node)>,
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Node> {
        let after = self.ranges.partition_point(|(first, _, _)| *first <= slot);
        let (_, last, node) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(node)
    }

    fn is_known(&self) -> bool {
        !self.ranges.is_empty()
    }

    fn uncovered(&self) -> usize {
        let covered: usize = self
            .ranges
            .iter()
            .map(|(first, last, _)| usize::from(last - first) + 1)
            .sum();
        usize::from(SLOTS) - covered
    }
}

impl Cluster {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        let mut seeds: Vec<(Node, ConnectionInfo)> = Vec::new();
        for (index, url) in config.urls.iter().enumerate() {
            let info = url
                .as_str()
                .into_connection_info()
                .map_err(|_| RedisConfigError::Url(index + 1))?;
            if address(info.addr()).is_none() {
                return Err(RedisConfigError::Transport(index + 1));
            }
            if info.redis_settings().db() != 0 {
                return Err(RedisConfigError::Database(index + 1));
            }
            let node = Node::new(info.clone(), config);
            if seeds.iter().any(|(seed, _)| seed.name() == node.name()) {
                return Err(RedisConfigError::Twice(node.name().to_owned()));
            }
            seeds.push((node, info));
        }
        let Some((_, login)) = seeds.first() else {
            return Err(RedisConfigError::NoNodes);
        };
        Ok(Self(Arc::new(Shared {
            config: config.clone(),
            login: login.clone(),
            seeds: seeds.into_iter().map(|(node, _)| node).collect(),
            map: ArcSwap::default(),
            loading: tokio::sync::Mutex::new(()),
            looked: Mutex::default(),
        })))
    }

    /// The name of the node that has a segment, as far as it is known.
    pub(super) fn node_of(&self, segment: SegmentId) -> Option<String> {
        let map = self.0.map.load();
        map.owner(slot(segment)).map(|node| node.name().to_owned())
    }

    pub(super) async fn run(&self, segment: SegmentId, call: &Call) -> Result<Value, CacheError> {
        let slot = slot(segment);
        let node = self.owner(slot).await?;
        self.follow(node, call, false, slot).await
    }

    /// Every node is asked before the first failure is told.
    pub(super) async fn run_all(&self, calls: Vec<(SegmentId, Call)>) -> Result<(), CacheError> {
        let mut shares: BTreeMap<String, (Node, Vec<(u16, Call)>)> = BTreeMap::new();
        let mut first = Ok(());
        for (segment, call) in calls {
            let slot = slot(segment);
            match self.owner(slot).await {
                Ok(node) => {
                    let share = shares.entry(node.name().to_owned());
                    share.or_insert_with(|| (node, Vec::new())).1.push((slot, call));
                }
                Err(error) => first = first.and(Err(error)),
            }
        }
        let told = shares.into_values().map(|(node, share)| async move {
            let (slots, calls): (Vec<u16>, Vec<Call>) = share.into_iter().unzip();
            let mut first = Ok(());
            for ((slot, call), answer) in slots.into_iter().zip(&calls).zip(node.run_all(&calls).await) {
                let answer = match answer {
                    Err(Refusal::Elsewhere(redirect)) => {
                        let node = self.redirected(slot, &redirect);
                        self.follow(node, call, redirect.asking, slot).await.map(drop)
                    }
                    Err(Refusal::Failed(error)) => {
                        self.look_again();
                        Err(error)
                    }
                    Ok(()) => Ok(()),
                };
                first = first.and(answer);
            }
            first
        });
        join_all(told).await.into_iter().fold(first, Result::and)
    }

    /// How each node that serves slots is; where no map is known, how those are that were named.
    pub(super) async fn health(&self) -> Vec<NodeHealth> {
        let known = self.owner(0).await;
        let map = self.0.map.load_full();
        if !map.is_known() {
            let mut health = join_all(self.0.seeds.iter().map(Node::health)).await;
            if let (Err(error), true) = (known, health.iter().all(|node| node.error.is_none())) {
                health.push(whole(error));
            }
            return health;
        }
        let mut health = join_all(map.nodes.values().map(Node::health)).await;
        if health.iter().any(|node| node.error.is_some()) {
            self.look_again();
        }
        if map.uncovered() > 0 {
            self.look_again();
            health.push(whole(CacheError::Unreachable(format!(
                "no node serves {} of the {SLOTS} slots",
                map.uncovered()
            ))));
        }
        health
    }

    /// Sends a call to `node`, and on to where that one says.
    async fn follow(&self, mut node: Node, call: &Call, mut asking: bool, slot: u16) -> Result<Value, CacheError> {
        for _ in 0..MAX_REDIRECTS {
            match node.run(call, asking).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Elsewhere(redirect)) => {
                    asking = redirect.asking;
                    node = self.redirected(slot, &redirect);
                }
                Err(Refusal::Failed(error)) => {
                    self.look_again();
                    return Err(error);
                }
            }
        }
        Err(CacheError::Internal(format!(
            "the cluster sent slot {slot} round in a circle"
        )))
    }

    async fn owner(&self, slot: u16) -> Result<Node, CacheError> {
        if !self.0.map.load().is_known() {
            let _loading = self.0.loading.lock().await;
            if !self.0.map.load().is_known() {
                self.load().await?;
            }
        }
        match self.0.map.load().owner(slot) {
            Some(node) => Ok(node.clone()),
            None => {
                self.look_again();
                Err(CacheError::Unreachable(format!(
                    "no node of the cluster serves slot {slot}"
                )))
            }
        }
    }

    /// The node of a redirect; where the slot has moved for good, the map learns it at once.
    fn redirected(&self, slot: u16, redirect: &Redirect) -> Node {
        let node = self.0.node(&self.0.map.load(), &redirect.host, redirect.port);
        if !redirect.asking {
            self.0.map.rcu(|map| map.with(slot, &node));
            self.look_again();
        }
        node
    }

    /// Asks for the map aside, unless that was done a moment ago.
    fn look_again(&self) {
        {
            let mut looked = self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
                return;
            }
            *looked = Some(Instant::now());
        }
        let cluster = self.clone();
        tokio::spawn(async move {
            if let Err(error) = cluster.load().await {
                tracing::debug!(%error, "no node tells which slots the cluster's nodes serve; the last map stays in use");
            }
        });
    }

    /// Asks one node after another for the map, the known ones first, and takes the first answer. Where to begin is left to chance, so that
    /// one with an old view is not always believed.
    async fn load(&self) -> Result<(), CacheError> {
        let map = self.0.map.load_full();
        let mut nodes: Vec<Node> = map.nodes.values().cloned().collect();
        if !nodes.is_empty() {
            let begin = rand::random_range(0..nodes.len());
            nodes.rotate_left(begin);
        }
        nodes.extend(self.0.seeds.iter().cloned());
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let mut failed = CacheError::Unreachable("no node of the cluster is known".to_owned());
        for node in nodes {
            match node.ask(&slots).await.map(|answer| ranges(&answer)) {
                Ok(Some(told)) if !told.is_empty() => {
                    self.0.map.store(Arc::new(self.0.read(&node, &told, &map)));
                    return Ok(());
                }
                Ok(Some(_)) => {
                    failed = CacheError::Unreachable(format!("{}: no slot of the cluster has a node", node.name()));
                }
                Ok(None) => {
                    failed = CacheError::Internal(format!("{}: its map of slots has an unknown form", node.name()));
                }
                Err(CacheError::Internal(_)) => {
                    failed = CacheError::Internal(format!(
                        "{} is no node of a Redis Cluster: redis_mode must be nodes",
                        node.name()
                    ));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl Map {
    /// The same with another owner of one slot.
    fn with(&self, slot: u16, owner: &Node) -> Self {
        let mut map = Self {
            nodes: self.nodes.clone(),
            ranges: Vec::with_capacity(self.ranges.len() + 2),
        };
        map.nodes.insert(owner.name().to_owned(), owner.clone());
        map.ranges.push((slot, slot, owner.clone()));
        for (first, last, node) in &self.ranges {
            let (before, after) = (slot.checked_sub(1), slot + 1);
            if !(*first..=*last).contains(&slot) {
                map.ranges.push((*first, *last, node.clone()));
                continue;
            }
            if let Some(before) = before.filter(|before| before >= first) {
                map.ranges.push((*first, before, node.clone()));
            }
            if after <= *last {
                map.ranges.push((after, *last, node.clone()));
            }
        }
        map.ranges.sort_by_key(|(first, _, _)| *first);
        map
    }
}

impl Shared {
    /// The node of that address: the standing one, with its connection, where there is one.
    fn node(&self, map: &Map, host: &str, port: u16) -> Node {
        // By TLS or not, as the first URL says.
        let address = match self.login.addr() {
            ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: false,
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        let node = Node::new(self.login.clone().set_addr(address), &self.config);
        let seed = || self.seeds.iter().find(|seed| seed.name() == node.name());
        map.nodes.get(node.name()).or_else(seed).cloned().unwrap_or(node)
    }

    /// The map that `asked` told.
    fn read(&self, asked: &Node, told: &[Range], before: &Map) -> Map {
        let mut map = Map::default();
        for range in told {
            let host = if range.host.is_empty() {
                asked.host()
            } else {
                &range.host
            };
            let node = self.node(before, host, range.port);
            map.nodes.entry(node.name().to_owned()).or_insert_with(|| node.clone());
            map.ranges.push((range.first, range.last, node));
        }
        map
    }
}

fn whole(error: CacheError) -> NodeHealth {
    NodeHealth {
        node: "cluster".to_owned(),
        error: Some(error),
    }
}

/// The number is the key's hash tag.
fn slot(segment: SegmentId) -> u16 {
    slot_of(&segment.0.to_string())
}

#[cfg(test)]
mod tests;
