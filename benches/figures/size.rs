//! What the service holds in memory: idle, under ingest, and with more offered than it can take; and how large the binaries are without their
//! symbols.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::ledger::create_segments;
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs, SEGMENTS};
use crate::harness::table::thousands;
use crate::harness::wrk::Load;
use crate::harness::{Plan, Row, postgres};

const STREAMS: usize = 4;
const IDLE_CONNECTIONS: usize = 1_000;
/// Offered in a second, by arrays of the largest size.
const OFFERED: usize = 200_000;
const ARRAY: usize = 10_000;
/// What it may hold, in MiB.
const MOST: f64 = 96.0;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    create_segments(&database).await;
    let service = Program::service(&database, None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = service.mebibytes("VmRSS");

    let each = plan.pairs / STREAMS;
    let bodies: Vec<_> = (0..STREAMS)
        .map(|client| streams::gzip(&Pairs::unique(client, each).ndjson()))
        .collect();
    streams::send(&service.url, &bodies, Some("gzip"), "created", each).await;
    let after_streams = service.mebibytes("VmHWM");
    Load::pairs(64, "/v1/pairs").run(&service, plan.seconds);
    let most = service.mebibytes("VmHWM");
    drop(service);

    let service = Program::service(&database, None);
    let flood = flood(&service, plan.seconds * 2).await;
    let flooded = service.mebibytes("VmHWM");
    vec![
        Row::new("memory of the API, idle", format!("{idle:.1} MiB")),
        Row::new(
            &format!(
                "the same, the most under {} gzip streams of {} pairs each, then 64 connections of single pairs",
                STREAMS,
                thousands(each as f64)
            ),
            format!("{after_streams:.1} MiB, then {most:.1} MiB"),
        )
        .at_most(most, MOST, "MiB"),
        Row::new(
            &format!(
                "the same, {} pairs/s offered in arrays of {}, {} idle connections",
                thousands(OFFERED as f64),
                thousands(ARRAY as f64),
                thousands(IDLE_CONNECTIONS as f64)
            ),
            format!(
                "{flooded:.1} MiB ({} arrays taken, {} told to come again)",
                flood.taken, flood.refused
            ),
        )
        .at_most(flooded, MOST, "MiB"),
        Row::new("binary of the service, stripped", stripped(&program::binary())),
        Row::new("binary of the operator, stripped", stripped(&program::operator())),
    ]
}

struct Flood {
    taken: usize,
    refused: usize,
}

/// Offers [`OFFERED`] pairs a second for some seconds, whatever becomes of them. The queue was full exactly when some were refused.
async fn flood(service: &Program, seconds: u32) -> Flood {
    let address = service.url.trim_start_matches("http://");
    let mut idle = Vec::with_capacity(IDLE_CONNECTIONS);
    for _ in 0..IDLE_CONNECTIONS {
        idle.push(TcpStream::connect(address).await.expect("a connection"));
    }
    let client = reqwest::Client::new();
    let mut answers = JoinSet::new();
    let arrays = OFFERED / ARRAY;
    let begun = Instant::now();
    for number in 0..arrays * seconds as usize {
        let mut body = "[".to_owned();
        for n in 0..ARRAY {
            let comma = if n > 0 { "," } else { "" };
            let segment = n % SEGMENTS;
            write!(
                body,
                r#"{comma}{{"user_id":"offered-{number}-{n}","segment":"segment-{segment}"}}"#
            )
            .unwrap();
        }
        body.push(']');
        let request = client
            .post(format!("{}/v1/pairs:batch", service.url))
            .header("content-type", "application/json")
            .body(body);
        answers.spawn(async move { request.send().await.expect("an answer").status().as_u16() });
        let due = Duration::from_secs_f64((number + 1) as f64 / arrays as f64);
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
    }
    let statuses = answers.join_all().await;
    let of = |status: u16| statuses.iter().filter(|one| **one == status).count();
    let flood = Flood {
        taken: of(200),
        refused: of(503),
    };
    assert_eq!(flood.taken + flood.refused, statuses.len(), "{statuses:?}");
    assert!(flood.refused > 0, "the queue was never full: offer for longer");
    drop(idle);
    flood
}

fn stripped(binary: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stripped");
    let status = Command::new("strip")
        .arg("-o")
        .args([&file, binary])
        .status()
        .unwrap_or_else(|error| panic!("strip did not run ({error}): `apt-get install binutils`"));
    assert!(status.success(), "strip failed");
    format!(
        "{:.1} MiB",
        std::fs::metadata(&file).unwrap().len() as f64 / 1024.0 / 1024.0
    )
}
