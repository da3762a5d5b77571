//! What the two hottest paths cost in instructions and allocations of the program itself (the kernel's are not seen): a pair of a stream, from the
//! socket to the statement, and a hot count, beside a constant. Each is the difference of two runs, the second with four times as much, so that
//! starting and ending cancel out and what else happens is spread over many. By valgrind, which counts exactly and slowly: the same on a busy
//! machine as on a quiet one.

use std::process::{Command, Stdio};

use crate::harness::ledger::{create_segments, empty};
use crate::harness::program::{self, Program};
use crate::harness::streams::{self, Pairs};
use crate::harness::{Plan, Row, postgres};
use crate::reference;

const PAIRS: usize = 20_000;
const COUNTS: usize = 2_000;
/// How much each run has of that.
const TIMES: [usize; 2] = [1, 4];
const PATH: &str = "/v1/segments/segment-7/count";

/// Callgrind counts instructions, memcheck what is asked of the allocator; and after what they say it.
const TOOLS: [(&str, &str); 2] = [("callgrind", "Collected : "), ("memcheck", "total heap usage: ")];

pub async fn measure(_: &Plan) -> Vec<Row> {
    let server = postgres();
    let database = server.database().await;
    program::run("migrate", &database);
    create_segments(&database).await;
    let (mut pair, mut count, mut constant) = (vec![], vec![], vec![]);
    for (tool, said_before) in TOOLS {
        // Pair, count and constant, in each run.
        let mut counted = [[0.0; 3]; 2];
        for (times, counted) in TIMES.into_iter().zip(&mut counted) {
            let (pairs, counts) = (PAIRS * times, COUNTS * times);
            let tool = Tool::new(tool, said_before);
            empty(&database).await;
            let service = tool.service(&database);
            let body = Pairs::unique(0, pairs).ndjson();
            streams::send(&service.url, &[body], None, "created", pairs).await;
            counted[0] = tool.end(service);

            let service = tool.service(&database);
            let answer = ask(&format!("{}{PATH}", service.url), counts).await;
            counted[1] = tool.end(service);

            let constant = tool.reference(&answer);
            ask(&format!("{}/constant", constant.url), counts).await;
            counted[2] = tool.end(constant);
        }
        let [few, many] = counted;
        for (index, (side, each)) in [(&mut pair, PAIRS), (&mut count, COUNTS), (&mut constant, COUNTS)]
            .into_iter()
            .enumerate()
        {
            side.push((many[index] - few[index]) / (each * (TIMES[1] - TIMES[0])) as f64);
        }
    }
    let say = |side: &[f64]| format!("{:.0} instructions, {:.1} allocations", side[0], side[1]);
    vec![
        Row::new("a pair of a stream, from the socket to the statement", say(&pair)),
        Row::new("a hot count, cached in memory: in the program itself", say(&count))
            .beside("axum, a constant of the same size", say(&constant)),
    ]
}

/// One request after another on one connection; gives the last answer.
async fn ask(url: &str, times: usize) -> String {
    let client = reqwest::Client::new();
    let mut answer = String::new();
    for _ in 0..times {
        let response = client.get(url).send().await.expect("an answer");
        assert!(response.status().is_success(), "{response:?}");
        answer = response.text().await.expect("a body");
    }
    answer
}

/// A tool of valgrind, and where it writes what it counted.
struct Tool {
    arguments: Vec<String>,
    said_before: &'static str,
    folder: tempfile::TempDir,
}

impl Tool {
    fn new(name: &str, said_before: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let mut arguments = vec![format!("--tool={name}"), format!("--log-file={}", file("log"))];
        arguments.push(match name {
            "callgrind" => format!("--callgrind-out-file={}", file("out")),
            _ => "--leak-check=no".to_owned(),
        });
        Self {
            arguments,
            said_before,
            folder,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("valgrind");
        command.args(&self.arguments).stderr(Stdio::null());
        command
    }

    /// The service. A count stays hot for as long as it runs; and it logs in to the database once, since a login costs as much as thousands of pairs.
    fn service(&self, database: &str) -> Program {
        let mut command = self.command();
        let serve = program::serve(command.arg(program::binary()), database);
        serve
            .env("SEGMENT_COUNTER_MAX_STALENESS_MS", "60000")
            .env("SEGMENT_COUNTER_DATABASE_MAX_CONNECTIONS", "1");
        Program::start(serve)
    }

    fn reference(&self, answer: &str) -> Program {
        let program = std::env::current_exe().expect("this program's own path");
        let mut command = self.command();
        Program::start(command.arg(program).arg("reference").env(reference::COUNT, answer))
    }

    /// Ends it, and reads what was counted.
    fn end(&self, program: Program) -> f64 {
        program.end();
        let said = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        said.lines()
            .find_map(|line| {
                let number = line.split_once(self.said_before)?.1.split_whitespace().next()?;
                number.replace(',', "").parse().ok()
            })
            .unwrap_or_else(|| panic!("valgrind said no {}: {said}", self.said_before))
    }
}
