//! What a database holds before something is measured.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};

use crate::support::postgres::execute;

use super::streams::SEGMENTS;

/// Minutes in which somebody leaves: nearly the two weeks of a window.
const MINUTES: u32 = 20_000;
/// How many of those have passed since a total was moved on: between the ten of the settle time, and the forty at which a count moves it.
const PASSED: u32 = 25;

/// When members leave.
#[derive(Debug, Clone, Copy)]
pub enum Leaving {
    /// Evenly over the window.
    Ahead,
    /// The same, but the first have left, since a total was last moved on.
    Already,
    /// They have left, longer ago than the archive waits.
    LongAgo,
}

/// No memberships: each run begins from the same.
pub async fn empty(database_url: &str) {
    let (lanes,): (i64,) = ask(database_url, "SELECT count(*) FROM segment_counter.lane").await;
    let tables: Vec<String> = (0..lanes)
        .flat_map(|lane| {
            ["membership", "segment_expiry", "segment_total"]
                .map(|table| format!("segment_counter_lane_{lane}.{table}"))
        })
        .collect();
    execute(database_url, &format!("TRUNCATE {}; CHECKPOINT", tables.join(", "))).await;
}

/// The segments of the pairs, and their numbers.
pub async fn create_segments(database_url: &str) -> Vec<i64> {
    let sql = format!(
        "INSERT INTO segment_counter.segment (name, from_pair, created_at)
         SELECT 'segment-' || n, true, clock_timestamp() FROM generate_series(0, {}) n",
        SEGMENTS - 1
    );
    execute(database_url, &sql).await;
    let (ids,): (Vec<i64>,) = ask(
        database_url,
        "SELECT array_agg(id ORDER BY substr(name, 9)::integer) FROM segment_counter.segment",
    )
    .await;
    ids
}

/// The one row of a query.
pub async fn ask<T: for<'r> FromRow<'r, PgRow> + Send + Unpin>(database_url: &str, sql: &str) -> T {
    let mut connection = PgConnection::connect(database_url).await.expect("a connection");
    sqlx::query_as(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .expect(sql)
}

/// Segments `NAME-1`, `NAME-2` and so on with so many members each, memberships and counters as the service would have written them; a segment's
/// members lie scattered over the table. The indexes are built afterwards, which leaves them a little better packed than they grow.
pub async fn fill(database_url: &str, name: &str, segments: u32, members: u32, leaving: Leaving) {
    let step = (MINUTES / members).max(1);
    let ends = match leaving {
        Leaving::Ahead => format!("interval '1 minute' * (n::bigint * {step} % {MINUTES} + 10)"),
        Leaving::Already => format!("interval '1 minute' * (n::bigint * {step} % {MINUTES} - {PASSED})"),
        Leaving::LongAgo => "interval '-1 minute' * (20 + n % 1000)".to_owned(),
    };
    let scattered = if segments > 1 { "ORDER BY n, s.id" } else { "" };
    let sql = format!(
        "ALTER TABLE segment_counter_lane_0.membership DROP CONSTRAINT membership_pkey;
         DROP INDEX segment_counter_lane_0.membership_user;
         INSERT INTO segment_counter.segment (name, from_pair, created_at)
         SELECT '{name}-' || n, false, clock_timestamp() FROM generate_series(1, {segments}) n;
         INSERT INTO segment_counter_lane_0.membership (segment_id, user_id, expires_at)
         SELECT s.id, 'user-' || n, date_bin('1 minute', now(), 'epoch') + {ends}
           FROM segment_counter.segment s, generate_series(1, {members}) n WHERE s.name LIKE '{name}-%' {scattered};
         SET maintenance_work_mem = '512MB';
         ALTER TABLE segment_counter_lane_0.membership ADD PRIMARY KEY (segment_id, user_id);
         CREATE INDEX membership_user ON segment_counter_lane_0.membership (user_id);
         INSERT INTO segment_counter_lane_0.segment_expiry (segment_id, expires_at, members)
         SELECT m.segment_id, m.expires_at, count(*)
           FROM segment_counter_lane_0.membership m JOIN segment_counter.segment s ON s.id = m.segment_id
          WHERE s.name LIKE '{name}-%' GROUP BY 1, 2;
         INSERT INTO segment_counter_lane_0.segment_total (segment_id, members)
         SELECT b.segment_id, sum(b.members)
           FROM segment_counter_lane_0.segment_expiry b JOIN segment_counter.segment s ON s.id = b.segment_id
          WHERE s.name LIKE '{name}-%' GROUP BY 1"
    );
    execute(database_url, &sql).await;
    execute(database_url, "VACUUM (ANALYZE)").await;
}
