//! The rounds: load, a fault in the middle of it, the way back, and what must be true then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::{SeedableRng, rngs::StdRng};

use crate::faults::Fault;
use crate::jobs;
use crate::load::{self, Load};
use crate::truth;
use crate::world::{REPLICAS, SEGMENTS, World};

/// Within this time after a fault is mended every replica answers everything again, without anybody's help.
const RECOVERY: Duration = Duration::from_secs(10);
/// The load before a fault.
const BEFORE: Duration = Duration::from_millis(500);
/// The load after it.
const AFTER: Duration = Duration::from_millis(400);

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => otherwise,
    }
}

/// Until each replica records, counts by the ledger and counts exactly, three times in a row.
async fn answers_again(load: &Load, round: usize) -> Duration {
    let mended = Instant::now();
    let (mut in_a_row, mut tries) = (0, 0);
    while in_a_row < 3 {
        assert!(
            mended.elapsed() < RECOVERY,
            "not back {RECOVERY:?} after it was mended:\n{}",
            load.world.logs()
        );
        let mut all = true;
        for replica in 0..REPLICAS {
            tries += 1;
            let index = tries % SEGMENTS;
            all &= load.record(replica, index, &format!("r{round}again-{tries}")).await;
            all &= load.count(replica, index, 0).await.is_some();
            let relaxed = load.count(replica, index, 1_000).await;
            all &= relaxed.is_some_and(|answer| answer["exact"] == true);
        }
        in_a_row = if all { in_a_row + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    mended.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_acknowledged_is_lost_and_the_service_comes_back_by_itself() {
    let rounds = usize::try_from(number("SEGMENT_COUNTER_TEST_ROUNDS", Fault::ALL.len() as u64)).unwrap();
    let seed = number("SEGMENT_COUNTER_TEST_SEED", 20_260_401);
    println!("{rounds} rounds, seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let load = Load::new(Arc::new(World::start().await));
    for index in 0..SEGMENTS {
        assert!(load.record(0, index, "first").await);
    }
    jobs::answer_at_rest(&load).await;
    let mut back: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
    for (round, fault) in Fault::schedule(rounds, &mut dice).into_iter().enumerate() {
        let before = [&load.answers, &load.refusals, &load.broken, &load.stale].map(|n| n.load(Ordering::Relaxed));
        *load.slowest.lock().unwrap() = Duration::ZERO;
        let clients = load::start(&load, round, seed);
        tokio::time::sleep(BEFORE).await;
        let world = Arc::clone(&load.world);
        dice = tokio::task::spawn_blocking(move || {
            fault.strike(&world, &mut dice);
            dice
        })
        .await
        .unwrap();
        let took = answers_again(&load, round).await;
        tokio::time::sleep(AFTER).await;
        load.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        let after = [&load.answers, &load.refusals, &load.broken, &load.stale].map(|n| n.load(Ordering::Relaxed));
        let [answers, refusals, broken, stale] = std::array::from_fn(|n| after[n] - before[n]);
        println!(
            "round {round:>2}: {fault:?}: {answers} answers ({stale} stale), {refusals} refusals, {broken} broken off, slowest {:?}, back after {took:?}",
            load.slowest.lock().unwrap()
        );
        assert!(
            !fault.stops_writes() || refusals > 0,
            "{fault:?} was not noticed by anybody"
        );
        assert_eq!(broken > 0, fault.breaks_connections(), "connections broke off");
        truth::holds(&load).await;
        back.entry(fault).or_default().push(took);
    }
    let erased = load.erasures.erased.lock().unwrap().len();
    let [of_history, broke_off] =
        [&load.erasures.of_history, &load.erasures.broke_off].map(|n| n.load(Ordering::Relaxed));
    let removed = load.known.iter().map(|known| known.removed.lock().unwrap().len());
    let removed: usize = removed.sum();
    println!(
        "{removed} users taken out, {erased} erased, {of_history} of them from the history too; {broke_off} erasures broke off"
    );
    println!("runs: {}", load.jobs.told());
    assert!(removed > 0 && erased > 0);
    assert!(
        load.jobs.count("done by command") > 0,
        "no run was ever done under load"
    );
    for (fault, mut took) in back {
        took.sort();
        println!(
            "{fault:?}: {} times, back after {:?} at the median and {:?} at most",
            took.len(),
            took[took.len() / 2],
            took[took.len() - 1]
        );
    }
}
