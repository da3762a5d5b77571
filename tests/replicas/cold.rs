//! A segment that nobody has cached, and a crowd that asks for it at every replica at once.

use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::world::{REPLICAS, World};

const ROUNDS: usize = 20;
const CROWD: usize = 120;
/// How old an answer may be: longer than a crowd takes on any machine, so that nobody asks because the first answer is too old by then.
const BOUND_MS: u64 = 10_000;
/// How many statements have counted.
const STATEMENTS: &str = "segment_counter_ledger_read_seconds_count ";

/// How many statements each replica has counted with.
async fn statements(world: &World) -> Vec<u64> {
    let each = world.replicas.iter().map(async |replica| {
        let answer = world.client.get(format!("{}/metrics", replica.health)).send().await;
        let text = answer.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(STATEMENTS));
        value.expect("the metric").parse().unwrap()
    });
    join_all(each).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_every_replica_costs_a_cold_segment_one_statement() {
    let world = World::start().await;
    let mut dice = StdRng::seed_from_u64(7);
    // Connections are made, and names looked up, before anything is counted.
    for round in 0..ROUNDS {
        world.record(world.any(&mut dice), &format!("cold-{round}"), "u").await;
    }
    world.record(world.any(&mut dice), "warm", "u").await;
    join_all((0..CROWD).map(|n| world.count(&world.replicas[n % 3].url, "warm", BOUND_MS))).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut cost = Vec::new();
    for round in 0..ROUNDS {
        let segment = format!("cold-{round}");
        let before = statements(&world).await;
        let asked = (0..CROWD).map(|_| world.any(&mut dice).to_owned()).collect::<Vec<_>>();
        let answers = join_all(asked.iter().map(|replica| world.count(replica, &segment, BOUND_MS))).await;
        assert!(answers.iter().all(|answer| answer["count"] == 1));
        let after = statements(&world).await;
        cost.push((0..REPLICAS).map(|n| after[n] - before[n]).collect::<Vec<_>>());
    }
    println!("statements for {CROWD} readers, by round and replica: {cost:?}");
    let sums: Vec<u64> = cost.iter().map(|round| round.iter().sum()).collect();
    // However slow the machine is, a replica asks once at most.
    assert!(cost.iter().flatten().all(|statements| *statements <= 1), "{cost:?}");
    assert!(sums.iter().all(|statements| *statements >= 1), "{cost:?}");
    // And one asks for all, but where it is slower than the others' patience (15 ms).
    let alone = sums.iter().filter(|statements| **statements == 1).count();
    assert!(alone * 3 >= ROUNDS * 2, "{cost:?}");
}
