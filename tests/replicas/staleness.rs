//! Rule 4 among replicas, measured by writers that know what was acknowledged when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::acknowledged::Acknowledged;
use crate::world::World;

const SEGMENTS: usize = 4;
const READERS: u64 = 8;
const BOUNDS_MS: [u64; 5] = [0, 20, 100, 300, 1_000];
const LOAD: Duration = Duration::from_secs(6);

struct Scene {
    world: World,
    acknowledged: [Acknowledged; SEGMENTS],
    until: Instant,
    /// Answers that said that they were not exact.
    stale: AtomicU64,
}

fn segment(index: usize) -> String {
    format!("s{index}")
}

/// One writer a segment, so that a count says which of its pairs it holds: the first ones.
async fn write(scene: Arc<Scene>, index: usize) {
    let mut dice = StdRng::seed_from_u64(index as u64);
    for user in 1.. {
        let replica = scene.world.any(&mut dice);
        scene.world.record(replica, &segment(index), &format!("u{user}")).await;
        scene.acknowledged[index].add(1);
        if Instant::now() >= scene.until {
            return;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..8))).await;
    }
}

/// Reads at random replicas; by bound, how long each answer was behind.
async fn read(scene: Arc<Scene>, seed: u64) -> Vec<(u64, Duration)> {
    let mut dice = StdRng::seed_from_u64(1_000 + seed);
    let mut seen = Vec::new();
    while Instant::now() < scene.until {
        let index = dice.random_range(0..SEGMENTS);
        let bound = BOUNDS_MS[dice.random_range(0..BOUNDS_MS.len())];
        let replica = scene.world.any(&mut dice);
        let acknowledged = &scene.acknowledged[index];
        let sent = Instant::now();
        let answer = scene.world.count(replica, &segment(index), bound).await;
        let count = answer["count"].as_i64().unwrap();
        let age = answer["staleness_ms"].as_u64().unwrap();
        // By the bound that was asked for, and by the age that the answer tells of itself. A database that a busy machine keeps waiting for a
        // second is declared to be away, and the last value is served as what it is: then its own age is what holds.
        let exact = answer["exact"] == true;
        scene.stale.fetch_add(u64::from(!exact), Ordering::Relaxed);
        for limit in [if exact { bound } else { age }, age] {
            let known = acknowledged.until(sent - Duration::from_millis(limit));
            assert!(
                count >= known,
                "{answer}: {known} were acknowledged {limit} ms before it was asked for"
            );
        }
        if exact {
            seen.push((bound, acknowledged.behind(count, sent)));
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..4))).await;
    }
    seen
}

fn percentile(sorted: &[Duration], of: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let index = ((sorted.len() - 1) as f64 * of).round() as usize;
    sorted[index].as_secs_f64() * 1_000.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_replica_is_ever_further_behind_what_another_acknowledged_than_was_asked_for() {
    let world = World::start().await;
    let acknowledged: [Acknowledged; SEGMENTS] = std::array::from_fn(|_| Acknowledged::default());
    for (index, acknowledged) in acknowledged.iter().enumerate() {
        world.record(&world.replicas[0].url, &segment(index), "u0").await;
        acknowledged.add(1);
    }
    let scene = Arc::new(Scene {
        world,
        acknowledged,
        until: Instant::now() + LOAD,
        stale: AtomicU64::new(0),
    });
    let writers: Vec<_> = (0..SEGMENTS)
        .map(|index| tokio::spawn(write(Arc::clone(&scene), index)))
        .collect();
    let readers: Vec<_> = (0..READERS)
        .map(|seed| tokio::spawn(read(Arc::clone(&scene), seed)))
        .collect();
    let mut seen = Vec::new();
    for reader in readers {
        seen.extend(reader.await.unwrap());
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let pairs: i64 = scene.acknowledged.iter().map(Acknowledged::total).sum();
    println!(
        "{} answers while {pairs} pairs were acknowledged; behind, in ms:",
        seen.len()
    );
    println!("bound     answers      p50      p90      p99      max");
    for bound in BOUNDS_MS {
        let mut behind: Vec<_> = seen.iter().filter(|(b, _)| *b == bound).map(|(_, d)| *d).collect();
        behind.sort();
        assert!(behind.len() > 50, "{} answers with a bound of {bound} ms", behind.len());
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|of| percentile(&behind, of));
        println!(
            "{bound:>5} {:>11} {p50:>8.1} {p90:>8.1} {p99:>8.1} {max:>8.1}",
            behind.len()
        );
    }
    let stale = scene.stale.load(Ordering::Relaxed);
    assert!(
        stale * 10 <= seen.len() as u64,
        "{stale} answers were stale, {} exact",
        seen.len()
    );
    assert!(pairs > 150, "only {pairs} pairs");
    // And at rest every replica counts every pair.
    for (index, acknowledged) in scene.acknowledged.iter().enumerate() {
        for replica in &scene.world.replicas {
            let answer = scene.world.count(&replica.url, &segment(index), 0).await;
            assert_eq!(answer["count"], acknowledged.total(), "{answer}");
        }
    }
}
