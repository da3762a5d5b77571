//! When a dependency is away: what still answers, for how long, and what readiness says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use segment_counter::ledger::LedgerError;
use segment_counter::service::{Service, ServiceConfig, ServiceError};
use tokio::time::{Instant, sleep};

use crate::model::{ModelLedger, memory, name, pair, start};
use crate::watched::WatchedCache;

const STRICT: Option<Duration> = Some(Duration::ZERO);

fn away() -> LedgerError {
    LedgerError::Unreachable("away".to_owned())
}

async fn counted() -> (Arc<ModelLedger>, Arc<WatchedCache>, Arc<Service>) {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    let service = start(&ledger, cache.clone(), ServiceConfig::default());
    service.record(pair(1, "s")).await.unwrap();
    assert_eq!(service.count(&name("s"), None).await.unwrap().unwrap().count, 1);
    (ledger, cache, service)
}

#[tokio::test(start_paused = true)]
async fn without_the_cache_every_answer_stays_and_the_ledger_is_asked_within_bounds() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    cache.broken.store(true, Ordering::SeqCst);
    *ledger.count_delay.lock().unwrap() = Duration::from_millis(5);
    let service = start(&ledger, cache.clone(), ServiceConfig::default());
    for user in 1..=10 {
        service.record(pair(user, "s")).await.unwrap();
        let strict = service.count(&name("s"), STRICT).await.unwrap().unwrap();
        assert_eq!(strict.count, user);
        sleep(Duration::from_millis(1_100)).await;
        let answers = join_all((0..100).map(|_| async { service.count(&name("s"), None).await })).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().unwrap().count == user));
    }
    assert_eq!(ledger.statements(), 20, "one for each strict read, one for each crowd");
}

#[tokio::test(start_paused = true)]
async fn without_the_ledger_the_last_value_is_served_with_its_age_while_that_is_allowed() {
    let (ledger, _cache, service) = counted().await;
    let s = name("s");
    ledger.fail(Some(away()));
    sleep(Duration::from_secs(100)).await;
    let answer = service.count(&s, None).await.unwrap().unwrap();
    assert_eq!((answer.count, answer.exact), (1, false));
    assert_eq!(answer.staleness, Duration::from_secs(100));
    assert_eq!(
        service.count(&s, STRICT).await,
        Err(ServiceError::Ledger(away())),
        "strict means the ledger"
    );
    assert!(service.count(&name("never-asked"), None).await.is_err());
    sleep(Duration::from_secs(801)).await;
    assert_eq!(
        service.count(&s, None).await,
        Err(ServiceError::Ledger(away())),
        "901 s old"
    );
    ledger.fail(None);
    sleep(Duration::from_secs(1)).await;
    let answer = service.count(&s, None).await.unwrap().unwrap();
    assert!(answer.exact && answer.staleness <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn another_replicas_last_value_is_served_too() {
    let (ledger, cache, _service) = counted().await;
    let other = start(&ledger, cache, ServiceConfig::default());
    // It knows the segment's number, not its count.
    let segment = name("s");
    other.count(&segment, STRICT).await.unwrap();
    ledger.written_elsewhere(1, "t").await;
    sleep(Duration::from_secs(60)).await;
    ledger.fail(Some(away()));
    assert_eq!(other.count(&segment, None).await.unwrap().unwrap().count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_hangs_is_not_waited_for_by_every_reader() {
    let (ledger, _cache, service) = counted().await;
    sleep(Duration::from_secs(10)).await;
    ledger.fail(Some(LedgerError::Timeout("hangs".to_owned())));
    *ledger.count_delay.lock().unwrap() = Duration::from_secs(5);
    let s = name("s");
    let asked = Instant::now();
    for _ in 0..10 {
        assert!(!service.count(&s, None).await.unwrap().unwrap().exact);
    }
    assert!(
        asked.elapsed() <= Duration::from_secs(2),
        "{:?} for ten readers",
        asked.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn where_one_lane_is_away_those_of_another_are_exact() {
    let (ledger, _cache, service) = counted().await;
    service.record(pair(1, "elsewhere")).await.unwrap();
    let (s, elsewhere) = (name("s"), name("elsewhere"));
    service.count(&elsewhere, None).await.unwrap();
    let id = ledger.id("elsewhere");
    ledger.apart.lock().unwrap().push(id);
    for user in 2..20 {
        service.record(pair(user, "s")).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let away = service.count(&elsewhere, None).await.unwrap().unwrap();
        assert_eq!((away.count, away.exact), (1, false));
        let answer = service.count(&s, None).await.unwrap().unwrap();
        assert_eq!((answer.count, answer.exact), (user, true));
    }
}

#[tokio::test(start_paused = true)]
async fn where_one_lane_hangs_those_of_another_are_exact_in_the_same_call() {
    let (ledger, _cache, service) = counted().await;
    service.record(pair(1, "elsewhere")).await.unwrap();
    let both = [name("s"), name("elsewhere")];
    service.counts(&both, None).await.unwrap();
    ledger.apart.lock().unwrap().push(ledger.id("elsewhere"));
    *ledger.apart_delay.lock().unwrap() = Duration::from_secs(5);
    for user in 2..10 {
        service.record(pair(user, "s")).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let answers = service.counts(&both, None).await.unwrap();
        let answers: Vec<_> = answers
            .into_iter()
            .flatten()
            .map(|one| (one.count, one.exact))
            .collect();
        assert_eq!(answers, [(user, true), (1, false)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_says_nothing_is_waited_for_within_bounds_however_many_ask() {
    let ledger = ModelLedger::new();
    let config = ServiceConfig {
        ledger_reads: 2,
        ..ServiceConfig::default()
    };
    let service = start(&ledger, memory(), config);
    let names: Vec<_> = (0..4_000).map(|n| name(&format!("s{n}"))).collect();
    for name in &names {
        service.record(pair(1, name.as_str())).await.unwrap();
        service.count(name, STRICT).await.unwrap();
    }
    *ledger.count_delay.lock().unwrap() = Duration::from_secs(5);
    ledger.fail(Some(LedgerError::Timeout("hangs".to_owned())));
    let asked = Instant::now();
    let answers = join_all(names.chunks(1_000).map(|names| service.counts(names, STRICT))).await;
    assert!(answers.iter().all(Result::is_err));
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_stale_is_served_where_that_is_not_declared() {
    let ledger = ModelLedger::new();
    let service = start(
        &ledger,
        memory(),
        ServiceConfig {
            serve_stale: None,
            ..ServiceConfig::default()
        },
    );
    service.record(pair(1, "s")).await.unwrap();
    service.count(&name("s"), None).await.unwrap();
    ledger.fail(Some(away()));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(service.count(&name("s"), None).await, Err(ServiceError::Ledger(away())));
}

#[tokio::test(start_paused = true)]
async fn readiness_names_what_is_away_and_fails_only_when_nothing_could_be_answered() {
    let (ledger, cache, service) = counted().await;
    let readiness = service.readiness().await;
    assert!(readiness.is_ready() && !readiness.is_degraded());
    cache.broken.store(true, Ordering::SeqCst);
    let readiness = service.readiness().await;
    assert!(readiness.is_ready() && readiness.is_degraded());
    assert!(readiness.cache[0].error.is_some() && readiness.ledger.is_ok());
    ledger.fail(Some(away()));
    let readiness = service.readiness().await;
    assert_eq!(readiness.ledger, Err(away()));
    assert!(
        readiness.is_ready() && readiness.serves_stale,
        "last values may still answer"
    );
    sleep(Duration::from_secs(901)).await;
    assert!(!service.readiness().await.is_ready());
    // A process that has nothing to serve is not ready without its ledger.
    assert!(
        !start(&ledger, memory(), ServiceConfig::default())
            .readiness()
            .await
            .is_ready()
    );
}

#[tokio::test(start_paused = true)]
async fn where_the_cache_is_required_a_count_fails_without_it_and_neither_a_pair_nor_a_strict_count_does() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    let config = ServiceConfig {
        cache_required: true,
        ..ServiceConfig::default()
    };
    let service = start(&ledger, cache.clone(), config);
    let s = name("s");
    service.record(pair(1, "s")).await.unwrap();
    assert_eq!(service.count(&s, None).await.unwrap().unwrap().count, 1);
    assert!(service.readiness().await.is_ready());
    cache.broken.store(true, Ordering::SeqCst);
    let statements = ledger.statements();
    assert_eq!(
        service.count(&s, None).await.unwrap().unwrap().count,
        1,
        "remembered, and inside the bound"
    );
    sleep(Duration::from_secs(2)).await;
    let refused = service.count(&s, None).await;
    assert!(matches!(refused, Err(ServiceError::Cache(_))), "{refused:?}");
    assert!(refused.unwrap_err().is_transient());
    assert!(service.counts(&[name("s"), name("s")], None).await.is_err());
    assert_eq!(ledger.statements(), statements, "the ledger bears nothing of it");
    assert!(!service.readiness().await.is_ready());
    service.record(pair(2, "s")).await.unwrap();
    assert_eq!(service.count(&s, STRICT).await.unwrap().unwrap().count, 2);
    cache.broken.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(service.count(&s, None).await.unwrap().unwrap().count, 2);
    assert!(service.readiness().await.is_ready());
}
