//! Runs a schedule again that failed: `SEGMENT_COUNTER_TEST_REPLAY` is the line of JSON that the failure printed.

use super::Bench;
use super::steps::Schedule;

/// How often it is run: what happens at once happens otherwise each time.
const REPEATS: u32 = 100;

/// Every kind of step, as it is printed: an old failure can be read as long as this can.
const KNOWN: &str = r#"{"on":"memory","rules":0,"steps":[{"record":[[0,1,null,null],[0,2,-5000000,600],[1,1,300000001,null]]},{"wait":60000000},
    {"edge":-1},{"back":1000000},{"put":[2,null]},{"put":[0,900]},{"remove":[[0,1],[3,3]]},{"phase":{"writers":[[[[0,1,null,null],[0,1,-1,9000]]],[[[0,1,0,null]],
    [[0,1,60000000,null]]]],"removers":[[[[0,1]]],[]],"eraser":[2],"changer":[[0,null]],"keeper":[{"archive":2},"sweep","recount"],"mover":[[0,1]],"held":[0,1]}},
    {"erase":1},{"archive":3},"sweep","recount",{"delete":0}]}"#;

/// How a schedule is run again.
pub fn how(schedule: &Schedule) -> String {
    let line = serde_json::to_string(schedule).unwrap();
    format!(
        "run it again, {REPEATS} times (SEGMENT_COUNTER_TEST_REPEATS) or until it fails, since what happens at once happens otherwise each time:\n\
         SEGMENT_COUNTER_TEST_REPLAY='{line}' cargo test --test ledger_conformance schedules::replay -- --nocapture"
    )
}

#[test]
fn a_schedule_that_was_printed_can_be_run_again() {
    let given = std::env::var("SEGMENT_COUNTER_TEST_REPLAY").ok();
    let schedule: Schedule = match serde_json::from_str(given.as_deref().unwrap_or(KNOWN)) {
        Ok(schedule) => schedule,
        Err(error) => panic!("SEGMENT_COUNTER_TEST_REPLAY is no schedule: {error}"),
    };
    let printed = serde_json::to_string(&schedule).unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&printed).unwrap(), schedule);
    let repeats = super::variable("SEGMENT_COUNTER_TEST_REPEATS").unwrap_or(REPEATS);
    let bench = Bench::new(schedule.on);
    for repeat in 1..=repeats {
        if let Err(why) = bench.run(&schedule) {
            panic!("time {repeat} of {repeats} failed: {why}");
        }
    }
    eprintln!("run {repeats} times, and it never failed");
}
