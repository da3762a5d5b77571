//! A clock that steps while calls are under way, as at a failover: by less than half of the settle time, which is what the rules allow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use segment_counter::counting::{Outcome, Pair, Window};
use segment_counter::ledger::{SharedLedger, TestClock};
use tokio::task::JoinSet;

use crate::model::SECOND;
use crate::world::{World, after, clock, pair, pair_at, removal, settings};

const PHASES: usize = 6;
const WRITERS: usize = 4;
/// How far from the middle of a phase the clock steps, either way.
const STEP: i64 = 140;
/// The segment from which nobody is removed.
const KEPT: &str = "kept";

pub async fn rule_8_the_clock_may_step_while_calls_are_under_way(world: World) {
    let seed = rand::random::<u64>();
    let mut dice = StdRng::seed_from_u64(seed);
    let (place, clock) = (world.place(), clock());
    let settings = settings(1_200, 60, Some(&clock));
    let mut ledgers = Vec::new();
    for _ in 0..WRITERS + 2 {
        ledgers.push(place.ledger(&settings).await);
    }
    let mut ends: BTreeMap<String, i64> = BTreeMap::new();
    for phase in 0..PHASES {
        let middle = clock.micros() + dice.random_range(0..2_000) * SECOND;
        let over = Arc::new(AtomicBool::new(false));
        let stepping = std::thread::spawn({
            let (clock, over, mut dice) = (clock.clone(), Arc::clone(&over), StdRng::seed_from_u64(dice.random()));
            move || {
                while !over.load(Ordering::SeqCst) {
                    let seconds = dice.random_range(-STEP..=STEP);
                    clock.set(after(jiff::Timestamp::UNIX_EPOCH, middle + seconds * SECOND));
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let mut tasks = JoinSet::new();
        for ledger in &ledgers[..WRITERS] {
            tasks.spawn(write(
                ledger.clone(),
                clock.clone(),
                StdRng::seed_from_u64(dice.random()),
            ));
        }
        tasks.spawn(remove(ledgers[WRITERS].clone(), StdRng::seed_from_u64(dice.random())));
        tasks.spawn(keep_house(ledgers[WRITERS + 1].clone()));
        while let Some(done) = tasks.join_next().await {
            for (user, end) in done.unwrap() {
                let standing = ends.entry(user).or_insert(end);
                *standing = end.max(*standing);
            }
        }
        over.store(true, Ordering::SeqCst);
        stepping.join().unwrap();

        // Wherever it stands, every counter is what it counts, and everybody who was acknowledged is there until the end that was told.
        for seconds in [STEP, -STEP, 0] {
            let now = middle + seconds * SECOND;
            clock.set(after(jiff::Timestamp::UNIX_EPOCH, now));
            let ledger = &ledgers[0];
            let all = ledger.least_recently_recounted(10).await.unwrap();
            let counts = ledger.count(&all).await.unwrap();
            for (recount, count) in ledger.recount(&all).await.unwrap().iter().zip(&counts) {
                assert_eq!(
                    (recount.drift, recount.members),
                    (0, count.members),
                    "seed {seed}, phase {phase}, {seconds} s"
                );
            }
            let members = ends.values().filter(|end| **end > now).count();
            let counted = crate::world::count(ledger, KEPT).await;
            assert_eq!(
                counted,
                i64::try_from(members).unwrap(),
                "seed {seed}, phase {phase}, {seconds} s: {ends:?}"
            );
        }
    }
    assert!(ends.len() > 10, "{ends:?}");
}

/// Who is in the segment that is kept, and until when, by what was answered.
type Told = Vec<(String, i64)>;

async fn write(ledger: SharedLedger, clock: TestClock, mut dice: StdRng) -> Told {
    let mut told = Vec::new();
    for _ in 0..8 {
        let pairs: Vec<Pair> = (0..12)
            .map(|_| {
                let segment = [KEPT, "s0", "s1"][dice.random_range(0..3)];
                let user = format!("u{}", dice.random_range(0..16));
                let ttl = dice.random_bool(0.5).then(|| dice.random_range(60..2_000));
                let observed = clock.micros() + dice.random_range(-1_500..=0) * SECOND;
                let pair = if dice.random() {
                    pair(segment, &user)
                } else {
                    pair_at(segment, &user, after(jiff::Timestamp::UNIX_EPOCH, observed))
                };
                Pair {
                    ttl: ttl.map(|seconds| Window::from_seconds(seconds).unwrap()),
                    ..pair
                }
            })
            .collect();
        let recorded = ledger.record(&pairs).await.unwrap();
        for (pair, one) in pairs.iter().zip(recorded.pairs) {
            let stands = matches!(one.outcome, Outcome::Created | Outcome::Renewed | Outcome::Unchanged);
            if stands && pair.segment.as_str() == KEPT {
                told.push((pair.user.as_str().to_owned(), one.expires_at.unwrap().as_microsecond()));
            }
        }
    }
    told
}

async fn remove(ledger: SharedLedger, mut dice: StdRng) -> Told {
    for _ in 0..12 {
        let removals: Vec<_> = (0..3)
            .map(|_| {
                let segment = ["s0", "s1"][dice.random_range(0..2)];
                removal(segment, &format!("u{}", dice.random_range(0..16)))
            })
            .collect();
        ledger.remove(&removals).await.unwrap();
    }
    Vec::new()
}

async fn keep_house(ledger: SharedLedger) -> Told {
    for _ in 0..3 {
        let mut batch = ledger.archive_batch(None, 5).await.unwrap();
        while let Some(next) = batch.next {
            batch = ledger.archive_batch(Some(next), 5).await.unwrap();
        }
        ledger.sweep(30).await.unwrap();
    }
    Vec::new()
}
