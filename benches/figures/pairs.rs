//! One unique pair a POST on 64 connections, beside a handler that does one INSERT a request on the same PostgreSQL with as many sessions,
//! beside one that parses the same body and answers a constant, and beside our own streams: what group commit gives, and what is left to win.
//!
//! A single pair is a request, as the constant's, and a pair for the database, as a stream's. Where both share the processors, the two of them done
//! one after the other are what no service of this ledger can pass: the last row.

use crate::harness::ledger::create_segments;
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, median, postgres};
use crate::reference;

const CONNECTIONS: u32 = 64;
const STREAMS: usize = 4;

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
    drop(service);
    let stream = by_stream(plan, &ours).await;
    let say = |side: usize| {
        format!(
            "{} /s, {:.1} µs of CPU each, p99 {:.1} ms",
            thousands(middle(&runs[side], |run| run.per_second)),
            middle(&runs[side], |run| run.cpu_micros),
            middle(&runs[side], |run| run.p99_micros) / 1e3,
        )
    };
    let constant =
        |what: fn(f64, f64) -> f64| -> Vec<f64> { rates[2].iter().map(|constant| what(*constant, stream)).collect() };
    let one_after_the_other = constant(|constant, stream| 1.0 / (1.0 / constant + 1.0 / stream));
    let row = |work: &str| Row::new(work, say(0));
    vec![
        row("one pair a POST, 64 connections")
            .beside("axum, one INSERT a request", say(1))
            .ratio(Ratio::of(&rates[0], &rates[1]), Bound::AtLeast(4.0)),
        row("the same")
            .beside(
                "the slower of axum that parses the body and answers a constant, and our own streams",
                format!("{}; {} pairs/s", say(2), thousands(stream)),
            )
            .ratio(Ratio::of(&rates[0], &constant(f64::min)), Bound::AtLeast(0.6)),
        row("the same")
            .beside(
                "those two, one after the other on the same processors",
                format!("{} /s", thousands(median(one_after_the_other.iter().copied()))),
            )
            .ratio_alone(Ratio::of(&rates[0], &one_after_the_other)),
    ]
}

/// Pairs in a second by our own streams, none of them twice.
async fn by_stream(plan: &Plan, database: &str) -> f64 {
    let each = plan.pairs / STREAMS;
    let bodies: Vec<_> = (0..STREAMS)
        .map(|client| Pairs::unique(client, each).ndjson())
        .collect();
    let mut rates = Vec::with_capacity(plan.rounds);
    for _ in 0..plan.rounds {
        let service = streams::warm(database).await;
        let seconds = streams::send(&service.url, &bodies, None, "created", each).await;
        rates.push((each * STREAMS) as f64 / seconds);
    }
    median(rates)
}
