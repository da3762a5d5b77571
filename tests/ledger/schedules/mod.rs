//! Random schedules: everything that may happen to a ledger, one after another and at once, and after each step every answer, every count and
//! every row is one that the rules allow.
//!
//! `steps` says what a schedule is, `run` walks through one, `phase` does many things at once, `linear` says what those may have come to, `judge`
//! and `truth` compare with what stands, `replay` runs one again that failed.
//!
//! `SEGMENT_COUNTER_TEST_SCHEDULES` is how many are run in memory, a twentieth of them on PostgreSQL, a fiftieth on a file, a hundredth with four lanes and on Citus;
//! `SEGMENT_COUNTER_TEST_SEED` draws the same ones again.
#![allow(clippy::print_stderr)]

mod existence;
mod judge;
mod linear;
mod phase;
mod replay;
mod run;
mod site;
mod steps;
mod truth;

use std::cell::{Cell, RefCell};
use std::str::FromStr;
use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Runtime;

use crate::world::{Kind, World, runtime};
use judge::Seen;
use run::Stopped;
use site::Site;
use steps::{On, Schedule};

/// What happens at once happens otherwise the next time: while a failure is made smaller, each try of a smaller one is run so often.
const TRIES_WHILE_SHRINKING: u32 = 10;
/// How often a schedule is begun anew for want of a connection before that is a failure.
const BEGUN_ANEW: u32 = 4;
/// How long a failure is made smaller, in milliseconds.
const SHRINKING: u32 = 90_000;
/// What every run of some size must have seen come out of its phases: without, it would prove less than it says.
const OUTCOMES: [&str; 11] = [
    "deletion true",
    "Created",
    "Renewed",
    "Unchanged",
    "Expired",
    "Removed",
    "Erased",
    "Refused(ObservedInFuture)",
    "removal Removed",
    "removal NotMember",
    "removal NoSegment",
];
/// From how many schedules on that is asked for.
const FEW: u32 = 15;

#[test]
fn whatever_happens_in_memory_is_the_models() {
    run_many(On::Memory, 200, 1);
}

#[test]
fn whatever_happens_in_a_file_is_the_models() {
    run_many(On::File, 15, 50);
}

#[test]
fn whatever_happens_on_postgres_is_the_models() {
    run_many(On::Postgres, 30, 20);
}

#[test]
fn whatever_happens_on_four_lanes_is_the_models() {
    run_many(On::Lanes, 5, 100);
}

#[test]
fn whatever_happens_on_citus_is_the_models() {
    if crate::support::citus::is_given("random schedules on distributed lanes") {
        run_many(On::Citus, 10, 100);
    }
}

/// Where schedules are run, one after another.
struct Bench {
    runtime: Runtime,
    world: World,
    /// Kept from one schedule to the next on PostgreSQL.
    site: RefCell<Option<Site>>,
    seen: RefCell<Seen>,
}

impl Bench {
    fn new(on: On) -> Self {
        let runtime = runtime();
        let kind = match on {
            On::Memory | On::File => Kind::Sqlite,
            On::Postgres => Kind::Postgres,
            On::Lanes => Kind::Lanes,
            On::Citus => Kind::Citus,
        };
        let world = runtime.block_on(World::new(kind));
        Self {
            runtime,
            world,
            site: RefCell::default(),
            seen: RefCell::default(),
        }
    }

    /// Runs a schedule to its end; begins it anew where the machine stood still.
    fn run(&self, schedule: &Schedule) -> Result<(), String> {
        for _ in 0..BEGUN_ANEW {
            match self.run_once(schedule) {
                Ok(()) => return Ok(()),
                Err(Stopped::Parted(why)) => return Err(why),
                Err(Stopped::Away(why)) => {
                    eprintln!("begun anew: {}", why.chars().take(200).collect::<String>());
                    self.seen.borrow_mut().away += 1;
                }
            }
        }
        Err(format!("no connection was had in time, {BEGUN_ANEW} times"))
    }

    fn run_once(&self, schedule: &Schedule) -> Result<(), Stopped> {
        let (kept, mut seen) = (self.site.take(), self.seen.take());
        let result = self.runtime.block_on(async {
            let mut site = match kept {
                Some(mut site) => {
                    site.clear(schedule.rules).await;
                    site
                }
                None => Site::new(schedule.on, &self.world, schedule.rules).await,
            };
            let result = run::run(schedule, &mut site, &mut seen).await;
            if schedule.on.is_postgres() {
                self.site.replace(Some(site));
            } else {
                site.close().await;
            }
            result
        });
        self.seen.replace(seen);
        result
    }
}

/// `share`: one of how many of `SEGMENT_COUNTER_TEST_SCHEDULES`.
fn run_many(on: On, usually: u32, share: u32) {
    let wanted = variable::<u32>("SEGMENT_COUNTER_TEST_SCHEDULES");
    let schedules = wanted.map_or(usually, |wanted| wanted.div_ceil(share));
    let seed = variable("SEGMENT_COUNTER_TEST_SEED").unwrap_or_else(rand::random::<u64>);
    eprintln!("{schedules} schedules, {on:?}: SEGMENT_COUNTER_TEST_SEED={seed}");
    let config = Config {
        cases: schedules,
        failure_persistence: None,
        max_shrink_time: SHRINKING,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);

    let (bench, begun) = (Bench::new(on), Instant::now());
    let (run, failed) = (Cell::new(0), Cell::new(false));
    let result = TestRunner::new_with_rng(config, rng).run(&steps::schedule(on), |schedule| {
        if !failed.get() {
            run.set(run.get() + 1);
        }
        for _ in 0..if failed.get() { TRIES_WHILE_SHRINKING } else { 1 } {
            if let Err(why) = bench.run(&schedule) {
                failed.set(true);
                return Err(TestCaseError::fail(why));
            }
        }
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, schedule)) => {
            panic!(
                "schedule {} of seed {seed} failed: {why}\n{}",
                run.get(),
                replay::how(&schedule)
            )
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    let seen = bench.seen.into_inner();
    eprintln!(
        "{schedules} schedules, {on:?}, in {:.1} s: {seen:?}",
        begun.elapsed().as_secs_f64()
    );
    assert!(
        seen.away <= FEW.max(schedules / 50),
        "no connection was had {} times",
        seen.away
    );
    if schedules >= FEW {
        for outcome in OUTCOMES {
            assert!(
                seen.outcomes.contains_key(outcome),
                "no phase ended in {outcome}: {seen:?}"
            );
        }
        assert!(seen.open > 0, "nothing ever met: {seen:?}");
        assert!(seen.moves > 0 || on != On::Lanes, "no segment was moved: {seen:?}");
    }
}

/// A variable of the environment; one that cannot be read is an error, not the usual.
fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name} is {text:?}: a whole number is needed"),
    }
}
