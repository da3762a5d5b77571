//! `move-segment`: a segment changes its lane, or the reason why not is told; it ends whatever the database does.

use std::process::Output;
use std::time::{Duration, Instant};

use segment_counter::counting::{Pair, SegmentName, UserId};
use segment_counter::ledger::{Ledger, Location, PostgresLedger, Settings};
use sqlx::{Connection, PgConnection};

use crate::support::postgres::server;
use crate::support::proxy::Proxy;
use crate::support::server::command;

const MEMBERS: usize = 300;

/// A database with two lanes; `s` and its members are in the first.
async fn database() -> String {
    let url = server().database().await;
    let migrated = ended(&url, &["migrate", "--lanes", "2"]);
    assert_eq!(migrated.status.code(), Some(0), "{}", errors(&migrated));
    let members: Vec<_> = (0..MEMBERS)
        .map(|n| Pair {
            user: UserId::new(format!("user {n}")).unwrap(),
            segment: SegmentName::new("s").unwrap(),
            observed_at: None,
            ttl: None,
        })
        .collect();
    ledger(&url).record(&members).await.unwrap();
    url
}

fn ledger(url: &str) -> PostgresLedger {
    let Ok(Location::Postgres(options)) = Location::parse(url, None, "segment_counter", 4) else {
        panic!("a URL of PostgreSQL")
    };
    PostgresLedger::open(&options, Settings::default()).unwrap()
}

fn ended(url: &str, arguments: &[&str]) -> Output {
    command(url).args(arguments).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Where `s` lives, and how many it has.
async fn home_and_count(url: &str) -> (usize, i64) {
    let (ledger, name) = (ledger(url), SegmentName::new("s").unwrap());
    let id = ledger.resolve(std::slice::from_ref(&name)).await.unwrap()[0].unwrap();
    let members = ledger.count(&[id]).await.unwrap()[0].members;
    assert_eq!(ledger.recount(&[id]).await.unwrap()[0].drift, 0);
    (ledger.lane_of(&name), members)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_moved_and_what_was_done_stands_on_standard_output_alone() {
    let url = database().await;
    let output = ended(&url, &["move-segment", "s", "--to-lane", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "moved s to lane 1: 300 memberships copied, 0 changes caught up with\n"
    );
    assert!(errors(&output).contains("lives in the new lane"), "{}", errors(&output));
    assert_eq!(home_and_count(&url).await, (1, 300));

    let again = ended(&url, &["move-segment", "s", "--to-lane", "1"]);
    assert_eq!(again.status.code(), Some(0), "{}", errors(&again));
    assert_eq!(String::from_utf8_lossy(&again.stdout), "s lives in lane 1 already\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_cannot_be_says_why_and_changes_nothing() {
    let url = database().await;
    // As another move holds it for as long as it takes.
    let mut other = PgConnection::connect(&url).await.unwrap();
    let refused = |arguments: &[&str], code: i32, part: &str| {
        let output = ended(&url, arguments);
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part), "{part} is not in {said}");
        assert!(output.stdout.is_empty(), "{said}");
    };
    refused(
        &["move-segment", "none", "--to-lane", "1"],
        1,
        "none was not moved: there is no such segment",
    );
    refused(
        &["move-segment", "s", "--to-lane", "2"],
        1,
        "there is no lane 2: there are 2, counted from 0; `segment-counter migrate --lanes` adds more",
    );
    refused(&["move-segment", "s", "--to-lane", "-1"], 2, "-1 is not in 0..");
    refused(&["move-segment", "s"], 2, "--to-lane");
    refused(
        &["move-segment", "s", "--to-lane", "1", "--database-max-connections", "1"],
        2,
        "needs at least 2 connections: database_max_connections is 1",
    );
    sqlx::query("SELECT pg_advisory_lock(x'5e67c006'::bigint)")
        .execute(&mut other)
        .await
        .unwrap();
    refused(
        &["move-segment", "s", "--to-lane", "1"],
        1,
        "another segment is being moved, or an archive clears away",
    );
    other.close().await.unwrap();
    assert_eq!(home_and_count(&url).await, (0, 300));
}

#[test]
fn an_embedded_database_has_one_lane_and_says_so() {
    let output = ended("sqlite::memory:", &["move-segment", "s", "--to-lane", "0"]);
    assert_eq!(output.status.code(), Some(2));
    let said = errors(&output);
    assert!(said.contains("needs PostgreSQL") && said.contains("one lane"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_from_a_database_that_was_not_migrated_says_what_to_do() {
    let url = server().database().await;
    let output = ended(&url, &["move-segment", "s", "--to-lane", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("migrate"), "{}", errors(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_ends_where_the_database_falls_silent_or_a_writer_never_ends() {
    let url = database().await;
    let proxy = Proxy::in_front_of(&url);
    let through = proxy.url(&url);
    proxy.black_hole();
    let began = Instant::now();
    let silent = tokio::task::block_in_place(|| ended(&through, &["move-segment", "s", "--to-lane", "1"]));
    assert_eq!(silent.status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(errors(&silent).contains("was not moved"), "{}", errors(&silent));

    // A transaction that has written memberships and goes on for ever.
    let mut writer = PgConnection::connect(&url).await.unwrap();
    let mut transaction = writer.begin().await.unwrap();
    sqlx::query("LOCK TABLE segment_counter_lane_0.membership IN ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let arguments = ["move-segment", "s", "--to-lane", "1", "--timeout-seconds", "4"];
    let held = tokio::task::block_in_place(|| ended(&url, &arguments));
    assert_eq!(held.status.code(), Some(1));
    let said = errors(&held);
    assert!(
        said.contains("within timeout_seconds (4 s)") && said.contains("nothing is lost"),
        "{said}"
    );
    transaction.rollback().await.unwrap();
    assert_eq!(home_and_count(&url).await, (0, 300));

    let output = tokio::task::block_in_place(|| ended(&url, &["move-segment", "s", "--to-lane", "1"]));
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(home_and_count(&url).await, (1, 300));
}
