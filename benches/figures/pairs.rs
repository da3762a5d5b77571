//! One unique pair a POST on 64 connections, beside a handler that does one INSERT a request on the same PostgreSQL with as many sessions,
//! and beside one that parses the same body and answers a constant: what group commit gives, and what is left to win.

use crate::harness::ledger::create_segments;
use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, postgres};
use crate::reference;

const CONNECTIONS: u32 = 64;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let (ours, theirs) = (server.database().await, server.database().await);
    program::run("migrate", &ours);
    create_segments(&ours).await;
    reference::prepare(&theirs).await;
    let service = Program::service(&ours, None);
    let reference = Program::reference(&[(reference::DATABASE_URL, &theirs)]);
    let sides = [
        (&Load::pairs(CONNECTIONS, "/v1/pairs"), &service),
        (&Load::pairs(CONNECTIONS, "/inserted"), &reference),
        (&Load::pairs(CONNECTIONS, "/constant"), &reference),
    ];
    let runs = in_turns(plan, &sides);
    let rates: Vec<Vec<f64>> = runs.iter().map(|runs| each(runs, |run| run.per_second)).collect();
    let row = |work: &str, what: &str, side: usize, bound: f64| {
        let say = |side: usize| {
            format!(
                "{} /s, {:.1} µs of CPU each, p99 {:.1} ms",
                thousands(middle(&runs[side], |run| run.per_second)),
                middle(&runs[side], |run| run.cpu_micros),
                middle(&runs[side], |run| run.p99_micros) / 1e3,
            )
        };
        Row::new(work, say(0))
            .beside(what, say(side))
            .ratio(Ratio::of(&rates[0], &rates[side]), Bound::AtLeast(bound))
    };
    vec![
        row("one pair a POST, 64 connections", "axum, one INSERT a request", 1, 4.0),
        row("the same", "axum, the body parsed, a constant answered", 2, 0.6),
    ]
}
