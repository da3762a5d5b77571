//! NDJSON of unique pairs through the service, beside the very same statement by pgbench: what HTTP, parsing, batching and telling the
//! cache take from what the database can do.

use std::time::Instant;

use segment_counter::ledger::{PostgresOptions, Settings, recording_for_bench};

use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::{Bound, Plan, Ratio, Row, median, pgbench, postgres, streams};

/// Streams of the service and sessions of pgbench.
const CLIENTS: usize = 4;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let (ours, theirs) = (server.database().await, server.database().await);
    for database in [&ours, &theirs] {
        program::run("migrate", database);
    }
    streams::create_segments(&ours).await;
    let ids = streams::create_segments(&theirs).await;
    let each = plan.pairs / CLIENTS;
    let plain: Vec<_> = (0..CLIENTS).map(|client| streams::ndjson(client, each)).collect();
    let gzipped: Vec<_> = plain.iter().map(|body| streams::gzip(body)).collect();
    let options = PostgresOptions::new(theirs.parse().unwrap(), "segment_counter", 1).unwrap();
    let (statement, session) = recording_for_bench(&options, &Settings::default());
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("record.sql");
    std::fs::write(&script, streams::script(&statement, &ids, CLIENTS, each)).unwrap();

    let service = Program::service(&ours, None);
    let (mut by_plain, mut by_gzip, mut by_pgbench, mut cpu) = (vec![], vec![], vec![], vec![]);
    let all = (each * CLIENTS) as f64;
    for round in 0..=plan.rounds {
        let begun = Instant::now();
        let before = service.cpu_seconds();
        streams::empty(&ours).await;
        let ours_plain = all / streams::send(&service.url, &plain, None, each).await;
        let used = (service.cpu_seconds() - before) / all * 1e6;
        streams::empty(&theirs).await;
        let limit = all / pgbench::seconds(&theirs, &session, CLIENTS, &script);
        streams::empty(&ours).await;
        let ours_gzip = all / streams::send(&service.url, &gzipped, Some("gzip"), each).await;
        eprintln!(
            "  pairs/s: plain {ours_plain:.0} ({used:.2} µs of CPU a pair), gzip {ours_gzip:.0}, pgbench {limit:.0} ({:.1?})",
            begun.elapsed()
        );
        // The first round warms both sides up.
        if round > 0 {
            by_plain.push(ours_plain);
            by_gzip.push(ours_gzip);
            by_pgbench.push(limit);
            cpu.push(used);
        }
    }
    let beside = format!("the same statement by pgbench, {CLIENTS} sessions");
    let row = |work: &str, ours: &[f64], more: String| {
        let measured = format!("{} pairs/s{more}", thousands(median(ours.iter().copied())));
        let limit = format!("{} pairs/s", thousands(median(by_pgbench.iter().copied())));
        Row::new(work, measured)
            .beside(&beside, limit)
            .ratio(Ratio::of(ours, &by_pgbench), Bound::AtLeast(0.8))
    };
    let cpu = format!(", {:.1} µs of CPU each", median(cpu));
    vec![
        row("NDJSON of unique pairs, 4 streams", &by_plain, cpu),
        row("the same, gzip", &by_gzip, String::new()),
    ]
}
