//! What only a Redis Cluster can do to us: slots that move while they are used, and nodes that leave.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use segment_counter::cache::{Cache, CacheError, RedisCache, RedisConfig, RedisMode};
use segment_counter::counting::SegmentId;
use support::redis::{Cluster, Node};
use tokio::time::{Instant, sleep};

const WIDE: Duration = Duration::from_secs(30);

fn open(urls: Vec<String>) -> RedisCache {
    RedisCache::new(&RedisConfig {
        mode: RedisMode::Cluster,
        urls,
        ..RedisConfig::default()
    })
    .unwrap()
}

async fn fill(cache: &RedisCache, segment: SegmentId, members: i64) {
    let claim = cache.read(segment, WIDE).await.unwrap().claim.expect("a claim");
    assert!(cache.store(&claim, members, Timestamp::UNIX_EPOCH).await.unwrap());
}

async fn members(cache: &RedisCache, segment: SegmentId) -> Option<i64> {
    let read = cache.read(segment, WIDE).await.unwrap();
    read.value.map(|value| value.members)
}

/// Segments whose keys are in one slot, with that slot and its node.
fn of_one_slot(cluster: &Cluster, count: usize) -> (Vec<SegmentId>, u16, usize) {
    let slot = cluster.slot_of("{1}");
    // All keys of a slot: found by their tags, which are numbers.
    let tags = (1..).filter(|id: &i64| crc(&id.to_string()) % 16_384 == slot);
    let segments: Vec<SegmentId> = tags.take(count).map(SegmentId).collect();
    for segment in &segments {
        assert_eq!(cluster.slot_of(&format!("sc:{{{}}}", segment.0)), slot);
    }
    let owner = (0..3).find(|node| slot < u16::try_from((node + 1) * 16_384 / 3).unwrap());
    (segments, slot, owner.unwrap())
}

/// CRC-16/XMODEM by a table of nothing: slow, and only to look for keys. The cluster itself says whether it is right.
fn crc(text: &str) -> u16 {
    let mut crc: u32 = 0;
    for byte in text.bytes() {
        crc ^= u32::from(byte) << 8;
        for _ in 0..8 {
            crc = (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1_1021 };
        }
    }
    u16::try_from(crc).unwrap()
}

#[tokio::test]
async fn a_slot_that_moves_loses_neither_a_value_nor_a_claim() {
    let cluster = Cluster::start();
    let cache = open(cluster.urls());
    let (segments, slot, from) = of_one_slot(&cluster, 6);
    let [kept, claimed, late, told, stored, withdrawn] = segments[..] else {
        panic!()
    };
    let to = (from + 1) % 3;
    fill(&cache, kept, 41).await;
    fill(&cache, told, 43).await;
    let claim = cache.read(claimed, WIDE).await.unwrap().claim.unwrap();
    let stored_claim = cache.read(stored, WIDE).await.unwrap().claim.unwrap();
    let withdrawn_claim = cache.read(withdrawn, WIDE).await.unwrap().claim.unwrap();
    assert_eq!(cache.node_of(kept), Some(cluster.nodes[from].name()));

    cluster.begin_move(slot, from, to);
    // What is there still is read there; what is nowhere is made at the other end.
    assert_eq!(members(&cache, kept).await, Some(41));
    let late_claim = cache
        .read(late, WIDE)
        .await
        .unwrap()
        .claim
        .expect("a claim at the other end");
    assert!(cache.read(late, WIDE).await.unwrap().claim.is_none(), "it stands there");

    // A claim alone makes a key, and a key that vanished in the middle of a script would be the other end's.
    assert!(cache.store(&stored_claim, 45, Timestamp::UNIX_EPOCH).await.unwrap());
    cache.invalidate(&[withdrawn]).await.unwrap();
    assert!(!cache.store(&withdrawn_claim, 46, Timestamp::UNIX_EPOCH).await.unwrap());

    cluster.move_keys(slot, from, to);
    assert_eq!(members(&cache, kept).await, Some(41));
    assert!(
        cache.store(&claim, 42, Timestamp::UNIX_EPOCH).await.unwrap(),
        "the claim came along"
    );
    assert!(cache.store(&late_claim, 44, Timestamp::UNIX_EPOCH).await.unwrap());
    cache.invalidate(&[told, kept]).await.unwrap();
    assert!(!cache.read(told, WIDE).await.unwrap().value.unwrap().fresh);
    assert_eq!(
        cache.node_of(kept),
        Some(cluster.nodes[from].name()),
        "not before it is over"
    );

    cluster.end_move(slot, from, to);
    for (segment, count) in [(kept, 41), (claimed, 42), (late, 44), (told, 43), (stored, 45)] {
        assert_eq!(members(&cache, segment).await, Some(count), "{segment:?}");
    }
    assert_eq!(cache.node_of(kept), Some(cluster.nodes[to].name()));
    cache.invalidate(&segments).await.unwrap();
    assert!(!cache.read(late, WIDE).await.unwrap().value.unwrap().fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_wanders_while_it_is_used_fails_no_call() {
    let cluster = Arc::new(Cluster::start());
    let cache = Arc::new(open(cluster.urls()));
    let (segments, slot, mut from) = of_one_slot(&cluster, 8);
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let users: Vec<_> = (0..4)
        .map(|user: usize| {
            let (cache, segments) = (Arc::clone(&cache), segments.clone());
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for round in user.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (segment, begun) = (segments[round % segments.len()], Instant::now());
                    if let Some(claim) = cache.read(segment, WIDE).await.unwrap().claim {
                        cache.store(&claim, 1, Timestamp::UNIX_EPOCH).await.unwrap();
                    }
                    cache.invalidate(&segments[..round % 4]).await.unwrap();
                    slowest = slowest.max(begun.elapsed());
                    calls.fetch_add(2, Ordering::Relaxed);
                }
                slowest
            })
        })
        .collect();
    let mut before = 0;
    for _ in 0..6 {
        let (to, cluster) = ((from + 1) % 3, Arc::clone(&cluster));
        let moved = tokio::task::spawn_blocking(move || {
            cluster.begin_move(slot, from, to);
            for _ in 0..10 {
                cluster.move_keys(slot, from, to);
            }
            cluster.end_move(slot, from, to);
        });
        moved.await.unwrap();
        from = to;
        sleep(Duration::from_millis(100)).await;
        let now = calls.load(Ordering::Relaxed);
        assert!(now > before, "nobody used it");
        before = now;
    }
    stop.store(true, Ordering::Relaxed);
    for user in users {
        let slowest = user.await.unwrap();
        // Three commands, each sent on at most four times.
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    }
    assert_eq!(cache.node_of(segments[0]), Some(cluster.nodes[from].name()));
}

#[tokio::test]
async fn a_killed_node_costs_its_slots_microseconds_and_the_others_nothing() {
    let mut cluster = Cluster::start();
    let cache = open(cluster.urls());
    fill(&cache, SegmentId(1), 1).await;
    let of = |node: &Node| (2..).map(SegmentId).find(|id| cache.node_of(*id) == Some(node.name()));
    let segments: Vec<SegmentId> = cluster.nodes.iter().map(|node| of(node).unwrap()).collect();
    for segment in &segments {
        fill(&cache, *segment, segment.0).await;
    }
    assert!(cache.health().await.iter().all(|node| node.error.is_none()));
    cluster.nodes[1].kill();
    let mut slowest = Duration::ZERO;
    // Longer than the others need to agree that it has failed.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let asked = Instant::now();
        let error = cache.read(segments[1], WIDE).await.unwrap_err();
        assert!(matches!(error, CacheError::Unreachable(_)), "{error}");
        slowest = slowest.max(asked.elapsed());
        for other in [segments[0], segments[2]] {
            assert_eq!(members(&cache, other).await, Some(other.0));
        }
        sleep(Duration::from_millis(2)).await;
    }
    assert!(
        slowest < Duration::from_millis(100),
        "{slowest:?} for a node that is away"
    );
    let health = cache.health().await;
    let away: Vec<_> = health.iter().filter(|node| node.error.is_some()).collect();
    assert_eq!((health.len(), away.len()), (3, 1), "{health:?}");
    assert_eq!(away[0].node, cluster.nodes[1].name());
    assert!(cache.invalidate(&segments).await.is_err());
    assert!(!cache.read(segments[2], WIDE).await.unwrap().value.unwrap().fresh);

    cluster.nodes[1].restart();
    heals(&cache, &segments).await;

    // A cluster that is set to serve all or nothing serves nothing: told so, and at once.
    cluster.settles();
    for node in [0, 2] {
        cluster.nodes[node].ask(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"]);
    }
    cluster.nodes[1].kill();
    let until = Instant::now() + Duration::from_secs(10);
    let error = loop {
        match cache.read(segments[0], WIDE).await {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < until, "the cluster still serves"),
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert!(error.to_string().contains("CLUSTERDOWN"), "{error}");

    cluster.nodes[1].restart();
    heals(&cache, &segments).await;
}

async fn heals(cache: &RedisCache, segments: &[SegmentId]) {
    let began = Instant::now();
    for segment in segments {
        while cache.read(*segment, WIDE).await.is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "the node is back, the cache is not"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn nodes_and_a_cluster_taken_for_each_other_are_told() {
    let (cluster, node) = (Cluster::start(), Node::start(&[]));
    let nodes = RedisCache::new(&RedisConfig {
        urls: cluster.urls()[..1].to_vec(),
        ..RedisConfig::default()
    });
    let nodes = nodes.unwrap();
    let reads = futures_util::future::join_all((1..20).map(|id| nodes.read(SegmentId(id), WIDE))).await;
    let told = reads.into_iter().find_map(Result::err).unwrap().to_string();
    assert!(told.contains("redis_mode must be cluster"), "{told}");
    let health = nodes.health().await.remove(0).error.unwrap().to_string();
    assert_eq!(health, told);
    let alone = open(vec![node.url()]);
    let told = alone.read(SegmentId(1), WIDE).await.unwrap_err().to_string();
    assert!(told.contains("redis_mode must be nodes"), "{told}");
    let health = alone.health().await;
    assert!(health.iter().any(|node| node.error.is_some()), "{health:?}");
}

#[tokio::test]
async fn a_cluster_is_found_by_any_of_its_nodes_that_lives() {
    let mut cluster = Cluster::start();
    cluster.nodes[0].kill();
    let cache = open(cluster.urls());
    let mut answered = 0;
    for id in 1..=60 {
        answered += u32::from(cache.read(SegmentId(id), WIDE).await.is_ok());
    }
    assert!(
        (20..=58).contains(&answered),
        "{answered} of 60 answered by two of three nodes"
    );
}
