//! The service on a real ledger and real Redis nodes, one of which dies in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use segment_counter::cache::{RedisCache, RedisConfig};
use segment_counter::ledger::{Ledger, Settings, SqliteLedger};
use segment_counter::service::{Metrics, Service, ServiceConfig};
use tokio::time::{Instant, sleep};

use crate::model::{name, pair};
use crate::support::redis::Node;

const SEGMENTS: i64 = 8;

fn segment(number: i64) -> String {
    format!("s{}", number % SEGMENTS)
}

/// Readers check, all along, that no answer lacks a pair that was acknowledged before its bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_redis_nodes_in_the_middle_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(Some(&folder.path().join("ledger.db")), Settings::default());
    ledger.migrate().await.unwrap();
    let mut nodes = [Node::start(&[]), Node::start(&[])];
    let urls = nodes.iter().map(Node::url).collect();
    let cache = RedisCache::new(&RedisConfig {
        urls,
        ..RedisConfig::default()
    })
    .unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let service = Service::start(Arc::new(ledger), Arc::new(cache), metrics, ServiceConfig::default());

    let acknowledged: Arc<Vec<AtomicI64>> = Arc::new((0..SEGMENTS).map(|_| AtomicI64::new(0)).collect());
    for number in 0..SEGMENTS {
        service.record(pair("first", &segment(number))).await.unwrap();
        acknowledged[usize::try_from(number).unwrap()].store(1, Ordering::SeqCst);
    }
    let until = Instant::now() + Duration::from_secs(4);
    let writer = tokio::spawn(write(Arc::clone(&service), Arc::clone(&acknowledged), until));
    let readers: Vec<_> = [0, 0, 50, 1_000]
        .map(|bound| tokio::spawn(read(Arc::clone(&service), Arc::clone(&acknowledged), bound, until)))
        .into_iter()
        .collect();
    sleep(Duration::from_secs(1)).await;
    nodes[0].kill();
    sleep(Duration::from_secs(1)).await;
    nodes[1].kill();
    sleep(Duration::from_secs(1)).await;
    nodes[0].restart();
    nodes[1].restart();
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

async fn write(service: Arc<Service>, acknowledged: Arc<Vec<AtomicI64>>, until: Instant) {
    let mut user = 0_i64;
    while Instant::now() < until {
        user += 1;
        service.record(pair(user, &segment(user))).await.unwrap();
        acknowledged[usize::try_from(user % SEGMENTS).unwrap()].fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(1)).await;
    }
}

async fn read(service: Arc<Service>, acknowledged: Arc<Vec<AtomicI64>>, bound: u64, until: Instant) -> u32 {
    let bound = Duration::from_millis(bound);
    // What was acknowledged, by segment, at instants of the past.
    let mut past: Vec<(Instant, Vec<i64>)> = Vec::new();
    let mut answers = 0;
    while Instant::now() < until {
        let now = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        past.push((Instant::now(), now));
        let number = i64::from(answers) % SEGMENTS;
        let answer = service
            .count(&name(&segment(number)), Some(bound))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.exact);
        let since = Instant::now() - answer.staleness;
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
