//! The programs under load, each a process of its own: the service as it is released, and what stands beside it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::machine;

/// A program that serves, on a port that the system chose; ended by its process id.
pub struct Program {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    pub url: String,
}

/// The service's binary: the one that cargo built for this bench, or the one that `SEGMENT_COUNTER_BENCH_BINARY` names.
pub fn binary() -> PathBuf {
    std::env::var_os("SEGMENT_COUNTER_BENCH_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_segment-counter").into(), PathBuf::from)
}

/// The operator's binary: the one beside it, or the one that cargo built for this bench.
pub fn operator() -> PathBuf {
    let beside = binary().with_file_name("segment-counter-operator");
    if beside.exists() {
        beside
    } else {
        env!("CARGO_BIN_EXE_segment-counter-operator").into()
    }
}

/// A command of the service on a database.
pub fn command(name: &str, database_url: &str) -> Command {
    let mut command = Command::new(binary());
    on(command.arg(name), database_url);
    command
}

/// Adds what makes the service's binary serve, all settings as they come, to a command that ends in it.
pub fn serve<'a>(command: &'a mut Command, database_url: &str) -> &'a mut Command {
    on(command.arg("serve").args(FREE_PORTS), database_url)
}

fn on<'a>(command: &'a mut Command, database_url: &str) -> &'a mut Command {
    command
        .env("SEGMENT_COUNTER_DATABASE_URL", database_url)
        .env("SEGMENT_COUNTER_LOG", "error")
}

const FREE_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"];

/// Runs a command of the service to its end and gives what it said.
pub fn run(name: &str, database_url: &str) -> String {
    let output = command(name, database_url)
        .stderr(Stdio::inherit())
        .output()
        .expect("the service's binary");
    assert!(output.status.success(), "`segment-counter {name}` failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Program {
    /// `segment-counter serve`, all settings as they come, on a migrated database.
    pub fn service(database_url: &str, redis_url: Option<&str>) -> Self {
        let mut command = Command::new(binary());
        let serve = serve(&mut command, database_url);
        if let Some(url) = redis_url {
            serve.args(["--redis-url", url]);
        }
        Self::start(serve)
    }

    /// What stands beside it; see [`crate::reference`].
    pub fn reference(environment: &[(&str, &str)]) -> Self {
        let program = std::env::current_exe().expect("this program's own path");
        Self::start(Command::new(program).arg("reference").envs(environment.iter().copied()))
    }

    /// Starts a program that says where it serves.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let url = loop {
            let mut line = String::new();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "{command:?} ended before it served"
            );
            if let Some(rest) = line.strip_prefix("serving on ") {
                break rest.split(',').next().unwrap_or_default().trim().to_owned();
            }
        };
        Self {
            child,
            _stdout: stdout,
            url,
        }
    }

    /// Asks it to end, and waits until it did.
    pub fn end(mut self) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().expect("kill");
        assert!(status.success(), "{id} could not be asked to end");
        self.child.wait().expect("its end");
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that it has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its /proc/PID/stat");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number of ticks");
        // utime and stime: fields 14 and 15 of the whole line, 11 and 12 after the name.
        (ticks(11) + ticks(12)) / machine::TICKS
    }

    /// A line of its /proc/PID/status, in MiB: `VmRSS`, `VmHWM`.
    pub fn mebibytes(&self, line: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its /proc/PID/status");
        let kib = status.lines().find_map(|text| {
            text.strip_prefix(line)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        });
        kib.unwrap_or_else(|| panic!("no {line}")) / 1024.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
