//! What a membership takes in PostgreSQL after one renewal, with all indexes, beside the same row freshly written under the primary key alone; and
//! what a segment takes in Redis.

use std::fmt::Write as _;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::harness::ledger::{ask, create_segments};
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, SEGMENTS};
use crate::harness::table::thousands;
use crate::harness::{Bound, Plan, Ratio, Row, postgres};
use crate::support::postgres::execute;
use crate::support::redis::{Node, command};

/// Segments whose keys are looked at.
const KEYS: usize = 1_000;

pub async fn in_postgres(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let mut rows = Vec::new();
    for bytes in [8, 36] {
        let database = server.database().await;
        program::run("migrate", &database);
        create_segments(&database).await;
        let service = Program::service(&database, None);
        let mut members: Vec<(usize, String)> = ids(plan.rows as usize, bytes)
            .into_iter()
            .enumerate()
            .map(|(n, user)| (n % SEGMENTS, user))
            .collect();
        send(&service, &members, 1_209_600).await;
        execute(
            &database,
            "CREATE TABLE fresh (segment_id bigint NOT NULL, expires_at timestamptz NOT NULL, user_id text COLLATE \"C\" NOT NULL,
                                 PRIMARY KEY (segment_id, user_id));
             INSERT INTO fresh SELECT segment_id, expires_at, user_id FROM segment_counter_lane_0.membership",
        )
        .await;
        // In an order of their own, as users come back: not page by page as they were written.
        members.sort_by_cached_key(|(segment, user)| {
            BuildHasherDefault::<DefaultHasher>::default().hash_one((user, segment))
        });
        send(&service, &members, 1_209_600 + 3_600).await;
        let (renewed, ours, theirs): (i64, i64, i64) = ask(
            &database,
            "SELECT (SELECT count(*) FROM segment_counter_lane_0.membership WHERE prev_expires_at IS NOT NULL),
                    pg_total_relation_size('segment_counter_lane_0.membership'), pg_total_relation_size('fresh')",
        )
        .await;
        assert_eq!(renewed, i64::from(plan.rows), "each was renewed once");
        let each = |total: i64| total as f64 / f64::from(plan.rows);
        eprintln!("  {bytes}-byte ids: {:.0} and {:.0} bytes", each(ours), each(theirs));
        rows.push(
            Row::new(
                &format!(
                    "PostgreSQL, {} memberships renewed once, ids of {bytes} bytes",
                    thousands(f64::from(plan.rows))
                ),
                format!("{:.0} bytes each", each(ours)),
            )
            .beside(
                "the same rows freshly written, the primary key alone",
                format!("{:.0} bytes each", each(theirs)),
            )
            .ratio(Ratio::of(&[each(ours)], &[each(theirs)]), Bound::AtMost(1.6)),
        );
    }
    rows
}

/// Ids without an order, as clients have them.
fn ids(count: usize, bytes: usize) -> Vec<String> {
    (0..count as u64)
        .map(|n| {
            // SplitMix64's finaliser: one to one, so no id comes twice.
            let mut mixed = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            if bytes == 8 {
                // An odd multiplier is one to one over 32 bits too.
                format!("{:08x}", (n as u32).wrapping_mul(0x9e37_79b1))
            } else {
                let (head, tail) = (mixed >> 32, mixed & 0xffff_ffff);
                format!(
                    "{head:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
                    tail >> 16,
                    tail & 0xfff,
                    n & 0xfff,
                    n
                )
            }
        })
        .inspect(|id| assert_eq!(id.len(), bytes))
        .collect()
}

async fn send(service: &Program, members: &[(usize, String)], ttl: u32) {
    let mut text = String::new();
    for (segment, user) in members {
        writeln!(
            text,
            r#"{{"user_id":"{user}","segment":"segment-{segment}","ttl_seconds":{ttl}}}"#
        )
        .unwrap();
    }
    let status = if ttl == 1_209_600 { "created" } else { "renewed" };
    streams::send(&service.url, &[text.into()], None, status, members.len()).await;
}

pub async fn in_redis(_: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    let redis = Node::start(&[]);
    let service = Program::service(&database, Some(&redis.url()));
    let names: Vec<String> = (0..KEYS).map(|n| format!("{}-{n}", "segment".repeat(10))).collect();
    let mut text = String::new();
    for name in &names {
        writeln!(text, r#"{{"user_id":"ada","segment":"{name}"}}"#).unwrap();
    }
    streams::send(&service.url, &[text.into()], None, "created", KEYS).await;
    // Twice: what was recorded a moment ago is still being told to the cache, which keeps no count until it was.
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let counted = reqwest::Client::new()
            .post(format!("{}/v1/counts", service.url))
            .json(&serde_json::json!({"segments": names}))
            .send()
            .await
            .unwrap();
        assert!(counted.status().is_success(), "{counted:?}");
    }
    let keys = words(command(&redis.url(), &["KEYS", "*"]).await);
    assert_eq!(keys.len(), KEYS, "a key a segment");
    let (mut stored, mut claimed) = (0, 0);
    for key in &keys {
        stored = stored.max(usage(&redis, key).await);
    }
    // The most that a key ever holds: the largest value, and the claim of a reader that refreshes it.
    for key in &keys {
        let (number, micros) = (i64::MAX.to_string(), "1700000000000000");
        let token = u64::MAX.to_string();
        let fields = ["HSET", key, "v", &number, "t", &token, "c", micros, "d", micros];
        command(&redis.url(), &fields).await;
        claimed = claimed.max(usage(&redis, key).await);
    }
    vec![
        Row::new(
            "Redis, a segment (MEMORY USAGE): a count, the most with a claim standing",
            format!("{stored} bytes, {claimed} bytes"),
        )
        .at_most(claimed as f64, 512.0, "bytes"),
    ]
}

async fn usage(redis: &Node, key: &str) -> i64 {
    match command(&redis.url(), &["MEMORY", "USAGE", key, "SAMPLES", "0"]).await {
        redis::Value::Int(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn words(value: redis::Value) -> Vec<String> {
    redis::from_redis_value(value).expect("a list of keys")
}
