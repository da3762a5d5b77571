//! The main job on real input, through the binary and a socket: a stream of pairs with known answers goes in as gzip NDJSON, twice, and
//! every count equals one that was made apart from our code (tests/data/expected.awk over the same file).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a client has no other clock than its own")]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::known_stream::{self, TEN_YEARS, TWO_WEEKS, demo};
use support::server::{Server, migrated};

async fn send(client: &reqwest::Client, url: &str) -> Value {
    let response = client
        .post(format!("{url}/v1/pairs:batch"))
        .header("content-type", "application/x-ndjson")
        .header("content-encoding", "gzip")
        .body(known_stream::gzip())
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
    assert_eq!(counts, known_stream::expected(window));
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
    let pairs = demo::pairs().unwrap();
    for window in [TEN_YEARS, TWO_WEEKS] {
        let reckoned: BTreeMap<String, i64> = demo::members(&pairs, |_| window)
            .into_iter()
            .map(|(segment, members)| (segment.to_owned(), i64::try_from(members).unwrap()))
            .collect();
        assert_eq!(reckoned, known_stream::expected(window));
    }
}
