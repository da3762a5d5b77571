//! The main job on real input, through the binary and a socket: a stream of pairs with known answers goes in as gzip NDJSON, twice, and
//! every count equals one that was made apart from our code (tests/data/expected.awk over the same file).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a client has no other clock than its own")]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use support::server::{Server, migrated};
use support::stream;

const TEN_YEARS: i64 = 315_360_000;
const TWO_WEEKS: i64 = 1_209_600;

/// The stream as a client would send it now: each age turned into an instant.
fn ndjson() -> Vec<u8> {
    let now = jiff::Timestamp::now().as_second();
    stream::ndjson(&stream::pairs().unwrap(), now).unwrap()
}

/// What awk says that the counts must be.
fn expected(window: i64) -> BTreeMap<String, i64> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let command = format!("gzip -dc {data}/commits.ndjson.gz | awk -v window={window} -f {data}/expected.awk");
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (segment, members) = line.split_once('\t').unwrap();
            (segment.to_owned(), members.parse().unwrap())
        })
        .collect()
}

async fn send(client: &reqwest::Client, url: &str) -> Value {
    let response = client
        .post(format!("{url}/v1/pairs:batch"))
        .header("content-type", "application/x-ndjson")
        .header("content-encoding", "gzip")
        .body(ndjson())
        .send()
        .await
        .unwrap();
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Every segment's count, page by page, as the list says it and as `POST /v1/counts` says it with the ledger asked.
async fn counts(client: &reqwest::Client, url: &str) -> BTreeMap<String, i64> {
    let page: Value = client
        .get(format!("{url}/v1/segments?limit=1000"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let listed: BTreeMap<String, i64> = page["segments"]
        .as_array()
        .unwrap_or_else(|| panic!("no segments in {page}"))
        .iter()
        .map(|one| {
            (
                one["segment"].as_str().unwrap().to_owned(),
                one["count"].as_i64().unwrap(),
            )
        })
        .collect();
    let names: Vec<&String> = listed.keys().collect();
    let asked: Value = client
        .post(format!("{url}/v1/counts"))
        .json(&serde_json::json!({"segments": names, "max_staleness_ms": 0}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let asked: BTreeMap<String, i64> = asked["counts"]
        .as_array()
        .unwrap_or_else(|| panic!("no counts in {asked}"))
        .iter()
        .map(|one| {
            (
                one["segment"].as_str().unwrap().to_owned(),
                one["count"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(listed, asked, "the list and the counts disagree");
    listed
}

async fn the_stream_gives_the_known_answers(database_url: &str, window: i64, memberships: i64, populated: usize) {
    let server = Server::start(database_url, &["--window-seconds", &window.to_string()]);
    let client = reqwest::Client::new();
    let first = send(&client, &server.url).await;
    assert_eq!(first["received"], 84_981, "{first}");
    let second = send(&client, &server.url).await;
    assert_eq!(second["created"], 0, "a pair sent again is no second one: {second}");

    let counts = counts(&client, &server.url).await;
    assert_eq!(counts, expected(window));
    assert_eq!(counts.len(), 215);
    assert_eq!(counts.values().sum::<i64>(), memberships);
    assert_eq!(counts.values().filter(|count| **count > 0).count(), populated);
}

#[tokio::test]
async fn the_embedded_ledger_answers_a_real_stream_exactly() {
    the_stream_gives_the_known_answers("sqlite::memory:", TEN_YEARS, 8_820, 215).await;
    the_stream_gives_the_known_answers("sqlite::memory:", TWO_WEEKS, 165, 69).await;
}

#[tokio::test]
async fn postgres_answers_a_real_stream_exactly() {
    for (window, memberships, populated) in [(TEN_YEARS, 8_820, 215), (TWO_WEEKS, 165, 69)] {
        let url = migrated(support::postgres::server()).await;
        the_stream_gives_the_known_answers(&url, window, memberships, populated).await;
    }
}

#[test]
fn the_demo_reckons_as_awk_does() {
    let pairs = stream::pairs().unwrap();
    for window in [TEN_YEARS, TWO_WEEKS] {
        let reckoned: BTreeMap<String, i64> = stream::members(&pairs, |_| window)
            .into_iter()
            .map(|(segment, members)| (segment.to_owned(), i64::try_from(members).unwrap()))
            .collect();
        assert_eq!(reckoned, expected(window));
    }
}
