//! What the service holds in memory, idle and under ingest, and how large the binaries are without their symbols.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::wrk::Load;
use crate::harness::{Plan, Row, postgres, streams};

const STREAMS: usize = 4;

pub async fn measure(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    streams::create_segments(&database).await;
    let service = Program::service(&database, None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = service.mebibytes("VmRSS");

    let each = plan.pairs / STREAMS;
    let bodies: Vec<_> = (0..STREAMS)
        .map(|client| streams::gzip(&streams::ndjson(client, each)))
        .collect();
    streams::send(&service.url, &bodies, Some("gzip"), each).await;
    let after_streams = service.mebibytes("VmHWM");
    Load::pairs(64, "/v1/pairs").run(&service, plan.seconds);
    let most = service.mebibytes("VmHWM");
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
        .at_most(most, 96.0, "MiB"),
        Row::new("binary of the service, stripped", stripped(&program::binary())),
        Row::new("binary of the operator, stripped", stripped(&program::operator())),
    ]
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
