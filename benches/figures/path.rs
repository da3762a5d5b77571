//! What a pair of a stream costs the service in instructions and allocations, from the socket to the statement: the difference of two runs, the
//! second with twice the pairs, so that starting and ending cancel out. By valgrind, which counts exactly and slowly; no processor's counters are
//! needed.

use std::process::Stdio;

use crate::harness::ledger::{create_segments, empty};
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs};
use crate::harness::{Plan, Row, postgres};

const PAIRS: usize = 5_000;

pub async fn measure(_: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    create_segments(&database).await;
    let mut per_pair = Vec::new();
    // Callgrind counts every instruction; memcheck counts what is asked of the allocator.
    for (tool, said_before) in [("callgrind", "Collected : "), ("memcheck", "total heap usage: ")] {
        let mut counts = [0.0; 2];
        for (run, count) in counts.iter_mut().enumerate() {
            empty(&database).await;
            let said = serve_under(tool, &database, PAIRS * (run + 1)).await;
            *count = said
                .lines()
                .find_map(|line| {
                    let number = line.split_once(said_before)?.1.split_whitespace().next()?;
                    number.replace(',', "").parse::<f64>().ok()
                })
                .unwrap_or_else(|| panic!("valgrind said no {said_before}: {said}"));
        }
        per_pair.push((counts[1] - counts[0]) / PAIRS as f64);
    }
    vec![Row::new(
        "a pair of a stream, from the socket to the statement",
        format!("{:.0} instructions, {:.2} allocations", per_pair[0], per_pair[1]),
    )]
}

/// Sends so many pairs to a service under a tool; gives what the tool said at its end.
async fn serve_under(tool: &str, database: &str, pairs: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = program::under(
        &[
            "valgrind",
            &format!("--tool={tool}"),
            &format!("--log-file={}", log.display()),
            &match tool {
                "callgrind" => format!("--callgrind-out-file={}", folder.path().join("out").display()),
                _ => "--leak-check=no".to_owned(),
            },
        ],
        database,
    );
    let service = Program::start(command.stderr(Stdio::null()));
    let body = Pairs::unique(0, pairs).ndjson();
    streams::send(&service.url, &[body], None, "created", pairs).await;
    service.end();
    std::fs::read_to_string(log).unwrap()
}
