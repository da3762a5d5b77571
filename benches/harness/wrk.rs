//! Requests from connections that are kept open, by `wrk`: light enough to leave the processors to what is measured, and the same on both
//! sides of every ratio. It is a closed loop: each connection asks again as soon as it was answered.

use std::process::{Command, Stdio};

use serde::Deserialize;

use super::program::Program;
use super::{Plan, machine, median};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/harness/load.lua");

/// What is asked.
#[derive(Debug, Clone)]
pub struct Load {
    pub connections: u32,
    pub path: String,
    /// POST one pair each time, never the same one, where this is set.
    pub unique_pairs: bool,
    /// The `{n}` of the path goes from 1 to this, again and again.
    pub numbers: u32,
}

/// What one run brought.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub per_second: f64,
    pub p99_micros: f64,
    /// Processor time of the program under load for a request.
    pub cpu_micros: f64,
    /// The same of the whole machine: the load, the program and what it asks.
    pub machine_micros: f64,
}

#[derive(Deserialize)]
struct Summary {
    requests: f64,
    micros: f64,
    p99_micros: f64,
    errors: u64,
}

impl Load {
    pub fn get(connections: u32, path: &str) -> Self {
        Self::numbered(connections, path, 1)
    }

    /// One path after another.
    pub fn numbered(connections: u32, path: &str, numbers: u32) -> Self {
        Self {
            connections,
            path: path.to_owned(),
            unique_pairs: false,
            numbers,
        }
    }

    pub fn pairs(connections: u32, path: &str) -> Self {
        Self {
            connections,
            path: path.to_owned(),
            unique_pairs: true,
            numbers: 1,
        }
    }

    /// Puts `program` under it for some seconds.
    pub fn run(&self, program: &Program, seconds: u32) -> Run {
        let (before, all_before) = (program.cpu_seconds(), machine::busy_seconds());
        let mut command = Command::new("wrk");
        command
            .args(["--threads", "1", "--timeout", "30", "--script", SCRIPT])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &seconds.to_string()])
            .arg(&program.url)
            .arg("--")
            .args([&self.path, &self.numbers.to_string()]);
        if self.unique_pairs {
            // No two runs send the same pair.
            command.arg(format!("{:08x}", rand::random::<u32>()));
        }
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .unwrap_or_else(|error| panic!("wrk did not run ({error}): `apt-get install wrk`"));
        let text = String::from_utf8_lossy(&output.stdout);
        let summary: Summary = text
            .lines()
            .find_map(|line| serde_json::from_str(line.strip_prefix("summary ")?).ok())
            .unwrap_or_else(|| panic!("wrk said no summary: {text}"));
        assert!(
            summary.errors == 0 && summary.requests > 0.0,
            "{} of {} requests to {} failed",
            summary.errors,
            summary.requests,
            self.path
        );
        Run {
            per_second: summary.requests / summary.micros * 1e6,
            p99_micros: summary.p99_micros,
            cpu_micros: (program.cpu_seconds() - before) / summary.requests * 1e6,
            machine_micros: (machine::busy_seconds() - all_before) / summary.requests * 1e6,
        }
    }
}

/// Runs of several sides, in turns: `[side][turn]`.
pub fn in_turns(plan: &Plan, sides: &[(&Load, &Program)]) -> Vec<Vec<Run>> {
    warm_up(sides);
    let mut runs = vec![Vec::with_capacity(plan.turns); sides.len()];
    for number in 0..plan.turns {
        turn(plan, number, sides, &mut runs);
    }
    runs
}

/// Runs that are not counted.
pub fn warm_up(sides: &[(&Load, &Program)]) {
    for (load, program) in sides {
        load.run(program, 1);
    }
}

/// One more run of each side. Every other turn goes backwards, so that no side always comes after the same one.
pub fn turn(plan: &Plan, number: usize, sides: &[(&Load, &Program)], runs: &mut [Vec<Run>]) {
    let mut order: Vec<usize> = (0..sides.len()).collect();
    if number % 2 == 1 {
        order.reverse();
    }
    for side in order {
        let (load, program) = sides[side];
        let run = load.run(program, plan.turn_seconds);
        eprintln!("  {:<40} {run:.1?}", load.path);
        runs[side].push(run);
    }
}

/// One thing of every run.
pub fn each(runs: &[Run], what: impl Fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(what).collect()
}

/// The median of one thing.
pub fn middle(runs: &[Run], what: impl Fn(&Run) -> f64) -> f64 {
    median(runs.iter().map(what))
}
