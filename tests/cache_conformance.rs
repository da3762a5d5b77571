//! One suite for every cache: memory, one Redis, three Redis nodes, a Redis Cluster. What a [`Cache`] promises, on the real thing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use segment_counter::cache::{Claim, Lookup, MemoryCache, RedisCache, RedisConfig, RedisMode, SharedCache};
use segment_counter::counting::SegmentId;
use tokio::time::{Instant, sleep};

/// Far longer than a test takes.
const WIDE: Duration = Duration::from_secs(30);
/// A clock of the machine and the monotonic one may run apart by this much within a test.
const CLOCKS: Duration = Duration::from_millis(5);
const S: SegmentId = SegmentId(7);

fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(1_800_000_000_000_000 + micros).unwrap()
}

fn memory() -> SharedCache {
    Arc::new(MemoryCache::new(100_000, Duration::from_secs(900)))
}

fn redis(mode: RedisMode, urls: Vec<String>) -> SharedCache {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let prefix = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    // A busy machine must not make the suite fail: speed is not what it is about.
    let response_timeout = Duration::from_secs(10);
    let config = RedisConfig {
        mode,
        urls,
        prefix,
        response_timeout,
        connect_timeout: response_timeout,
        ..RedisConfig::default()
    };
    Arc::new(RedisCache::new(&config).unwrap())
}

fn one_node() -> SharedCache {
    redis(RedisMode::Nodes, vec![support::redis::url()])
}

fn three_nodes() -> SharedCache {
    static NODES: std::sync::OnceLock<Vec<support::redis::Node>> = std::sync::OnceLock::new();
    let nodes = NODES.get_or_init(|| (0..3).map(|_| support::redis::Node::start(&[])).collect());
    redis(RedisMode::Nodes, nodes.iter().map(support::redis::Node::url).collect())
}

/// Told of one of its nodes alone: the others it must find.
fn cluster() -> SharedCache {
    static CLUSTER: std::sync::OnceLock<support::redis::Cluster> = std::sync::OnceLock::new();
    let cluster = CLUSTER.get_or_init(support::redis::Cluster::start);
    redis(RedisMode::Cluster, cluster.urls()[..1].to_vec())
}

macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        mod in_memory { $(#[tokio::test] async fn $test() { super::$test(super::memory()).await; })* }
        mod one_redis {
            $(#[tokio::test] async fn $test() { super::$test(super::one_node()).await; })*
        }
        mod three_redis { $(#[tokio::test] async fn $test() { super::$test(super::three_nodes()).await; })* }
        mod redis_cluster { $(#[tokio::test] async fn $test() { super::$test(super::cluster()).await; })* }
    };
}

conformance! {
    a_claim_is_given_to_one_reader_and_its_value_is_then_served,
    of_many_readers_at_once_exactly_one_gets_the_claim,
    a_value_is_not_stored_once_a_writer_took_the_claim_away,
    a_claim_lapses_with_its_bound_and_stores_nothing_then,
    a_claim_stores_once,
    a_slow_reader_cannot_put_an_old_value_back,
    an_unfresh_value_is_served_inside_the_bound_while_one_reader_refreshes,
    a_value_older_than_the_bound_is_told_with_its_age_and_claimed,
    ages_are_counted_from_the_claim,
    an_invalidation_of_what_is_absent_leaves_nothing,
    many_segments_are_invalidated_in_one_call,
    a_bound_of_zero_claims_nothing,
    counts_and_instants_of_any_size_come_back_exactly,
    segments_do_not_touch_each_other,
    any_order_of_calls_does_what_the_model_does,
}

async fn claim(cache: &SharedCache, segment: SegmentId, bound: Duration) -> Claim {
    cache.read(segment, bound).await.unwrap().claim.expect("a claim")
}

async fn fill(cache: &SharedCache, segment: SegmentId, members: i64) {
    let claim = claim(cache, segment, WIDE).await;
    assert!(cache.store(&claim, members, instant(members)).await.unwrap());
}

async fn members(cache: &SharedCache, segment: SegmentId) -> Option<i64> {
    cache
        .read(segment, WIDE)
        .await
        .unwrap()
        .value
        .map(|value| value.members)
}

async fn a_claim_is_given_to_one_reader_and_its_value_is_then_served(cache: SharedCache) {
    let first = cache.read(S, WIDE).await.unwrap();
    assert_eq!(first.value, None);
    assert_eq!(
        cache.read(S, WIDE).await.unwrap(),
        Lookup {
            value: None,
            claim: None
        }
    );
    assert!(cache.store(&first.claim.unwrap(), 42, instant(1)).await.unwrap());
    let lookup = cache.read(S, WIDE).await.unwrap();
    let value = lookup.value.unwrap();
    assert_eq!((value.members, value.as_of, value.fresh), (42, instant(1), true));
    assert_eq!(lookup.claim, None);
}

async fn of_many_readers_at_once_exactly_one_gets_the_claim(cache: SharedCache) {
    let reads = futures_util::future::join_all((0..50).map(|_| cache.read(S, WIDE))).await;
    assert_eq!(
        reads
            .into_iter()
            .filter(|read| read.as_ref().unwrap().claim.is_some())
            .count(),
        1
    );
}

async fn a_value_is_not_stored_once_a_writer_took_the_claim_away(cache: SharedCache) {
    let claim = claim(&cache, S, WIDE).await;
    cache.invalidate(&[S]).await.unwrap();
    assert!(!cache.store(&claim, 1, instant(1)).await.unwrap());
    let lookup = cache.read(S, WIDE).await.unwrap();
    assert_eq!(lookup.value, None);
    assert!(lookup.claim.is_some(), "the next reader may refresh at once");
}

async fn a_claim_lapses_with_its_bound_and_stores_nothing_then(cache: SharedCache) {
    let bound = Duration::from_millis(100);
    let lapsed = claim(&cache, S, bound).await;
    sleep(bound + CLOCKS).await;
    assert!(!cache.store(&lapsed, 1, instant(1)).await.unwrap());
    let next = claim(&cache, S, WIDE).await;
    assert!(!cache.store(&lapsed, 1, instant(1)).await.unwrap());
    assert!(cache.store(&next, 2, instant(2)).await.unwrap());
    assert_eq!(members(&cache, S).await, Some(2));
}

async fn a_claim_stores_once(cache: SharedCache) {
    let claim = claim(&cache, S, WIDE).await;
    assert!(cache.store(&claim, 1, instant(1)).await.unwrap());
    assert!(!cache.store(&claim, 2, instant(2)).await.unwrap());
    assert_eq!(members(&cache, S).await, Some(1));
}

async fn a_slow_reader_cannot_put_an_old_value_back(cache: SharedCache) {
    let slow = claim(&cache, S, WIDE).await;
    cache.invalidate(&[S]).await.unwrap();
    fill(&cache, S, 2).await;
    assert!(!cache.store(&slow, 1, instant(1)).await.unwrap());
    let value = cache.read(S, WIDE).await.unwrap().value.unwrap();
    assert_eq!((value.members, value.fresh), (2, true));
}

async fn an_unfresh_value_is_served_inside_the_bound_while_one_reader_refreshes(cache: SharedCache) {
    fill(&cache, S, 1).await;
    cache.invalidate(&[S]).await.unwrap();
    let first = cache.read(S, WIDE).await.unwrap();
    let second = cache.read(S, WIDE).await.unwrap();
    assert!(!first.value.unwrap().fresh && !second.value.unwrap().fresh);
    assert_eq!((first.value.unwrap().members, second.value.unwrap().members), (1, 1));
    assert_eq!(second.claim, None);
    assert!(cache.store(&first.claim.unwrap(), 2, instant(2)).await.unwrap());
    let value = cache.read(S, WIDE).await.unwrap().value.unwrap();
    assert_eq!((value.members, value.fresh), (2, true));
}

async fn a_value_older_than_the_bound_is_told_with_its_age_and_claimed(cache: SharedCache) {
    fill(&cache, S, 1).await;
    let pause = Duration::from_millis(60);
    sleep(pause + CLOCKS).await;
    let lookup = cache.read(S, pause).await.unwrap();
    assert!(lookup.value.unwrap().age > pause);
    assert!(lookup.claim.is_some());
    assert!(
        cache.read(S, WIDE).await.unwrap().claim.is_none(),
        "a wider bound is content with it"
    );
}

async fn ages_are_counted_from_the_claim(cache: SharedCache) {
    let before = Instant::now();
    let claim = claim(&cache, S, WIDE).await;
    let after = Instant::now();
    sleep(Duration::from_millis(50)).await;
    assert!(cache.store(&claim, 1, instant(1)).await.unwrap());
    for _ in 0..3 {
        sleep(Duration::from_millis(20)).await;
        let youngest = after.elapsed();
        let age = cache.read(S, WIDE).await.unwrap().value.unwrap().age;
        assert!(age + CLOCKS >= youngest && age <= before.elapsed() + CLOCKS, "{age:?}");
    }
}

async fn an_invalidation_of_what_is_absent_leaves_nothing(cache: SharedCache) {
    cache.invalidate(&[]).await.unwrap();
    cache.invalidate(&[S, S]).await.unwrap();
    let lookup = cache.read(S, WIDE).await.unwrap();
    assert_eq!(lookup.value, None);
    assert!(lookup.claim.is_some());
}

async fn many_segments_are_invalidated_in_one_call(cache: SharedCache) {
    let segments: Vec<SegmentId> = (1..=500).map(SegmentId).collect();
    for segment in &segments {
        fill(&cache, *segment, segment.0).await;
    }
    cache.invalidate(&segments).await.unwrap();
    for segment in &segments {
        assert!(!cache.read(*segment, WIDE).await.unwrap().value.unwrap().fresh);
    }
}

async fn a_bound_of_zero_claims_nothing(cache: SharedCache) {
    assert_eq!(
        cache.read(S, Duration::ZERO).await.unwrap(),
        Lookup {
            value: None,
            claim: None
        }
    );
    assert!(cache.read(S, WIDE).await.unwrap().claim.is_some());
}

async fn counts_and_instants_of_any_size_come_back_exactly(cache: SharedCache) {
    let extremes = [(0, 0), (i64::MAX, i64::from(u32::MAX)), (9_007_199_254_740_993, -1)];
    for (segment, (members, micros)) in extremes.into_iter().enumerate() {
        let segment = SegmentId(i64::MAX - i64::try_from(segment).unwrap());
        let claim = claim(&cache, segment, WIDE).await;
        assert!(cache.store(&claim, members, instant(micros)).await.unwrap());
        let value = cache.read(segment, WIDE).await.unwrap().value.unwrap();
        assert_eq!((value.members, value.as_of), (members, instant(micros)));
    }
}

async fn segments_do_not_touch_each_other(cache: SharedCache) {
    let (one, other) = (SegmentId(1), SegmentId(11));
    let claimed = claim(&cache, one, WIDE).await;
    let strayed = Claim {
        segment: other,
        token: claimed.token,
    };
    assert!(!cache.store(&strayed, 9, instant(9)).await.unwrap());
    fill(&cache, other, 2).await;
    cache.invalidate(&[other]).await.unwrap();
    assert!(cache.store(&claimed, 1, instant(1)).await.unwrap());
    assert_eq!(
        (members(&cache, one).await, members(&cache, other).await),
        (Some(1), Some(2))
    );
}

#[derive(Default)]
struct Model {
    value: Option<(i64, bool)>,
    claim: Option<u64>,
}

/// Without time (every bound is wide), a cache is a value, a freshness and a token.
async fn any_order_of_calls_does_what_the_model_does(cache: SharedCache) {
    use rand::{RngExt, SeedableRng};
    let mut dice = rand::rngs::StdRng::seed_from_u64(20_261_124);
    let mut models: BTreeMap<SegmentId, Model> = BTreeMap::new();
    let mut handed: Vec<Claim> = Vec::new();
    for step in 0..3_000_i64 {
        let segment = SegmentId(dice.random_range(1..=4));
        let model = models.entry(segment).or_default();
        match dice.random_range(0..10) {
            0..5 => {
                let lookup = cache.read(segment, WIDE).await.unwrap();
                assert_eq!(
                    lookup.value.map(|value| (value.members, value.fresh)),
                    model.value,
                    "step {step}"
                );
                let wanted = model.value.is_none_or(|(_, fresh)| !fresh) && model.claim.is_none();
                assert_eq!(lookup.claim.is_some(), wanted, "step {step}");
                if let Some(claim) = lookup.claim {
                    model.claim = Some(claim.token);
                    handed.push(claim);
                }
            }
            5..9 if !handed.is_empty() => {
                let claim = handed.swap_remove(dice.random_range(0..handed.len()));
                let model = models.entry(claim.segment).or_default();
                let stands = model.claim == Some(claim.token);
                assert_eq!(
                    cache.store(&claim, step, instant(step)).await.unwrap(),
                    stands,
                    "step {step}"
                );
                if stands {
                    *model = Model {
                        value: Some((step, true)),
                        claim: None,
                    };
                }
            }
            _ => {
                cache.invalidate(&[segment]).await.unwrap();
                model.claim = None;
                model.value = model.value.map(|(members, _)| (members, false));
            }
        }
    }
}
