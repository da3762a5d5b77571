//! Single pairs that arrive at a fixed rate, from a quarter of what the service can take to three times as much: those that are accepted must
//! not wait longer and longer, and the others must be told to come again.

use std::time::Duration;

use crate::harness::ledger::create_segments;
use crate::harness::open::{Offer, Request};
use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::Load;
use crate::harness::{Plan, Row, median, postgres};

/// Connections of the load; fewer than the service takes at once.
const CONNECTIONS: usize = 3_000;
/// Of what there is room for.
const SHARES: [f64; 6] = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0];

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    create_segments(&database).await;
    let service = Program::service(&database, None);
    let closed = Load::pairs(256, "/v1/pairs");
    closed.run(&service, 1);
    let capacity = median((0..3).map(|_| closed.run(&service, plan.seconds).per_second));
    let mut rows = Vec::new();
    for share in SHARES {
        let offer = Offer {
            per_second: capacity * share,
            seconds: f64::from(plan.seconds * 2),
            connections: CONNECTIONS,
        };
        let answers = offer.make(&service.url, &Request::pairs("/v1/pairs")).await;
        eprintln!(
            "  {share} of {capacity:.0} /s: {} accepted in {:.1} s, {} refused, {} unsent, {} failed",
            answers.accepted.count(),
            answers.seconds,
            answers.refused.count(),
            answers.unsent,
            answers.failed
        );
        let rate = |count: usize| thousands(count as f64 / answers.seconds);
        let millis = |micros: f64| format!("{:.0}", micros / 1e3);
        let mut measured = format!(
            "{} /s accepted, p50 {} ms, p99 {} ms",
            rate(answers.accepted.count()),
            millis(answers.accepted.at(0.5)),
            millis(answers.accepted.at(0.99)),
        );
        if answers.refused.count() > 0 {
            measured += &format!(
                "; {} /s told to come again, p99 {} ms",
                rate(answers.refused.count()),
                millis(answers.refused.at(0.99))
            );
        }
        if answers.unsent + answers.failed > 0 {
            measured += &format!(
                "; {} /s found no connection, {} /s failed",
                rate(answers.unsent),
                rate(answers.failed)
            );
        }
        rows.push(
            Row::new(
                &format!("single pairs offered at {share} of capacity, open loop"),
                measured,
            )
            .beside(
                "capacity: 256 connections, closed loop",
                format!("{} /s", thousands(capacity)),
            ),
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    rows
}
