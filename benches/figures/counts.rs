//! A hot count, beside a handler that answers a constant of the same size: what an answer at memory speed costs more than no answer.

use crate::harness::ledger::create_segments;
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, Run, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, postgres};
use crate::reference;
use crate::support::redis::Node;

const CONNECTIONS: u32 = 64;
const PATH: &str = "/v1/segments/segment-7/count";

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    create_segments(&database).await;
    let redis = Node::start(&[]);
    let alone = Program::service(&database, None);
    let with_redis = Program::service(&database, Some(&redis.url()));
    streams::send(
        &alone.url,
        &[Pairs::unique(0, 10_000).ndjson()],
        None,
        "created",
        10_000,
    )
    .await;
    let answer = reqwest::get(format!("{}{PATH}", alone.url))
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let body = answer.text().await.unwrap();
    let reference = Program::reference(&[(reference::COUNT, &body)]);
    let (ours, constant) = (Load::get(CONNECTIONS, PATH), Load::get(CONNECTIONS, "/constant"));
    let runs = in_turns(plan, &[(&ours, &alone), (&constant, &reference), (&ours, &with_redis)]);
    let mut rows = Vec::new();
    for (name, side) in [
        ("a hot count, cached in memory", 0),
        ("a hot count, with a Redis node", 2),
    ] {
        let beside = "axum, a constant of the same size";
        let compare = |what: fn(&Run) -> f64| Ratio::of(&each(&runs[side], what), &each(&runs[1], what));
        let rate = |side: usize| {
            format!(
                "{} /s, {:.1} µs of CPU each",
                thousands(middle(&runs[side], |run| run.per_second)),
                middle(&runs[side], |run| run.cpu_micros)
            )
        };
        let p99 = |side: usize| format!("{:.2} ms", middle(&runs[side], |run| run.p99_micros) / 1e3);
        rows.push(
            Row::new(name, rate(side))
                .beside(beside, rate(1))
                .ratio(compare(|run| run.per_second), Bound::AtLeast(0.9)),
        );
        rows.push(
            Row::new(&format!("{name}: p99"), p99(side))
                .beside(beside, p99(1))
                .ratio(compare(|run| run.p99_micros), Bound::AtMost(2.0)),
        );
    }
    rows
}
