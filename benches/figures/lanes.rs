//! The price of lanes where all of them live on one server: the same streams and the same counts with four as with one.

use crate::harness::ledger::create_segments;
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs, SEGMENTS};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, in_turns};
use crate::harness::{Bound, Plan, Ratio, Row, median, postgres};
use crate::support::postgres::execute;

const LANES: u32 = 4;
const CLIENTS: usize = 4;
const CONNECTIONS: u32 = 64;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let (one, four) = (server.database().await, server.database().await);
    program::run("migrate", &one);
    let migrated = program::command("migrate", &four)
        .args(["--lanes", &LANES.to_string()])
        .stdout(std::process::Stdio::null())
        .status();
    assert!(
        migrated.expect("the service's binary").success(),
        "the lanes were not made"
    );
    for database in [&one, &four] {
        create_segments(database).await;
    }
    execute(
        &four,
        &format!("UPDATE segment_counter.segment SET lane = id % {LANES}"),
    )
    .await;

    let bodies: Vec<_> = (0..CLIENTS)
        .map(|client| Pairs::unique(client, plan.pairs / CLIENTS).ndjson())
        .collect();
    let sent = (plan.pairs / CLIENTS) * CLIENTS;
    let mut rates = [vec![], vec![]];
    for round in 0..=plan.rounds {
        for (database, rates) in [&four, &one].into_iter().zip(&mut rates) {
            let service = streams::warm(database).await;
            let seconds = streams::send(&service.url, &bodies, None, "created", plan.pairs / CLIENTS).await;
            // The first round warms both sides up.
            if round > 0 {
                rates.push(sent as f64 / seconds);
            }
        }
    }
    eprintln!("  pairs/s by four lanes and by one: {rates:.0?}");

    let count = Load::numbered(
        CONNECTIONS,
        "/v1/segments/segment-{n}/count?max_staleness_ms=0",
        u32::try_from(SEGMENTS - 1).expect("a small number"),
    );
    let sides = [&four, &one].map(|database| Program::service(database, None));
    let runs = in_turns(plan, &[(&count, &sides[0]), (&count, &sides[1])]);
    let counts: Vec<_> = runs.iter().map(|runs| each(runs, |run| run.per_second)).collect();

    let row = |work: &str, unit: &str, [four, one]: [&[f64]; 2]| {
        let say = |rates: &[f64]| format!("{} {unit}", thousands(median(rates.iter().copied())));
        Row::new(work, say(four))
            .beside("one lane", say(one))
            .ratio(Ratio::of(four, one), Bound::AtLeast(0.95))
    };
    vec![
        row(
            "NDJSON of unique pairs, 4 streams, four lanes",
            "pairs/s",
            [&rates[0], &rates[1]],
        ),
        row(
            "counts at the ledger, 64 connections, four lanes",
            "/s",
            [&counts[0], &counts[1]],
        ),
    ]
}
