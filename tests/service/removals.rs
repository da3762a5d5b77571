//! Removals, deletions and erasures: when they are acknowledged, and what counts say afterwards.

use std::sync::Arc;
use std::time::Duration;

use segment_counter::counting::{Removal, UserId};
use segment_counter::ledger::{Ledger, LedgerError, NewSegment, RemovalOutcome};
use segment_counter::service::{Service, ServiceConfig, ServiceError};
use tokio::time::{Instant, sleep};

use crate::model::{ModelLedger, memory, name, pair, start};
use crate::watched::WatchedCache;

/// For so long another replica may answer pairs from memory.
const LEASE: Duration = Duration::from_millis(100);

fn setup() -> (Arc<ModelLedger>, Arc<Service>) {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    (ledger, service)
}

fn removal(user: &str, segment: &str) -> Removal {
    Removal {
        user: UserId::new(user).unwrap(),
        segment: name(segment),
    }
}

async fn count(service: &Service, segment: &str, staleness: Duration) -> Option<i64> {
    let answer = service.count(&name(segment), Some(staleness)).await.unwrap();
    answer.map(|answer| answer.count)
}

#[tokio::test(start_paused = true)]
async fn what_raises_the_epoch_is_acknowledged_only_after_the_lease() {
    let (_, service) = setup();
    service.record(pair(1, "s")).await.unwrap();
    for change in 0..4 {
        let began = Instant::now();
        match change {
            0 => assert_eq!(
                service.remove(vec![removal("1", "s")]).await.unwrap(),
                [RemovalOutcome::Removed]
            ),
            1 => drop(service.erase(&UserId::new("1").unwrap()).await.unwrap()),
            2 => drop(
                service
                    .put_segment(&NewSegment {
                        name: name("s"),
                        window: None,
                        description: None,
                    })
                    .await
                    .unwrap(),
            ),
            _ => assert!(service.delete_segment(&name("s")).await.unwrap()),
        }
        assert!(
            began.elapsed() > LEASE,
            "{change} was acknowledged after {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_told_at_once_and_changes_nothing() {
    let (ledger, service) = setup();
    service.record(pair(1, "s")).await.unwrap();
    let failure = LedgerError::Unreachable("away".to_owned());
    ledger.fail(Some(failure.clone()));
    let began = Instant::now();
    let refused = service.remove(vec![removal("1", "s")]).await;
    assert_eq!(refused, Err(ServiceError::Ledger(failure)));
    assert!(began.elapsed() < LEASE);
    ledger.fail(None);
    assert_eq!(count(&service, "s", Duration::ZERO).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_told_of_what_a_removal_changed_even_where_the_client_has_gone() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    let service = start(&ledger, cache.clone(), ServiceConfig::default());
    service.record(pair(1, "s")).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    cache.notices.lock().unwrap().clear();
    let gone = Arc::clone(&service);
    let request = tokio::spawn(async move { gone.remove(vec![removal("1", "s")]).await });
    tokio::task::yield_now().await;
    request.abort();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(ledger.members("s"), 0);
    let notices = cache.notices.lock().unwrap();
    assert!(notices.iter().any(|(_, ids)| ids.contains(&ledger.id("s"))));
}

#[tokio::test(start_paused = true)]
async fn a_segment_deleted_elsewhere_is_not_found_once_the_ledger_is_asked() {
    let (ledger, service) = setup();
    let bound = Duration::from_secs(1);
    service.record(pair(1, "s")).await.unwrap();
    assert_eq!(count(&service, "s", bound).await, Some(1));
    // Another process deletes it: this one has its number and its count in memory.
    ledger.delete_segment(&name("s")).await.unwrap();
    assert_eq!(count(&service, "s", Duration::ZERO).await, None);
    assert_eq!(count(&service, "s", bound).await, None);

    ledger.written_elsewhere(2, "s").await;
    ledger.written_elsewhere(3, "s").await;
    assert_eq!(
        count(&service, "s", bound).await,
        Some(2),
        "created anew, under another number"
    );
    ledger.delete_segment(&name("s")).await.unwrap();
    ledger.written_elsewhere(4, "s").await;
    // Within the bound the old count may be served, and not a moment longer.
    sleep(bound + Duration::from_millis(1)).await;
    let names = [name("s"), name("never"), name("s")];
    let counts: Vec<_> = service.counts(&names, Some(bound)).await.unwrap();
    let counts: Vec<_> = counts
        .into_iter()
        .map(|answer| answer.map(|answer| answer.count))
        .collect();
    assert_eq!(counts, [Some(1), None, Some(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_removal_that_is_under_way_and_takes_no_more() {
    let (ledger, service) = setup();
    service.record(pair(1, "s")).await.unwrap();
    let under_way = Arc::clone(&service);
    let request = tokio::spawn(async move { under_way.remove(vec![removal("1", "s")]).await });
    tokio::task::yield_now().await;
    service.shutdown().await;
    assert_eq!(request.await.unwrap(), Ok(vec![RemovalOutcome::Removed]));
    assert_eq!(ledger.members("s"), 0);
    assert_eq!(
        service.remove(vec![removal("1", "s")]).await,
        Err(ServiceError::ShuttingDown)
    );
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_removals_leaves_the_ledger_to_the_others_and_is_told_to_come_again() {
    let (ledger, service) = setup();
    service.record(pair("u", "s")).await.unwrap();
    *ledger.remove_delay.lock().unwrap() = Duration::from_millis(500);
    let began = Instant::now();
    let answers = futures_util::future::join_all((0..3_000).map(|_| service.remove(vec![removal("u", "s")]))).await;
    assert!(ledger.most_removing.load(std::sync::atomic::Ordering::SeqCst) <= 4);
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = |answer: &&Result<_, _>| matches!(answer, Err(ServiceError::Overloaded { .. }));
    assert_eq!(done + answers.iter().filter(refused).count(), 3_000);
    // Four every half second, for as long as one waits.
    assert!((40..=48).contains(&done), "{done}");
    assert_eq!(count(&service, "s", Duration::ZERO).await, Some(0));
}
