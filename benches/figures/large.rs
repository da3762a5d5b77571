//! A count asked of the ledger, of a segment with very many members beside one with a thousand: counters, not members, are read. Beside one with
//! a member for each minute too, which has as many counters.

use crate::harness::ledger::{Leaving, fill, minutes_left};
use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, postgres};

const SMALL: u32 = 1_000;
const IN_EACH_MINUTE: u32 = 20_000;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    for (name, members) in [("large", plan.members), ("small", SMALL), ("even", IN_EACH_MINUTE)] {
        fill(&database, name, 1, members, Leaving::Ahead).await;
    }
    // The fill stands for what the service would have written exactly when a recount finds the same.
    let said = program::run("refresh", &database);
    assert!(said.contains("recounted 3 segments, drift 0"), "{said}");

    let service = Program::service(&database, None);
    let strict = |name: &str| Load::get(1, &format!("/v1/segments/{name}/count?max_staleness_ms=0"));
    let left = minutes_left(&database).await;
    let runs = in_turns(
        plan,
        &[
            (&strict("large-1"), &service),
            (&strict("small-1"), &service),
            (&strict("even-1"), &service),
        ],
    );
    let micros = |side: usize| each(&runs[side], |run| 1e6 / run.per_second);
    let say = |side: usize| format!("{:.0} µs", middle(&runs[side], |run| 1e6 / run.per_second));
    let work = format!("a count at the ledger, {} members", thousands(f64::from(plan.members)));
    let row = |side: usize, what: &str| {
        Row::new(&work, format!("{}, {left} minutes of the two hours left", say(0)))
            .beside(what, say(side))
            .ratio(Ratio::of(&micros(0), &micros(side)), Bound::AtMost(1.2))
    };
    vec![
        row(1, &format!("{} members", thousands(f64::from(SMALL)))),
        row(
            2,
            &format!("{} members, one for each minute", thousands(f64::from(IN_EACH_MINUTE))),
        ),
    ]
}
