//! Pairs that are known to change nothing: answered without the ledger, and never where the ledger would answer otherwise.

use std::sync::Arc;
use std::time::Duration;

use segment_counter::counting::{Outcome, Pair, Removal};
use segment_counter::ledger::Ledger;
use segment_counter::service::{Service, ServiceConfig};
use tokio::time::{Instant, sleep};

use crate::model::{ModelLedger, memory, name, pair, start};

fn setup(repeat_entries: usize) -> (Arc<ModelLedger>, Arc<Service>) {
    let ledger = ModelLedger::new();
    let config = ServiceConfig {
        repeat_entries,
        ..ServiceConfig::default()
    };
    let service = start(&ledger, memory(), config);
    (ledger, service)
}

/// A pair whose end the model's answer gives: far in the future.
fn lasting() -> Pair {
    pair(4_000_000_000_u64, "s")
}

async fn outcome(service: &Service) -> Outcome {
    service.record(lasting()).await.unwrap().outcome
}

#[tokio::test(start_paused = true)]
async fn a_repeat_costs_no_statement_while_batches_come() {
    let (ledger, service) = setup(1_000);
    assert_eq!(outcome(&service).await, Outcome::Created);
    for _ in 0..10 {
        assert_eq!(outcome(&service).await, Outcome::Unchanged);
    }
    assert_eq!(ledger.batches.lock().unwrap().len(), 1);
    // Among others in a batch it is sorted out, and the answers stay in order.
    let many = vec![lasting(), pair(1, "s"), lasting()];
    let recorded = service.record_many(many).await.unwrap();
    let outcomes: Vec<Outcome> = recorded.iter().map(|one| one.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unchanged, Outcome::Created, Outcome::Unchanged]);
    assert_eq!(ledger.batches.lock().unwrap()[1], [pair(1, "s")]);
    // Without a batch for a while nothing is known any more.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(outcome(&service).await, Outcome::Unchanged);
    assert_eq!(ledger.batches.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn where_none_are_to_be_remembered_every_pair_goes_to_the_ledger() {
    let (ledger, service) = setup(0);
    for _ in 0..3 {
        outcome(&service).await;
    }
    assert_eq!(ledger.batches.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pair_after_an_acknowledged_removal_through_another_replica_is_never_swallowed() {
    let ledger = ModelLedger::new();
    let [one, other] = [(); 2].map(|()| start(&ledger, memory(), ServiceConfig::default()));
    for round in 0..50_u64 {
        // Batches of other pairs keep the first replica's lease alive throughout.
        let busy = Arc::clone(&one);
        let over = Instant::now() + Duration::from_millis(200);
        let load = tokio::spawn(async move {
            let mut n = 0;
            while Instant::now() < over {
                busy.record(pair(round * 1_000 + n, "load")).await.unwrap();
                n += 1;
                sleep(Duration::from_millis(5)).await;
            }
        });
        outcome(&one).await;
        sleep(Duration::from_millis(round)).await;
        assert_eq!(outcome(&one).await, Outcome::Unchanged);
        let removal = Removal {
            user: lasting().user,
            segment: name("s"),
        };
        other.remove(vec![removal]).await.unwrap();
        assert_eq!(outcome(&one).await, Outcome::Created, "swallowed in round {round}");
        load.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_batch_from_before_a_removal_teaches_nothing() {
    let (ledger, service) = setup(1_000);
    // It is committed, and its answer is held until a later removal was acknowledged.
    ledger.answer_door.close();
    let slow = {
        let service = Arc::clone(&service);
        tokio::spawn(async move { service.record(lasting()).await })
    };
    sleep(Duration::from_millis(1)).await;
    ledger.erase(&lasting().user).await.unwrap();
    sleep(Duration::from_millis(101)).await;
    ledger.answer_door.release();
    slow.await.unwrap().unwrap();
    assert_eq!(outcome(&service).await, Outcome::Created);
}
