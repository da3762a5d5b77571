//! The service on a real ledger and real Redis nodes that die, come and go in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use segment_counter::cache::{Cache, RedisCache, RedisConfig, RedisMode};
use segment_counter::ledger::{Ledger, Settings, SqliteLedger};
use segment_counter::service::{Level, Metrics, Service, ServiceConfig};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::model::{name, pair};
use crate::support::redis::{Cluster, Node};

const SEGMENTS: i64 = 8;

fn segment(number: i64) -> String {
    format!("s{}", number % SEGMENTS)
}

/// Readers check, all along, that no answer lacks a pair that was acknowledged before its bound, whatever becomes of the cache.
async fn no_answer_is_changed_by(cache: Arc<RedisCache>, trouble: impl Future<Output = ()>) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(Some(&folder.path().join("ledger.db")), Settings::default());
    ledger.migrate().await.unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let service = Service::start(Arc::new(ledger), cache, metrics, ServiceConfig::default());

    let acknowledged: Arc<Vec<AtomicI64>> = Arc::new((0..SEGMENTS).map(|_| AtomicI64::new(0)).collect());
    for number in 0..SEGMENTS {
        service.record(pair("first", &segment(number))).await.unwrap();
        acknowledged[usize::try_from(number).unwrap()].store(1, Ordering::SeqCst);
    }
    let ended = CancellationToken::new();
    let writer = tokio::spawn(write(Arc::clone(&service), Arc::clone(&acknowledged), ended.clone()));
    let readers: Vec<_> = [0, 0, 50, 1_000]
        .map(|bound| {
            tokio::spawn(read(
                Arc::clone(&service),
                Arc::clone(&acknowledged),
                bound,
                ended.clone(),
            ))
        })
        .into_iter()
        .collect();
    trouble.await;
    let readiness = service.readiness().await;
    assert!(readiness.ledger.is_ok());
    ended.cancel();
    writer.await.unwrap();
    let mut answers = 0;
    for reader in readers {
        answers += reader.await.unwrap();
    }
    assert!(answers > 500, "{answers} answers");
    for number in 0..SEGMENTS {
        let truth = acknowledged[usize::try_from(number).unwrap()].load(Ordering::SeqCst);
        let answer = service
            .count(&name(&segment(number)), Some(Duration::ZERO))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.count, truth);
    }
    service.shutdown().await;
}

fn open(mode: RedisMode, urls: Vec<String>) -> Arc<RedisCache> {
    let config = RedisConfig {
        mode,
        urls,
        ..RedisConfig::default()
    };
    Arc::new(RedisCache::new(&config).unwrap())
}

fn urls(nodes: &[&Node]) -> Vec<String> {
    nodes.iter().map(|node| node.url()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_redis_nodes_in_the_middle_changes_no_answer() {
    let mut nodes = [Node::start(&[]), Node::start(&[])];
    let cache = open(RedisMode::Nodes, urls(&[&nodes[0], &nodes[1]]));
    no_answer_is_changed_by(cache, async {
        sleep(Duration::from_secs(1)).await;
        nodes[0].kill();
        sleep(Duration::from_secs(1)).await;
        nodes[1].kill();
        sleep(Duration::from_secs(1)).await;
        nodes[0].restart();
        nodes[1].restart();
        sleep(Duration::from_secs(1)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_nodes_that_grows_and_shrinks_in_the_middle_changes_no_answer() {
    let nodes = [Node::start(&[]), Node::start(&[]), Node::start(&[])];
    let [a, b, c] = &nodes;
    let cache = open(RedisMode::Nodes, urls(&[a, b]));
    let changing = Arc::clone(&cache);
    no_answer_is_changed_by(cache, async {
        let mut before = 2;
        // Often, and back to lists that were: old values and claims wait at every node.
        for list in [&[a, b, c][..], &[a, b], &[c, b], &[a, b, c], &[c], &[a, b, c], &[a, b]].repeat(3) {
            sleep(Duration::from_millis(150)).await;
            let change = changing.set_nodes(&urls(list)).unwrap();
            assert_eq!(before + change.added.len() - change.removed.len(), list.len());
            before = list.len();
        }
        sleep(Duration::from_millis(500)).await;
    })
    .await;
    // It was in use indeed: the third node, which no list names now, still has values.
    assert!(matches!(c.ask(&["DBSIZE"]), redis::Value::Int(1..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_a_node_of_a_redis_cluster_in_the_middle_changes_no_answer() {
    let mut cluster = Cluster::start();
    let cache = open(RedisMode::Cluster, cluster.urls());
    let watched = Arc::clone(&cache);
    no_answer_is_changed_by(cache, async {
        sleep(Duration::from_secs(1)).await;
        cluster.nodes[1].kill();
        sleep(Duration::from_millis(2_500)).await;
        let health = watched.health().await;
        assert_eq!(
            health.iter().filter(|node| node.error.is_some()).count(),
            1,
            "{health:?}"
        );
        cluster.nodes[1].restart();
        sleep(Duration::from_millis(2_500)).await;
        let health = watched.health().await;
        assert!(health.iter().all(|node| node.error.is_none()), "{health:?}");
    })
    .await;
}

/// Where the answers of one look at every segment came from: the shares of the cache and of the ledger.
async fn sources(service: &Service, metrics: &Metrics, count: i64) -> (f64, f64) {
    let counted = |level| f64::from(u32::try_from(metrics.counts_from(level)).unwrap());
    let before = (counted(Level::Cache), counted(Level::Ledger));
    for number in 0..count {
        let segment = name(&format!("s{number}"));
        let answer = service.count(&segment, Some(Duration::from_secs(60)));
        assert!(answer.await.unwrap().unwrap().exact);
    }
    let all = f64::from(u32::try_from(count).unwrap());
    let share = |level, before| (counted(level) - before) / all;
    (share(Level::Cache, before.0), share(Level::Ledger, before.1))
}

#[tokio::test]
async fn one_dead_node_of_three_costs_its_third_of_the_hits() {
    const COUNT: i64 = 600;
    let mut nodes = [Node::start(&[]), Node::start(&[]), Node::start(&[])];
    let [a, b, c] = &nodes;
    let ledger = SqliteLedger::open(None, Settings::default());
    ledger.migrate().await.unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    // Without a memory of its own, so that every answer is a hit in Redis or a read of the ledger.
    let config = ServiceConfig {
        local_entries: 1,
        ..ServiceConfig::default()
    };
    let cache = open(RedisMode::Nodes, urls(&[a, b, c]));
    let service = Service::start(Arc::new(ledger), cache, Arc::clone(&metrics), config);
    let pairs = (0..COUNT).map(|number| pair("u", &format!("s{number}"))).collect();
    service.record_many(pairs).await.unwrap();
    // Those who are told of the pairs have told Redis of them.
    sleep(Duration::from_millis(500)).await;
    sources(&service, &metrics, COUNT).await;
    let (hits, reads) = sources(&service, &metrics, COUNT).await;
    assert!(hits > 0.99 && reads < 0.01, "{hits} hits, {reads} reads");
    nodes[1].kill();
    for _ in 0..2 {
        let (hits, reads) = sources(&service, &metrics, COUNT).await;
        assert!(
            (0.60..0.74).contains(&hits),
            "{hits} of the answers were hits with two of three nodes"
        );
        assert!((hits + reads - 1.0).abs() < 0.01, "{hits} hits, {reads} reads");
    }
    service.shutdown().await;
}

async fn write(service: Arc<Service>, acknowledged: Arc<Vec<AtomicI64>>, ended: CancellationToken) {
    let mut user = 0_i64;
    while !ended.is_cancelled() {
        user += 1;
        service.record(pair(user, &segment(user))).await.unwrap();
        acknowledged[usize::try_from(user % SEGMENTS).unwrap()].fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(1)).await;
    }
}

async fn read(service: Arc<Service>, acknowledged: Arc<Vec<AtomicI64>>, bound: u64, ended: CancellationToken) -> u32 {
    let bound = Duration::from_millis(bound);
    // What was acknowledged, by segment, at instants of the past.
    let mut past: Vec<(Instant, Vec<i64>)> = Vec::new();
    let mut answers = 0;
    while !ended.is_cancelled() {
        let now = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        past.push((Instant::now(), now));
        let number = i64::from(answers) % SEGMENTS;
        let asked = Instant::now();
        let answer = service
            .count(&name(&segment(number)), Some(bound))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.exact);
        assert!(answer.staleness <= bound.max(asked.elapsed()), "{:?}", answer.staleness);
        // Exact at an instant no earlier than that; a strict one holds what was acknowledged before it was asked.
        let since = if bound.is_zero() {
            asked
        } else {
            asked - answer.staleness
        };
        let known = past
            .iter()
            .rev()
            .find(|(at, _)| *at <= since)
            .map_or(1, |(_, counts)| counts[usize::try_from(number).unwrap()]);
        assert!(
            answer.count >= known,
            "{} of {known} acknowledged, {:?} old",
            answer.count,
            answer.staleness
        );
        answers += 1;
        sleep(Duration::from_millis(2)).await;
    }
    answers
}
