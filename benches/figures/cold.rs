//! A count that no cache may answer, of a segment in which somebody leaves in each of 20,000 minutes, beside `SELECT 1` through a pool of the same
//! size on the same server: what counting costs more than to ask the database anything at all.

use crate::harness::ledger::{Leaving, fill};
use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, Run, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, postgres};
use crate::reference;

/// Segments that are asked for in turn, so that a statement answers one of them for many connections only where the service gathers.
const SEGMENTS: u32 = 16;
const BUCKETS: u32 = 20_000;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    fill(&database, "cold", SEGMENTS, BUCKETS, Leaving::Already).await;
    let service = Program::service(&database, None);
    let reference = Program::reference(&[(reference::DATABASE_URL, &database)]);
    let cold = |connections| Load::numbered(connections, "/v1/segments/cold-{n}/count?max_staleness_ms=0", SEGMENTS);
    let one = |connections| Load::get(connections, "/one");
    let runs = in_turns(
        plan,
        &[
            (&cold(1), &service),
            (&one(1), &reference),
            (&cold(64), &service),
            (&one(64), &reference),
        ],
    );
    let rate = |runs: &[Run]| {
        format!(
            "{} /s, p99 {:.1} ms",
            thousands(middle(runs, |run| run.per_second)),
            middle(runs, |run| run.p99_micros) / 1e3
        )
    };
    let row = |connections: &str, ours: usize| {
        let per_second = |side: usize| each(&runs[side], |run| run.per_second);
        Row::new(
            &format!(
                "a count at the ledger, {} buckets, {connections}",
                thousands(f64::from(BUCKETS))
            ),
            rate(&runs[ours]),
        )
        .beside("axum, SELECT 1 through a pool of the same size", rate(&runs[ours + 1]))
        .ratio(Ratio::of(&per_second(ours), &per_second(ours + 1)), Bound::AtLeast(0.4))
    };
    vec![row("1 connection", 0), row("64 connections", 2)]
}
