//! A count asked of the ledger, of a segment with very many members beside one with a thousand: counters, not members, are read.

use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::{Load, each, in_turns, middle};
use crate::harness::{Bound, Plan, Ratio, Row, postgres};
use crate::support::postgres::execute;

const SMALL: u32 = 1_000;
/// Minutes in which somebody leaves: nearly the two weeks of a window.
const MINUTES: u32 = 20_000;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    fill(&database, "large", plan.members).await;
    fill(&database, "small", SMALL).await;
    execute(&database, "VACUUM ANALYZE").await;
    // The fill stands for what the service would have written exactly when a recount finds the same.
    let said = program::run("refresh", &database);
    assert!(said.contains("recounted 2 segments, drift 0"), "{said}");

    let service = Program::service(&database, None);
    let strict = |name: &str| Load::get(1, &format!("/v1/segments/{name}/count?max_staleness_ms=0"));
    let runs = in_turns(plan, &[(&strict("large"), &service), (&strict("small"), &service)]);
    let micros = |side: usize| each(&runs[side], |run| 1e6 / run.per_second);
    let say = |side: usize| format!("{:.0} µs", middle(&runs[side], |run| 1e6 / run.per_second));
    let work = format!("a count at the ledger, {} members", thousands(f64::from(plan.members)));
    vec![
        Row::new(&work, say(0))
            .beside(&format!("{} members", thousands(f64::from(SMALL))), say(1))
            .ratio(Ratio::of(&micros(0), &micros(1)), Bound::AtMost(1.2)),
    ]
}

/// A segment and its members, who leave evenly over the window; counters as the service would have written them.
async fn fill(database_url: &str, name: &str, members: u32) {
    let step = (MINUTES / members).max(1);
    let sql = format!(
        "INSERT INTO segment_counter.segment (name, from_pair, created_at) VALUES ('{name}', false, clock_timestamp());
         INSERT INTO segment_counter_lane_0.membership (segment_id, user_id, expires_at)
         SELECT s.id, 'user-' || n, date_bin('1 minute', now(), 'epoch') + interval '1 minute' * (10 + n * {step} % {MINUTES})
           FROM segment_counter.segment s, generate_series(1, {members}) n WHERE s.name = '{name}';
         INSERT INTO segment_counter_lane_0.segment_bucket (segment_id, expires_at, members)
         SELECT m.segment_id, m.expires_at, count(*)
           FROM segment_counter_lane_0.membership m JOIN segment_counter.segment s ON s.id = m.segment_id
          WHERE s.name = '{name}' GROUP BY 1, 2;
         INSERT INTO segment_counter_lane_0.segment_span (segment_id, span_end, members)
         SELECT b.segment_id, date_bin('2 hours', b.expires_at - interval '1 microsecond', 'epoch') + interval '2 hours', sum(b.members)
           FROM segment_counter_lane_0.segment_bucket b JOIN segment_counter.segment s ON s.id = b.segment_id
          WHERE s.name = '{name}' GROUP BY 1, 2"
    );
    execute(database_url, &sql).await;
}
