//! Unique pairs, as NDJSON for the service and as batches for pgbench: the same pairs in the same order, cut in the same way.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use segment_counter::counting::Rules;
use segment_counter::ledger::Settings;
use segment_counter::service::ServiceConfig;
use serde_json::Value;

use crate::support::postgres::execute;

/// Segments that the pairs go to, one after another.
pub const SEGMENTS: usize = 100;

/// One client's pairs: `(user, segment)`.
pub fn pairs(client: usize, count: usize) -> impl Iterator<Item = (String, usize)> {
    (0..count).map(move |n| (format!("user-{client}-{n:07}"), (n * 7 + client) % SEGMENTS))
}

pub fn ndjson(client: usize, count: usize) -> Bytes {
    let mut text = String::new();
    for (user, segment) in pairs(client, count) {
        writeln!(text, r#"{{"user_id": "{user}", "segment": "segment-{segment}"}}"#).unwrap();
    }
    text.into()
}

pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

/// The pgbench script: every client prepares the statement once and executes it for one batch after another, as the service does.
pub fn script(statement: &str, ids: &[i64], clients: usize, count: usize) -> String {
    let settings = Settings::default();
    let rules = Rules::default();
    let (window, resolution) = (rules.window().seconds(), rules.resolution().seconds() * 1_000_000);
    let settle = settings.settle.as_micros() / 2;
    let mut text = String::new();
    let types = "timestamptz, bigint[], text[], bigint[], bigint[], bigint, bigint, bigint";
    writeln!(text, "PREPARE record ({types}) AS {};", statement.trim()).unwrap();
    for client in 0..clients {
        writeln!(text, "\\if :client_id = {client}").unwrap();
        let mut pairs = pairs(client, count).peekable();
        while pairs.peek().is_some() {
            let (mut segments, mut users, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
            for (user, segment) in pairs.by_ref().take(ServiceConfig::default().flush_pairs) {
                segments.push(ids[segment].to_string());
                users.push(user);
                nulls.push("null");
            }
            let (segments, users, nulls) = (segments.join(","), users.join(","), nulls.join(","));
            writeln!(
                text,
                "EXECUTE record (null, '{{{segments}}}', '{{{users}}}', '{{{nulls}}}', '{{{nulls}}}', {window}, {resolution}, {settle});"
            )
            .unwrap();
        }
        writeln!(text, "\\endif").unwrap();
    }
    text
}

/// Sends each body on a connection of its own, all at once; gives the seconds until the last answer, which must say that every pair was
/// new.
pub async fn send(url: &str, bodies: &[Bytes], encoding: Option<&'static str>, pairs: usize) -> f64 {
    let client = reqwest::Client::new();
    let begun = Instant::now();
    let sent = bodies.iter().map(|body| {
        let mut request = client
            .post(format!("{url}/v1/pairs:batch"))
            .header("content-type", "application/x-ndjson")
            .body(body.clone());
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        async move {
            let response = request.send().await.expect("an answer");
            let status = response.status();
            let totals: Value = response.json().await.expect("totals");
            assert!(status.is_success() && totals["created"] == pairs, "{status} {totals}");
        }
    });
    futures_util::future::join_all(sent).await;
    begun.elapsed().as_secs_f64()
}

/// No memberships: each run begins from the same.
pub async fn empty(database_url: &str) {
    execute(
        database_url,
        "TRUNCATE segment_counter_lane_0.membership, segment_counter_lane_0.segment_bucket, segment_counter_lane_0.segment_span; CHECKPOINT",
    )
    .await;
}

/// The segments of the pairs, and their numbers.
pub async fn create_segments(database_url: &str) -> Vec<i64> {
    let sql = format!(
        "INSERT INTO segment_counter.segment (name, from_pair, created_at)
         SELECT 'segment-' || n, true, clock_timestamp() FROM generate_series(0, {}) n",
        SEGMENTS - 1
    );
    execute(database_url, &sql).await;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(database_url)
        .await
        .unwrap();
    sqlx::query_scalar("SELECT id FROM segment_counter.segment ORDER BY substr(name, 9)::integer")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}
