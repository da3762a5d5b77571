//! The read path: who asks the ledger, how often, and what a strict read may join.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use segment_counter::counting::SegmentName;
use segment_counter::ledger::NewSegment;
use segment_counter::service::{Service, ServiceConfig};
use tokio::time::sleep;

use crate::model::{ModelLedger, memory, name, pair, start};
use crate::watched::WatchedCache;

const STRICT: Option<Duration> = Some(Duration::ZERO);
const MS: Duration = Duration::from_millis(1);

async fn count(service: &Service, segment: &str, bound: Option<Duration>) -> i64 {
    service.count(&name(segment), bound).await.unwrap().unwrap().count
}

fn spawn_count(service: &Arc<Service>, segment: &'static str, bound: Option<Duration>) -> tokio::task::JoinHandle<i64> {
    let service = Arc::clone(service);
    tokio::spawn(async move { count(&service, segment, bound).await })
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_a_cold_segment_cost_one_statement() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    ledger.written_elsewhere(1, "s").await;
    *ledger.count_delay.lock().unwrap() = 10 * MS;
    let service = start(&ledger, cache.clone(), ServiceConfig::default());
    let answers = join_all((0..1_000).map(|_| count(&service, "s", None))).await;
    assert!(answers.iter().all(|answer| *answer == 1));
    assert_eq!(ledger.statements(), 1);
    assert!(
        ledger.resolves.load(Ordering::SeqCst) <= 2,
        "the first look-up, and one for all the others"
    );
    assert_eq!(cache.reads.load(Ordering::SeqCst), 1);
    // And the next thousand cost nothing.
    join_all((0..1_000).map(|_| count(&service, "s", None))).await;
    assert_eq!((ledger.statements(), cache.reads.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_strict_read_never_joins_a_statement_that_was_sent() {
    let ledger = ModelLedger::new();
    ledger.written_elsewhere(1, "s").await;
    let service = start(&ledger, memory(), ServiceConfig::default());
    assert_eq!(count(&service, "s", STRICT).await, 1);
    ledger.count_door.close();
    let sent = spawn_count(&service, "s", STRICT);
    sleep(MS).await;
    assert_eq!(ledger.statements(), 2);
    service.record(pair(2, "s")).await.unwrap();
    // These come after the acknowledgement: they share one statement, sent after the one under way has landed.
    let after: Vec<_> = (0..20).map(|_| spawn_count(&service, "s", STRICT)).collect();
    sleep(MS).await;
    assert_eq!(ledger.statements(), 2, "one statement a segment at a time");
    ledger.count_door.release();
    assert_eq!(sent.await.unwrap(), 1);
    for answer in after {
        assert_eq!(answer.await.unwrap(), 2);
    }
    assert_eq!(ledger.statements(), 3);
}

#[tokio::test(start_paused = true)]
async fn few_statements_run_at_once_and_what_waits_gathers() {
    let ledger = ModelLedger::new();
    let names: Vec<SegmentName> = (0..200).map(|id| name(&format!("s{id}"))).collect();
    for segment in &names {
        ledger.written_elsewhere(1, segment.as_str()).await;
    }
    *ledger.count_delay.lock().unwrap() = 10 * MS;
    let service = start(&ledger, memory(), ServiceConfig::default());
    let answers = join_all(names.iter().map(|segment| service.count(segment, STRICT))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().unwrap().count == 1));
    assert!(
        ledger.statements() <= 8,
        "{} statements for 200 segments",
        ledger.statements()
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_for_many_segments_is_one_statement_in_their_order() {
    let ledger = ModelLedger::new();
    for (user, segment) in [(1, "a"), (1, "b"), (2, "b"), (1, "c"), (2, "c"), (3, "c")] {
        ledger.written_elsewhere(user, segment).await;
    }
    for bound in [None, STRICT] {
        let service = start(&ledger, memory(), ServiceConfig::default());
        let before = ledger.statements();
        let asked = ["c", "absent", "a", "b", "c"].map(name);
        let answers = service.counts(&asked, bound).await.unwrap();
        let counts: Vec<Option<i64>> = answers.iter().map(|answer| answer.as_ref().map(|a| a.count)).collect();
        assert_eq!(counts, [Some(3), None, Some(1), Some(2), Some(3)]);
        assert_eq!(answers[0].as_ref().unwrap().segment, name("c"));
        assert_eq!(ledger.statements() - before, 1, "{bound:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_segment_is_not_remembered_as_absent() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    assert_eq!(service.count(&name("s"), None).await.unwrap(), None);
    let segment = NewSegment {
        name: name("s"),
        window: None,
        description: None,
    };
    service.put_segment(&segment).await.unwrap();
    assert_eq!(count(&service, "s", None).await, 0);
    assert_eq!(service.count(&name("t"), None).await.unwrap(), None);
    service.record(pair(1, "t")).await.unwrap();
    assert_eq!(count(&service, "t", None).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_sent_before_a_segment_was_created_does_not_hide_it() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    ledger.resolve_door.close();
    let early = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.count(&name("s"), None).await }
    });
    sleep(MS).await;
    service.record(pair(1, "s")).await.unwrap();
    let late = spawn_count(&service, "s", None);
    sleep(MS).await;
    ledger.resolve_door.release();
    assert_eq!(early.await.unwrap().unwrap(), None);
    assert_eq!(late.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_replica_fills_the_cache_for_all() {
    let (ledger, cache) = (ModelLedger::new(), memory());
    ledger.written_elsewhere(1, "s").await;
    let replicas: Vec<_> = (0..5)
        .map(|_| start(&ledger, Arc::clone(&cache), ServiceConfig::default()))
        .collect();
    for replica in &replicas {
        assert_eq!(count(replica, "s", None).await, 1);
        sleep(MS).await;
    }
    assert_eq!(ledger.statements(), 1);
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_cold_segment_at_every_replica_share_one_statement() {
    let (ledger, cache) = (ModelLedger::new(), memory());
    ledger.written_elsewhere(1, "s").await;
    *ledger.count_delay.lock().unwrap() = 5 * MS;
    let replicas: Vec<_> = (0..5)
        .map(|_| start(&ledger, Arc::clone(&cache), ServiceConfig::default()))
        .collect();
    let answers = join_all((0..500).map(|reader| count(&replicas[reader % 5], "s", None))).await;
    assert!(answers.iter().all(|answer| *answer == 1));
    assert_eq!(ledger.statements(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_died_while_it_read_holds_the_others_up_for_a_moment_only() {
    let (ledger, cache) = (ModelLedger::new(), memory());
    ledger.written_elsewhere(1, "s").await;
    let (dying, other) = (
        start(&ledger, Arc::clone(&cache), ServiceConfig::default()),
        start(&ledger, cache, ServiceConfig::default()),
    );
    // It has the claim, and its statement is never answered.
    ledger.count_door.close();
    let held = spawn_count(&dying, "s", None);
    sleep(MS).await;
    let asked = tokio::time::Instant::now();
    let waiting = spawn_count(&other, "s", None);
    sleep(100 * MS).await;
    assert_eq!(ledger.statements(), 2, "the other one asks for itself");
    ledger.count_door.release();
    assert_eq!((held.await.unwrap(), waiting.await.unwrap()), (1, 1));
    assert_eq!(asked.elapsed(), 100 * MS);
}

#[tokio::test(start_paused = true)]
async fn what_comes_from_the_cache_inherits_its_age() {
    let (ledger, cache) = (ModelLedger::new(), memory());
    ledger.written_elsewhere(1, "s").await;
    let (one, other) = (
        start(&ledger, Arc::clone(&cache), ServiceConfig::default()),
        start(&ledger, cache, ServiceConfig::default()),
    );
    assert_eq!(count(&one, "s", None).await, 1);
    ledger.written_elsewhere(2, "s").await;
    sleep(900 * MS).await;
    let inherited = other.count(&name("s"), None).await.unwrap().unwrap();
    assert_eq!((inherited.count, inherited.staleness), (1, 900 * MS));
    sleep(101 * MS).await;
    assert_eq!(count(&other, "s", None).await, 2, "1.001 s old");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_put_an_old_count_back() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    let (slow, writer) = (
        start(&ledger, cache.clone(), ServiceConfig::default()),
        start(&ledger, cache.clone(), ServiceConfig::default()),
    );
    writer.record(pair(1, "s")).await.unwrap();
    sleep(200 * MS).await;
    ledger.count_door.close();
    let held = spawn_count(&slow, "s", None);
    sleep(MS).await;
    assert_eq!(ledger.statements(), 1);
    // Its snapshot is taken; now a writer elsewhere commits and tells the cache.
    writer.record(pair(2, "s")).await.unwrap();
    sleep(200 * MS).await;
    ledger.count_door.release();
    assert_eq!(held.await.unwrap(), 1, "exact when it was sent");
    sleep(MS).await;
    assert_eq!(*cache.stores.lock().unwrap(), [false]);
    assert_eq!(count(&writer, "s", None).await, 2);
    assert_eq!(*cache.stores.lock().unwrap(), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_statement_sent_before_the_claim_does_not_fill_the_cache() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    let (reader, writer) = (
        start(&ledger, cache.clone(), ServiceConfig::default()),
        start(&ledger, cache.clone(), ServiceConfig::default()),
    );
    writer.record(pair(1, "s")).await.unwrap();
    sleep(200 * MS).await;
    ledger.count_door.close();
    let strict = spawn_count(&reader, "s", STRICT);
    sleep(MS).await;
    // The snapshot of the statement under way is older than this commit, and so is the notice to the cache than the claim that comes now.
    writer.record(pair(2, "s")).await.unwrap();
    sleep(MS).await;
    let claiming = spawn_count(&reader, "s", None);
    sleep(MS).await;
    ledger.count_door.release();
    assert_eq!((strict.await.unwrap(), claiming.await.unwrap()), (1, 2));
    sleep(MS).await;
    assert_eq!(count(&writer, "s", None).await, 2);
    assert_eq!(
        (ledger.statements(), cache.stores.lock().unwrap().clone()),
        (2, vec![true])
    );
}

#[tokio::test(start_paused = true)]
async fn after_its_own_write_a_process_does_not_wait_for_the_bound_to_end() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    for user in 1..=20 {
        service.record(pair(user, "s")).await.unwrap();
        sleep(120 * MS).await;
        assert_eq!(count(&service, "s", None).await, i64::from(user));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unfresh_count_is_served_while_a_slow_ledger_refreshes_it() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    service.record(pair(1, "s")).await.unwrap();
    assert_eq!(count(&service, "s", None).await, 1);
    sleep(150 * MS).await;
    *ledger.count_delay.lock().unwrap() = 200 * MS;
    service.record(pair(2, "s")).await.unwrap();
    sleep(MS).await;
    let asked = tokio::time::Instant::now();
    let answers = join_all((0..50).map(|_| count(&service, "s", None))).await;
    assert!(answers.iter().all(|answer| *answer == 1), "inside the bound");
    assert!(asked.elapsed() <= 20 * MS, "{:?}", asked.elapsed());
    assert_eq!(ledger.statements(), 2, "one refreshes");
    sleep(200 * MS).await;
    assert_eq!(count(&service, "s", None).await, 2);
    assert_eq!(ledger.statements(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_leaves_its_flight_to_the_others() {
    let ledger = ModelLedger::new();
    ledger.written_elsewhere(1, "s").await;
    let service = start(&ledger, memory(), ServiceConfig::default());
    ledger.count_door.close();
    let leader = spawn_count(&service, "s", None);
    sleep(MS).await;
    let follower = spawn_count(&service, "s", None);
    sleep(MS).await;
    leader.abort();
    sleep(MS).await;
    ledger.count_door.release();
    assert_eq!(follower.await.unwrap(), 1);
    assert_eq!(ledger.statements(), 1);
}
