//! The main job on real input, through the binary and a socket: a stream of pairs with known answers goes in as gzip NDJSON, twice, and
//! every count equals one that was made apart from our code (tests/data/expected.awk over the same file).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a client has no other clock than its own")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

const STREAM: &[u8] = include_bytes!("data/commits.ndjson.gz");
const TEN_YEARS: i64 = 315_360_000;
const TWO_WEEKS: i64 = 1_209_600;

/// The binary, serving on a port that the system chose; ended by its process id.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(database_url: &str, window: i64) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_segment-counter"))
            .args(["serve", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .args(["--window-seconds", &window.to_string()])
            .env("SEGMENT_COUNTER_DATABASE_URL", database_url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.strip_prefix("serving on ")?;
                Some(rest.split(',').next()?.to_owned())
            })
            .expect("the server says where it serves");
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stream as a client would send it now: each age turned into an instant.
fn ndjson() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut text = String::new();
    GzDecoder::new(STREAM).read_to_string(&mut text).unwrap();
    let mut body = GzEncoder::new(Vec::new(), Compression::fast());
    for line in text.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        let at = i64::try_from(now).unwrap() - pair["age_seconds"].as_i64().unwrap();
        let at = jiff::Timestamp::from_second(at).unwrap();
        writeln!(
            body,
            "{}",
            serde_json::json!({"user_id": pair["user_id"], "segment": pair["segment"], "observed_at": at.to_string()})
        )
        .unwrap();
    }
    body.finish().unwrap()
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
    let server = Server::start(database_url, window);
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
        let url = support::postgres::server().database().await;
        let migrated = Command::new(env!("CARGO_BIN_EXE_segment-counter"))
            .arg("migrate")
            .env("SEGMENT_COUNTER_DATABASE_URL", &url)
            .status()
            .unwrap();
        assert!(migrated.success());
        the_stream_gives_the_known_answers(&url, window, memberships, populated).await;
    }
}
