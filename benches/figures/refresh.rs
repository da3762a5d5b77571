//! A refresh, each segment recounted and compared in a snapshot of its own, beside one GROUP BY over the table.

use std::time::Instant;

use crate::harness::ledger::{Leaving, ask, fill};
use crate::harness::program;
use crate::harness::table::thousands;
use crate::harness::{Bound, Plan, Ratio, Row, median, postgres};

const SEGMENTS: u32 = 1_000;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    let members = plan.rows * 2;
    fill(&database, "segment", SEGMENTS, members / SEGMENTS, Leaving::Ahead).await;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..=plan.rounds {
        let begun = Instant::now();
        let said = program::run("refresh", &database);
        let refreshed = begun.elapsed().as_secs_f64();
        assert!(said.contains("recounted 1000 segments, drift 0"), "{said}");
        let begun = Instant::now();
        let (groups, counted): (i64, i64) = ask(
            &database,
            "SELECT count(*), sum(members)::bigint
               FROM (SELECT segment_id, count(*) AS members FROM segment_counter_lane_0.membership
                      WHERE expires_at > clock_timestamp() GROUP BY segment_id) g",
        )
        .await;
        let grouped = begun.elapsed().as_secs_f64();
        assert_eq!((groups, counted), (i64::from(SEGMENTS), i64::from(members)));
        eprintln!("  refresh {refreshed:.2} s, GROUP BY {grouped:.2} s");
        if round > 0 {
            ours.push(refreshed);
            theirs.push(grouped);
        }
    }
    let say = |seconds: &[f64]| format!("{:.2} s", median(seconds.iter().copied()));
    vec![
        Row::new(
            &format!("refresh of 1,000 segments, {} members", thousands(f64::from(members))),
            say(&ours),
        )
        .beside("one GROUP BY over the table", say(&theirs))
        .ratio(Ratio::of(&ours, &theirs), Bound::AtMost(3.0)),
    ]
}
