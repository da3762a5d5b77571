//! A count asked of the ledger, of a segment with very many members beside one with a thousand: counters, not members, are read.

use crate::harness::ledger::{Leaving, fill};
use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, postgres};

const SMALL: u32 = 1_000;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    for (name, members) in [("large", plan.members), ("small", SMALL)] {
        fill(&database, name, 1, members, Leaving::Already).await;
    }
    // The fill stands for what the service would have written exactly when a recount finds the same.
    let said = program::run("refresh", &database);
    assert!(said.contains("recounted 2 segments, drift 0"), "{said}");

    let service = Program::service(&database, None);
    let strict = |name: &str| Load::get(1, &format!("/v1/segments/{name}/count?max_staleness_ms=0"));
    let runs = in_turns(plan, &[(&strict("large-1"), &service), (&strict("small-1"), &service)]);
    let micros = |side: usize| each(&runs[side], |run| 1e6 / run.per_second);
    let say = |side: usize| format!("{:.0} µs", middle(&runs[side], |run| 1e6 / run.per_second));
    vec![
        Row::new(
            &format!("a count at the ledger, {} members", thousands(f64::from(plan.members))),
            say(0),
        )
        .beside(&format!("{} members", thousands(f64::from(SMALL))), say(1))
        .ratio(Ratio::of(&micros(0), &micros(1)), Bound::AtMost(1.2)),
    ]
}
