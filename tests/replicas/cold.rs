//! A segment that nobody has cached, and a crowd that asks for it at every replica at once.

use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::world::World;

const ROUNDS: usize = 20;
const CROWD: usize = 120;
/// How many statements have counted.
const STATEMENTS: &str = "segment_counter_ledger_read_seconds_count";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_every_replica_costs_a_cold_segment_one_statement() {
    let world = World::start().await;
    let mut dice = StdRng::seed_from_u64(7);
    // Connections are made, and names looked up, before anything is counted.
    for round in 0..ROUNDS {
        world.record(world.any(&mut dice), &format!("cold-{round}"), "u").await;
    }
    world.record(world.any(&mut dice), "warm", "u").await;
    join_all((0..CROWD).map(|n| world.count(&world.replicas[n % 3].url, "warm", 1_000))).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut cost = Vec::new();
    for round in 0..ROUNDS {
        let segment = format!("cold-{round}");
        let before = world.metric(STATEMENTS).await;
        let asked = (0..CROWD).map(|_| world.any(&mut dice).to_owned()).collect::<Vec<_>>();
        let answers = join_all(asked.iter().map(|replica| world.count(replica, &segment, 1_000))).await;
        assert!(answers.iter().all(|answer| answer["count"] == 1));
        cost.push(world.metric(STATEMENTS).await - before);
    }
    println!("statements for {CROWD} readers at 3 replicas, by round: {cost:?}");
    // Never more than one a replica; and one for all, but where the replica that reads is slower than the others' patience (15 ms).
    assert!(cost.iter().all(|statements| (1..=3).contains(statements)), "{cost:?}");
    let alone = cost.iter().filter(|statements| **statements == 1).count();
    assert!(alone * 2 >= ROUNDS, "{cost:?}");
}
