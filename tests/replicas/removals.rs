//! Users who are taken out through one replica and seen again through another, while every replica answers repeats from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::world::{REPLICAS, World};

/// How many pairs were answered without a statement.
const REPEATS: &str = "segment_counter_recorder_repeats_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_after_an_acknowledged_removal_through_another_replica_is_never_swallowed() {
    let world = Arc::new(World::start().await);
    let over = Arc::new(AtomicBool::new(false));
    // A stream of new pairs at each replica keeps what it remembers believed all the time.
    let load: Vec<_> = (0..REPLICAS)
        .map(|replica| {
            let (world, over) = (Arc::clone(&world), Arc::clone(&over));
            tokio::spawn(async move {
                let mut n = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    n += 1;
                    world
                        .record(&world.replicas[replica].url, "load", &format!("{replica}-{n}"))
                        .await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    let mut dice = StdRng::seed_from_u64(11);
    let until = Instant::now() + Duration::from_secs(12);
    let mut rounds = 0_u64;
    let before = world.metric(REPEATS).await;
    while Instant::now() < until {
        let user = format!("u-{}", rounds % 5);
        let writer = dice.random_range(0..REPLICAS);
        let remover = (writer + dice.random_range(1..REPLICAS)) % REPLICAS;
        let pair = || world.status(writer, &user);
        assert!(matches!(&*pair().await, "created" | "renewed" | "unchanged"));
        // Sent again and again it is answered from memory, up to the very removal.
        for _ in 0..dice.random_range(0..4) {
            assert!(matches!(&*pair().await, "renewed" | "unchanged"));
        }
        assert_eq!(world.remove(remover, &user).await, json!("removed"), "round {rounds}");
        assert_eq!(pair().await, "created", "swallowed in round {rounds}");
        if rounds.is_multiple_of(4) {
            assert_eq!(world.remove(remover, &user).await, json!("removed"));
            let counted = world.count(&world.replicas[writer].url, "s", 0).await;
            let others = (0..rounds.min(5)).filter(|n| *n != rounds % 5).count();
            assert!(
                counted["count"].as_u64().unwrap() <= others as u64,
                "round {rounds}: {counted}"
            );
        }
        rounds += 1;
    }
    over.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let repeats = world.metric(REPEATS).await - before;
    println!("{rounds} removals through another replica; {repeats} pairs answered from memory");
    assert!(rounds > 10 && repeats > 5, "{rounds} rounds, {repeats} repeats");
}

impl World {
    async fn status(&self, replica: usize, user: &str) -> String {
        let url = format!("{}/v1/pairs", self.replicas[replica].url);
        let pair = json!({"user_id": user, "segment": "s"});
        let answer: Value = self
            .client
            .post(url)
            .json(&pair)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        answer["status"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }

    async fn remove(&self, replica: usize, user: &str) -> Value {
        let url = format!("{}/v1/segments/s/users/{user}", self.replicas[replica].url);
        let answer: Value = self.client.delete(url).send().await.unwrap().json().await.unwrap();
        answer["status"].clone()
    }
}
