//! Sends a real stream of pairs to a running service, and shows what it then counts.
//!
//! `cargo run --release --example demo -- --url http://127.0.0.1:8080`
//!
//! Ends with 0 when all of it was taken and every count is the one reckoned here from the stream itself; with 1 when the service did not take
//! it or counts otherwise (as it may where it held other pairs of these segments before); with 2 when called wrongly.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people to watch")]

#[allow(unreachable_pub, reason = "the tests read the stream too")]
mod stream;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use reqwest::StatusCode;
use serde::Deserialize;

/// How often the stream is sent again while the service is away or busy: sending it again changes nothing but what is missing.
const TRIES: u32 = 30;
/// How many segments are shown.
const SHOWN: usize = 10;

#[derive(Parser)]
#[command(about = "Send a real stream of 84,981 pairs to a running service and show the largest segments")]
struct Flags {
    /// Where the service is.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A file with a token that may send pairs and read counts, where the service wants one.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

/// What a batch did, as far as it is shown.
#[derive(Deserialize)]
struct Totals {
    received: u64,
    created: u64,
    renewed: u64,
    unchanged: u64,
    ignored: u64,
    refused: u64,
    invalid: u64,
}

#[derive(Deserialize)]
struct Page {
    segments: Vec<Segment>,
    next_after: Option<String>,
}

#[derive(Deserialize)]
struct Segment {
    segment: String,
    count: usize,
    window_seconds: i64,
}

struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Flags::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<bool, Box<dyn Error>> {
    let token = flags.token_file.map(std::fs::read_to_string).transpose()?;
    let client = Client {
        http: reqwest::Client::new(),
        url: flags.url.trim_end_matches('/').to_owned(),
        token: token.map(|token| token.trim().to_owned()),
    };
    let pairs = stream::pairs()?;
    #[allow(clippy::disallowed_methods, reason = "a client has no other clock than its own")]
    let now = jiff::Timestamp::now().as_second();
    let body = stream::ndjson(&pairs, now)?;
    println!("sending {} pairs to {} …", grouped(pairs.len()), client.url);
    let began = Instant::now();
    let totals = client.send(&body).await?;
    println!(
        "{} received in {:.1} s: {} created, {} renewed, {} unchanged, {} ignored (too old), {} refused, {} invalid\n",
        totals.received,
        began.elapsed().as_secs_f64(),
        totals.created,
        totals.renewed,
        totals.unchanged,
        totals.ignored,
        totals.refused,
        totals.invalid,
    );
    let segments = client.segments().await?;
    Ok(show(&pairs, &segments) && totals.refused + totals.invalid == 0)
}

/// Prints the largest segments and the totals; whether every count is the stream's.
fn show(pairs: &[stream::Seen], segments: &[Segment]) -> bool {
    let windows: BTreeMap<&str, i64> = segments
        .iter()
        .map(|one| (one.segment.as_str(), one.window_seconds))
        .collect();
    let expected = stream::members(pairs, |segment| windows.get(segment).copied().unwrap_or(0));
    let mut ours: Vec<&Segment> = segments
        .iter()
        .filter(|one| expected.contains_key(one.segment.as_str()))
        .collect();
    ours.sort_by_key(|one| (std::cmp::Reverse(one.count), &one.segment));
    for one in ours.iter().take(SHOWN) {
        println!("{:>7}  {}", one.count, one.segment);
    }
    println!("    …\n");
    println!(
        "{} memberships in {} segments",
        grouped(ours.iter().map(|one| one.count).sum()),
        ours.len()
    );
    let counted: BTreeMap<&str, usize> = ours.iter().map(|one| (one.segment.as_str(), one.count)).collect();
    let mut equal = true;
    for (segment, members) in &expected {
        let count = counted.get(segment).copied();
        if count != Some(*members) {
            equal = false;
            println!("{segment}: {members} by the stream, {count:?} by the service");
        }
    }
    if equal {
        println!("every count is the one reckoned from the stream apart from the service");
    }
    equal
}

impl Client {
    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends the stream, again where the service could not take all of it now.
    async fn send(&self, body: &[u8]) -> Result<Totals, Box<dyn Error>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let sent = self
                .request(reqwest::Method::POST, "/v1/pairs:batch")
                .header("content-type", "application/x-ndjson")
                .header("content-encoding", "gzip")
                .body(body.to_vec())
                .send()
                .await;
            let why = match sent {
                Ok(response) if response.status() == StatusCode::OK => return Ok(response.json().await?),
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => response.text().await?,
                Ok(response) => return Err(format!("{}: {}", response.status(), response.text().await?).into()),
                Err(error) if error.is_connect() => "nobody answers there".to_owned(),
                Err(error) => format!("the connection broke: {error}"),
            };
            if tries == TRIES {
                return Err(format!("not taken after {TRIES} tries: {why}").into());
            }
            eprintln!("demo: not taken yet, trying again: {why}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Every segment, page by page.
    async fn segments(&self) -> Result<Vec<Segment>, Box<dyn Error>> {
        let mut all = Vec::new();
        let mut path = "/v1/segments?limit=1000".to_owned();
        loop {
            let request = self.request(reqwest::Method::GET, &path);
            let response = request.send().await?.error_for_status()?;
            let page: Page = response.json().await?;
            all.extend(page.segments);
            let Some(after) = page.next_after else {
                return Ok(all);
            };
            let after = percent_encoding::utf8_percent_encode(&after, percent_encoding::NON_ALPHANUMERIC);
            path = format!("/v1/segments?limit=1000&after={after}");
        }
    }
}

/// `84,981`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
