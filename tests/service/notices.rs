//! What the cache is told after commits: seldom, never too late for the last change, never at the cost of an answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use segment_counter::service::{Service, ServiceConfig};
use tokio::time::{Instant, sleep};

use crate::model::{ModelLedger, pair, start};
use crate::watched::WatchedCache;

const EVERY: Duration = Duration::from_millis(100);

fn setup() -> (Arc<ModelLedger>, Arc<WatchedCache>, Arc<Service>) {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    let service = start(&ledger, cache.clone(), ServiceConfig::default());
    (ledger, cache, service)
}

#[tokio::test(start_paused = true)]
async fn a_segment_is_told_at_most_once_in_100_ms_and_the_last_change_always() {
    let (ledger, cache, service) = setup();
    let mut last_commit = Instant::now();
    for user in 0..300 {
        service.record(pair(user, "hot")).await.unwrap();
        last_commit = Instant::now();
        if user % 50 == 0 {
            service.record(pair(user, &format!("cold-{user}"))).await.unwrap();
        }
        sleep(Duration::from_millis(3)).await;
    }
    sleep(EVERY * 2).await;
    let hot = ledger.id("hot");
    let notices = cache.notices.lock().unwrap();
    let told: Vec<Instant> = notices
        .iter()
        .filter(|(_, ids)| ids.contains(&hot))
        .map(|(at, _)| *at)
        .collect();
    assert!(told.windows(2).all(|pair| pair[1] - pair[0] >= EVERY), "{told:?}");
    assert!(told.len() >= 9, "{} notices in 0.9 s of changes", told.len());
    assert!(*told.last().unwrap() >= last_commit, "the last change was not told");
    // A segment that changes seldom is told at once, whatever another one does.
    let cold = ledger.id("cold-250");
    assert_eq!(notices.iter().filter(|(_, ids)| ids.contains(&cold)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_changed_nothing_is_not_told() {
    let (_ledger, cache, service) = setup();
    service.record(pair(1, "s")).await.unwrap();
    sleep(EVERY * 2).await;
    service.record(pair(1, "s")).await.unwrap();
    sleep(EVERY * 2).await;
    assert_eq!(cache.notices.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_hangs_delays_no_answer() {
    let (_ledger, cache, service) = setup();
    *cache.delay.lock().unwrap() = Duration::from_secs(5);
    let started = Instant::now();
    for user in 0..1_000 {
        service.record(pair(user, "s")).await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_what_was_still_held_back() {
    let (ledger, cache, service) = setup();
    service.record(pair(1, "s")).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    service.record(pair(2, "s")).await.unwrap();
    let last_commit = Instant::now();
    service.shutdown().await;
    let notices = cache.notices.lock().unwrap();
    let (at, ids) = notices.last().unwrap();
    assert_eq!(notices.len(), 2);
    assert!(*at >= last_commit && *ids == [ledger.id("s")]);
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_away_is_forgotten_and_the_next_change_told() {
    let (_ledger, cache, service) = setup();
    cache.broken.store(true, Ordering::SeqCst);
    service.record(pair(1, "s")).await.unwrap();
    sleep(EVERY).await;
    cache.broken.store(false, Ordering::SeqCst);
    service.record(pair(2, "s")).await.unwrap();
    sleep(EVERY).await;
    assert_eq!(cache.notices.lock().unwrap().len(), 2);
}
