//! Rule 4, measured: under a writer, on replicas that share a slow cache, no answer is older than was asked for, and each says truly how old
//! it may be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use segment_counter::counting::SegmentName;
use segment_counter::service::{Service, ServiceConfig};
use tokio::time::{Instant, sleep};

use crate::model::{ModelLedger, name, pair, start};
use crate::watched::WatchedCache;

const BOUNDS_MS: [u64; 5] = [0, 1, 20, 100, 1_000];

/// When each count became true.
type History = Arc<Mutex<Vec<Instant>>>;

#[tokio::test(start_paused = true)]
async fn no_answer_is_older_than_its_bound_nor_than_it_says() {
    for seed in 0..5 {
        let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
        *ledger.count_delay.lock().unwrap() = Duration::from_millis(3);
        *cache.delay.lock().unwrap() = Duration::from_millis(1);
        let replicas: Vec<_> = (0..3)
            .map(|_| start(&ledger, cache.clone(), ServiceConfig::default()))
            .collect();
        replicas[0].record(pair("first", "s")).await.unwrap();
        let history: History = Arc::new(Mutex::new(vec![Instant::now()]));
        let writer = tokio::spawn(write(Arc::clone(&replicas[0]), Arc::clone(&history), seed));
        let readers: Vec<_> = (0..9)
            .map(|n| {
                tokio::spawn(read(
                    Arc::clone(&replicas[n % 3]),
                    Arc::clone(&history),
                    seed * 100 + n as u64,
                ))
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        writer.abort();
        assert!(ledger.statements() < 4_000, "{} statements", ledger.statements());
    }
}

async fn write(service: Arc<Service>, history: History, seed: u64) {
    let mut dice = rand::rngs::StdRng::seed_from_u64(seed);
    for user in 0.. {
        sleep(Duration::from_millis(dice.random_range(1..=15))).await;
        service.record(pair(user, "s")).await.unwrap();
        history.lock().unwrap().push(Instant::now());
    }
}

async fn read(service: Arc<Service>, history: History, seed: u64) {
    let mut dice = rand::rngs::StdRng::seed_from_u64(seed);
    for _ in 0..400 {
        sleep(Duration::from_millis(dice.random_range(0..=9))).await;
        let bound = Duration::from_millis(BOUNDS_MS[dice.random_range(0..BOUNDS_MS.len())]);
        let asked = Instant::now();
        let answer = service.count(&name("s"), Some(bound)).await.unwrap().unwrap();
        let answered = Instant::now();
        // The oldest instant that the answer may show: the bound, or the moment of asking for what a statement took longer than that.
        let allowed = bound.max(answered - asked);
        assert!(
            answer.staleness <= allowed,
            "{:?} old, {allowed:?} allowed",
            answer.staleness
        );
        assert!(answer.exact);
        // Everything acknowledged before that instant is in it (what happened at it may be).
        let acknowledged = history
            .lock()
            .unwrap()
            .iter()
            .filter(|at| answered - **at > answer.staleness)
            .count();
        assert!(
            answer.count >= i64::try_from(acknowledged).unwrap(),
            "{} of {acknowledged}",
            answer.count
        );
    }
}

const BOUND: Duration = Duration::from_secs(2);

/// Three segments, of which this process has read the first 0.6 s before the second, and the third never.
async fn of_different_ages() -> (Arc<ModelLedger>, Arc<Service>, [SegmentName; 3]) {
    let ledger = ModelLedger::new();
    let service = start(&ledger, WatchedCache::new(), ServiceConfig::default());
    let names = ["older", "newer", "unknown"].map(name);
    for name in &names {
        service.record(pair(1, name.as_str())).await.unwrap();
    }
    *ledger.count_delay.lock().unwrap() = Duration::from_millis(600);
    service.count(&names[0], Some(Duration::ZERO)).await.unwrap();
    service.count(&names[1], Some(Duration::ZERO)).await.unwrap();
    (ledger, service, names)
}

#[tokio::test(start_paused = true)]
async fn of_several_counts_none_grows_old_while_the_others_are_waited_for() {
    let (_ledger, service, names) = of_different_ages().await;
    // 1.5 and 0.9 s old now; the third takes 0.6 s, and then the first again.
    sleep(Duration::from_millis(300)).await;
    let asked = Instant::now();
    let answers = service.counts(&names, Some(BOUND)).await.unwrap();
    let allowed = BOUND.max(asked.elapsed());
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.exact && answer.staleness <= allowed, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_counts_one_that_is_still_within_its_bound_is_answered_though_its_lane_is_away() {
    let (ledger, service, names) = of_different_ages().await;
    *ledger.count_delay.lock().unwrap() = Duration::from_millis(310);
    ledger.apart.lock().unwrap().push(ledger.id("newer"));
    // 1.8 and 1.2 s old now: the first grows too old, the second does not, and is looked for in vain.
    sleep(Duration::from_millis(600)).await;
    for answer in service.counts(&names, Some(BOUND)).await.unwrap() {
        let answer = answer.unwrap();
        assert!(answer.exact && answer.staleness <= BOUND, "{answer:?}");
    }
}
