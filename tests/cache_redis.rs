//! What only Redis can do to us: nodes that die, hang, restart, refuse the password or fill up; shares of nodes; the size of a key.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use redis::Value;
use segment_counter::cache::{Cache, CacheError, RedisCache, RedisConfig};
use segment_counter::counting::SegmentId;
use support::redis::{Node, command};
use tokio::time::{Instant, sleep};

const WIDE: Duration = Duration::from_secs(30);

fn config(nodes: &[&Node]) -> RedisConfig {
    RedisConfig {
        urls: nodes.iter().map(|node| node.url()).collect(),
        ..RedisConfig::default()
    }
}

fn open(nodes: &[&Node]) -> RedisCache {
    RedisCache::new(&config(nodes)).unwrap()
}

async fn fill(cache: &RedisCache, segment: SegmentId, members: i64) {
    let claim = cache.read(segment, WIDE).await.unwrap().claim.expect("a claim");
    assert!(cache.store(&claim, members, Timestamp::UNIX_EPOCH).await.unwrap());
}

/// Asks until the cache answers; says how long that took.
async fn heals(cache: &RedisCache, segment: SegmentId) -> Duration {
    let started = Instant::now();
    while cache.read(segment, WIDE).await.is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the node is back, the cache is not"
        );
        sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

/// A segment of each node, in the order of `nodes`.
fn one_of_each(cache: &RedisCache, nodes: &[&Node]) -> Vec<SegmentId> {
    let of = |node: &&Node| (1..).map(SegmentId).find(|id| cache.node_of(*id) == Some(node.name()));
    nodes.iter().map(|node| of(node).unwrap()).collect()
}

#[tokio::test]
async fn a_killed_node_fails_at_once_spares_the_others_and_heals() {
    let mut nodes = [Node::start(&[]), Node::start(&[]), Node::start(&[])];
    let cache = open(&[&nodes[0], &nodes[1], &nodes[2]]);
    let segments = one_of_each(&cache, &[&nodes[0], &nodes[1], &nodes[2]]);
    for segment in &segments {
        fill(&cache, *segment, segment.0).await;
    }
    nodes[1].kill();
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let asked = Instant::now();
        assert!(cache.read(segments[1], WIDE).await.is_err());
        slowest = slowest.max(asked.elapsed());
        for other in [segments[0], segments[2]] {
            assert_eq!(cache.read(other, WIDE).await.unwrap().value.unwrap().members, other.0);
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert!(
        slowest < Duration::from_millis(100),
        "{slowest:?} for a node that is away"
    );
    let health = cache.health().await;
    assert_eq!(health.iter().filter(|node| node.error.is_some()).count(), 1);
    assert!(
        health
            .iter()
            .any(|node| node.node == nodes[1].name() && node.error.is_some())
    );
    // A notice to all reaches those that are there, and says that one is not.
    assert!(cache.invalidate(&segments).await.is_err());
    assert!(!cache.read(segments[0], WIDE).await.unwrap().value.unwrap().fresh);
    assert!(!cache.read(segments[2], WIDE).await.unwrap().value.unwrap().fresh);

    nodes[1].restart();
    let healed = heals(&cache, segments[1]).await;
    assert!(healed < Duration::from_secs(3), "{healed:?}");
    fill_again(&cache, segments[1]).await;
}

/// A healed read may have taken the claim; the next one is had after a writer took it away.
async fn fill_again(cache: &RedisCache, segment: SegmentId) {
    cache.invalidate(&[segment]).await.unwrap();
    fill(cache, segment, 5).await;
    assert_eq!(cache.read(segment, WIDE).await.unwrap().value.unwrap().members, 5);
}

#[tokio::test]
async fn a_node_that_hangs_costs_one_timeout_and_then_microseconds() {
    let node = Node::start(&[]);
    let cache = open(&[&node]);
    let segment = SegmentId(1);
    fill(&cache, segment, 1).await;
    node.freeze();
    let error = cache.read(segment, WIDE).await.unwrap_err();
    assert!(matches!(error, CacheError::Timeout(_)), "{error}");
    let asked = Instant::now();
    for _ in 0..1_000 {
        assert!(cache.read(segment, WIDE).await.is_err());
    }
    assert!(
        asked.elapsed() < Duration::from_millis(200),
        "{:?} for 1000 refusals",
        asked.elapsed()
    );
    node.thaw();
    heals(&cache, segment).await;
    assert_eq!(cache.read(segment, WIDE).await.unwrap().value.unwrap().members, 1);
}

#[tokio::test]
async fn a_node_that_was_never_there_is_refused_quickly_and_found_when_it_comes() {
    let mut node = Node::start(&[]);
    node.kill();
    let cache = open(&[&node]);
    let asked = Instant::now();
    for _ in 0..20 {
        assert!(matches!(
            cache.read(SegmentId(1), WIDE).await,
            Err(CacheError::Unreachable(_))
        ));
    }
    assert!(asked.elapsed() < Duration::from_secs(1));
    node.restart();
    heals(&cache, SegmentId(1)).await;
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_taught_them_again() {
    let node = Node::start(&[]);
    let cache = open(&[&node]);
    let segments: Vec<SegmentId> = (1..=20).map(SegmentId).collect();
    for segment in &segments {
        fill(&cache, *segment, 1).await;
    }
    command(&node.url(), &["SCRIPT", "FLUSH"]).await;
    cache.invalidate(&segments).await.unwrap();
    command(&node.url(), &["SCRIPT", "FLUSH"]).await;
    for segment in &segments {
        assert!(!cache.read(*segment, WIDE).await.unwrap().value.unwrap().fresh);
    }
}

#[tokio::test]
async fn a_new_node_takes_its_share_of_the_keys_and_fails_no_request() {
    let nodes = [Node::start(&[]), Node::start(&[]), Node::start(&[])];
    let two = open(&[&nodes[0], &nodes[1]]);
    let three = open(&[&nodes[0], &nodes[1], &nodes[2]]);
    let mut moved = 0;
    for id in 1..=600 {
        fill(&two, SegmentId(id), id).await;
        match three.read(SegmentId(id), WIDE).await.unwrap().value {
            Some(value) => assert_eq!(value.members, id),
            None => moved += 1,
        }
    }
    assert!((140..260).contains(&moved), "{moved} of 600 moved to the third node");
}

#[tokio::test]
async fn a_segment_takes_at_most_512_bytes_and_leaves_when_it_was_not_used() {
    let node = Node::start(&[]);
    let config = RedisConfig {
        prefix: "p".repeat(64),
        keep: Duration::from_secs(900),
        ..config(&[&node])
    };
    let cache = RedisCache::new(&config).unwrap();
    let segment = SegmentId(i64::MAX);
    let claim = cache.read(segment, WIDE).await.unwrap().claim.unwrap();
    let as_of = Timestamp::from_microsecond(1_800_000_000_123_456).unwrap();
    assert!(cache.store(&claim, i64::MAX, as_of).await.unwrap());
    cache.invalidate(&[segment]).await.unwrap();
    assert!(cache.read(segment, WIDE).await.unwrap().claim.is_some());
    let key = cache.key_of(segment).await.unwrap();
    let Value::Int(bytes) = command(&node.url(), &["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await else {
        panic!("no size");
    };
    assert!(bytes <= 512, "{bytes} bytes");
    let Value::Int(left) = command(&node.url(), &["PTTL", &key]).await else {
        panic!("no time to live")
    };
    assert!((800_000..=900_000).contains(&left), "{left} ms left");
    // A claim whose reader died leaves nothing behind for longer than it stands.
    cache.read(SegmentId(1), Duration::from_secs(1)).await.unwrap();
    let key = cache.key_of(SegmentId(1)).await.unwrap();
    let Value::Int(left) = command(&node.url(), &["PTTL", &key]).await else {
        panic!("no time to live")
    };
    assert!((1..=1_000).contains(&left), "{left} ms left");
}

#[tokio::test]
async fn a_password_is_read_at_each_connection_and_never_told() {
    let mut node = Node::start(&["--requirepass", "hunter2"]);
    let password = Arc::new(Mutex::new(Some("swordfish".to_owned())));
    let source = Arc::clone(&password);
    let config = RedisConfig {
        password: Some(Arc::new(move || source.lock().unwrap().clone())),
        ..config(&[&node])
    };
    let cache = RedisCache::new(&config).unwrap();
    for wrong in [Some("swordfish"), None] {
        *password.lock().unwrap() = wrong.map(str::to_owned);
        // The next caller after the pause has it probed; the one after that is told why.
        sleep(Duration::from_millis(1_100)).await;
        let _ = cache.read(SegmentId(1), WIDE).await;
        sleep(Duration::from_millis(100)).await;
        let error = cache.health().await.remove(0).error.unwrap();
        assert!(
            matches!(error, CacheError::AuthenticationFailed(_)),
            "{wrong:?}: {error}"
        );
        assert!(!error.to_string().contains("swordfish"), "{error}");
    }
    *password.lock().unwrap() = Some("hunter2".to_owned());
    heals(&cache, SegmentId(1)).await;
    node.restart();
    heals(&cache, SegmentId(1)).await;
}

#[tokio::test]
async fn counters_with_different_prefixes_share_a_node_without_meeting() {
    let node = Node::start(&[]);
    let with = |prefix: &str| {
        RedisCache::new(&RedisConfig {
            prefix: prefix.to_owned(),
            ..config(&[&node])
        })
        .unwrap()
    };
    let (one, other) = (with("one"), with("other"));
    fill(&one, SegmentId(1), 1).await;
    fill(&other, SegmentId(1), 2).await;
    assert_eq!(one.read(SegmentId(1), WIDE).await.unwrap().value.unwrap().members, 1);
}

#[tokio::test]
async fn the_owner_of_the_counts_is_part_of_their_keys_and_until_it_is_known_the_cache_is_away() {
    let node = Node::start(&[]);
    let told = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&told);
    let cache = RedisCache::new(&RedisConfig {
        owner: Some(Arc::new(move || {
            let known = asked.load(Ordering::SeqCst);
            Box::pin(async move { known.then(|| "owner".to_owned()).ok_or_else(|| "not yet".to_owned()) })
        })),
        ..config(&[&node])
    })
    .unwrap();
    let error = cache.read(SegmentId(1), WIDE).await.unwrap_err();
    assert!(
        matches!(&error, CacheError::Unreachable(why) if why.contains("not yet")),
        "{error}"
    );
    assert!(cache.invalidate(&[SegmentId(1)]).await.is_err());
    told.store(true, Ordering::SeqCst);
    fill(&cache, SegmentId(1), 1).await;
    assert!(cache.key_of(SegmentId(1)).await.unwrap().ends_with("-owner:{1}"));
    // It is asked once.
    told.store(false, Ordering::SeqCst);
    assert_eq!(cache.read(SegmentId(1), WIDE).await.unwrap().value.unwrap().members, 1);
}

#[tokio::test]
async fn a_full_node_refuses_and_stays_connected() {
    let node = Node::start(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let cache = open(&[&node]);
    let error = cache.read(SegmentId(1), WIDE).await.unwrap_err();
    assert!(matches!(error, CacheError::Internal(_)), "{error}");
    assert_eq!(cache.health().await[0].error, None);
}
