//! One unique pair a POST on 64 connections, beside a handler that does one INSERT a request on the same PostgreSQL with as many sessions,
//! beside one that parses the same body and answers a constant, and beside our own streams: what group commit gives, and what is left to win.
//!
//! A single pair is a request, as the constant's, and a pair for the database, as a stream's. What those two take of the processors together is the
//! least that a single pair takes, so the last row is what were reached if nothing had to be gathered, waited for or woken, and no processor idled.

use crate::harness::ledger::create_segments;
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, middle, turn, warm_up};
use crate::harness::{Bound, Plan, Ratio, Row, machine, median, postgres};
use crate::reference;

const CONNECTIONS: u32 = 64;
const STREAMS: usize = 4;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let (ours, theirs, streamed) = (
        server.database().await,
        server.database().await,
        server.database().await,
    );
    for database in [&ours, &streamed] {
        program::run("migrate", database);
        create_segments(database).await;
    }
    reference::prepare(&theirs).await;
    let service = Program::service(&ours, None);
    let reference = Program::reference(&[(reference::DATABASE_URL, &theirs)]);
    let sides = [
        (&Load::pairs(CONNECTIONS, "/v1/pairs"), &service),
        (&Load::pairs(CONNECTIONS, "/inserted"), &reference),
        (&Load::pairs(CONNECTIONS, "/constant"), &reference),
    ];
    let bodies: Vec<_> = (0..STREAMS)
        .map(|client| Pairs::unique(client, plan.pairs / STREAMS).ndjson())
        .collect();
    warm_up(&sides);
    by_stream(&streamed, &bodies, plan.pairs).await;
    let mut runs = vec![Vec::new(); sides.len()];
    let mut stream = Vec::new();
    for number in 0..plan.turns {
        turn(plan, number, &sides, &mut runs);
        stream.push(by_stream(&streamed, &bodies, plan.pairs).await);
    }

    let rates = runs.iter().map(|runs| each(runs, |run| run.per_second));
    let rates: Vec<Vec<f64>> = rates.collect();
    let beside_streams = |what: fn(&Streamed, f64, f64) -> f64| -> Vec<f64> {
        let constant = runs[2].iter().zip(&stream);
        constant
            .map(|(run, stream)| what(stream, run.per_second, run.machine_micros))
            .collect()
    };
    let slower = beside_streams(|stream, constant, _| stream.per_second.min(constant));
    let both = beside_streams(|stream, _, constant| machine::processors() * 1e6 / (stream.machine_micros + constant));
    let say = |side: usize| {
        format!(
            "{} /s, {:.1} µs of CPU each ({:.1} of the whole machine), p99 {:.1} ms",
            thousands(middle(&runs[side], |run| run.per_second)),
            middle(&runs[side], |run| run.cpu_micros),
            middle(&runs[side], |run| run.machine_micros),
            middle(&runs[side], |run| run.p99_micros) / 1e3,
        )
    };
    let streams = format!(
        "{} pairs/s ({:.1} µs of the whole machine)",
        thousands(median(stream.iter().map(|run| run.per_second))),
        median(stream.iter().map(|run| run.machine_micros))
    );
    let row = |work: &str| Row::new(work, say(0));
    vec![
        row("one pair a POST, 64 connections")
            .beside("axum, one INSERT a request", say(1))
            .ratio(Ratio::of(&rates[0], &rates[1]), Bound::AtLeast(4.0)),
        row("the same")
            .beside(
                "the slower of axum that parses the body and answers a constant, and our own streams",
                format!("{}; {streams}", say(2)),
            )
            .ratio(Ratio::of(&rates[0], &slower), Bound::AtLeast(0.6)),
        row("the same")
            .beside(
                "a request that takes of the processors what those two take, and all of them busy",
                format!("{} /s", thousands(median(both.iter().copied()))),
            )
            .unbounded_ratio(Ratio::of(&rates[0], &both)),
    ]
}

/// A run of our own streams.
struct Streamed {
    per_second: f64,
    /// Processor time of the whole machine for a pair.
    machine_micros: f64,
}

/// Pairs of which none is there yet.
async fn by_stream(database: &str, bodies: &[bytes::Bytes], pairs: usize) -> Streamed {
    let service = streams::warm(database).await;
    let before = machine::busy_seconds();
    let seconds = streams::send(&service.url, bodies, None, "created", pairs / bodies.len()).await;
    let run = Streamed {
        per_second: pairs as f64 / seconds,
        machine_micros: (machine::busy_seconds() - before) / pairs as f64 * 1e6,
    };
    eprintln!(
        "  streams: {:.0} pairs/s, {:.1} µs of the whole machine",
        run.per_second, run.machine_micros
    );
    run
}
