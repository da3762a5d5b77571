//! NDJSON through the service, beside the very same statement by pgbench for the same pairs: what HTTP, parsing, batching and telling the cache
//! take from what the database can do; and where most pairs are repeats, what is won by not asking it.

use std::time::Instant;

use segment_counter::ledger::{PostgresOptions, Settings, recording_for_bench};

use crate::harness::ledger::{ask, create_segments, empty};
use crate::harness::program;
use crate::harness::streams::{self, Pairs};
use crate::harness::table::thousands;
use crate::harness::{Bound, Plan, Ratio, Row, median, pgbench, postgres};

/// Streams of the service and sessions of pgbench.
const CLIENTS: usize = 4;

/// No pair twice; plain and by gzip.
pub async fn unique(plan: &Plan) -> Vec<Row> {
    let clients = (0..CLIENTS).map(|client| Pairs::unique(client, plan.pairs / CLIENTS));
    let [plain, gzip, limit] = measure(plan, &clients.collect::<Vec<_>>(), true).await;
    let row = |work: &str, ours: &Rates| ours.row(work, &limit, 0.8);
    vec![
        row("NDJSON of unique pairs, 4 streams", &plain),
        row("the same, gzip", &gzip),
    ]
}

/// Nine of ten pairs repeat one of the newest, all within a minute or so.
pub async fn repeats(plan: &Plan) -> Vec<Row> {
    let clients = (0..CLIENTS).map(|client| Pairs::repeating(client, plan.pairs / CLIENTS));
    let [plain, _, limit] = measure(plan, &clients.collect::<Vec<_>>(), false).await;
    vec![plain.row("NDJSON of which nine pairs in ten are repeats, 4 streams", &limit, 3.0)]
}

/// One side's rounds.
#[derive(Default)]
struct Rates {
    per_second: Vec<f64>,
    cpu_micros: Vec<f64>,
    /// What the database's log grew by for each pair.
    wal_bytes: Vec<f64>,
}

impl Rates {
    fn row(&self, work: &str, limit: &Self, bound: f64) -> Row {
        let rate = |side: &Self| format!("{} pairs/s", thousands(median(side.per_second.iter().copied())));
        let cpu = median(self.cpu_micros.iter().copied());
        let wal = median(self.wal_bytes.iter().copied());
        let ours = format!("{}, {cpu:.1} µs of CPU and {wal:.0} bytes of WAL each", rate(self));
        Row::new(work, ours)
            .beside(
                &format!("all pairs by the same statement and pgbench, {CLIENTS} sessions"),
                rate(limit),
            )
            .ratio(Ratio::of(&self.per_second, &limit.per_second), Bound::AtLeast(bound))
    }
}

/// How far the server's log is.
async fn wal_bytes(database: &str) -> f64 {
    let (bytes,): (f64,) = ask(database, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8").await;
    bytes
}

/// Plain, by gzip where that is wanted, and by pgbench.
async fn measure(plan: &Plan, clients: &[Pairs], gzip: bool) -> [Rates; 3] {
    let server = postgres();
    let (ours, theirs) = (server.database().await, server.database().await);
    for database in [&ours, &theirs] {
        program::run("migrate", database);
    }
    create_segments(&ours).await;
    let ids = create_segments(&theirs).await;
    let plain: Vec<_> = clients.iter().map(Pairs::ndjson).collect();
    let gzipped: Vec<_> = plain.iter().map(|body| streams::gzip(body)).collect();
    let options = PostgresOptions::new(theirs.parse().unwrap(), "segment_counter", 1).unwrap();
    let repeats = clients[0].new < clients[0].len();
    let (statement, session) = recording_for_bench(&options, &Settings::default(), repeats);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("record.sql");
    std::fs::write(&script, streams::script(&statement, &ids, clients)).unwrap();

    let mut sides: [Rates; 3] = Default::default();
    let all = clients.iter().map(Pairs::len).sum::<usize>() as f64;
    let new = clients[0].new;
    for round in 0..=plan.rounds {
        let begun = Instant::now();
        let mut rates = [(0.0, 0.0, 0.0); 3];
        let ways = [(0, &plain, None), (1, &gzipped, Some("gzip"))];
        for (side, bodies, encoding) in ways.into_iter().take(if gzip { 2 } else { 1 }) {
            let service = streams::warm(&ours).await;
            let (before, logged) = (service.cpu_seconds(), wal_bytes(&ours).await);
            let seconds = streams::send(&service.url, bodies, encoding, "created", new).await;
            let cpu = service.cpu_seconds() - before;
            let wal = wal_bytes(&ours).await - logged;
            rates[side] = (all / seconds, cpu / all * 1e6, wal / all);
        }
        empty(&theirs).await;
        rates[2].0 = all / pgbench::seconds(&theirs, &session, CLIENTS, &script);
        eprintln!(
            "  pairs/s, µs of CPU, bytes of WAL: plain, gzip, pgbench {rates:.1?} ({:.1?})",
            begun.elapsed()
        );
        // The first round warms both sides up.
        if round > 0 {
            for (side, (per_second, cpu_micros, wal_bytes)) in sides.iter_mut().zip(rates) {
                side.per_second.push(per_second);
                side.cpu_micros.push(cpu_micros);
                side.wal_bytes.push(wal_bytes);
            }
        }
    }
    sides
}
