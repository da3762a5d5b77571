//! A process that shares nothing with what is measured but the processors.

use std::fmt;
use std::os::unix::process::parent_id;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::process::{Child, Command};

/// How it computes.
#[derive(Debug, Clone, Copy, Args)]
pub struct Compute {
    /// Microseconds of computing between two pauses.
    #[arg(long)]
    computes: u32,
    /// Microseconds of a pause; 0: there are none.
    #[arg(long)]
    pauses: u32,
}

impl Compute {
    pub const STEADILY: Self = Self {
        computes: 3_000,
        pauses: 0,
    };
    /// About as a session that archives, which waits for its log and its client: its voluntary switches, by `/proc`, are one in 3 to 4 ms.
    pub const IN_TURNS: Self = Self {
        computes: 3_000,
        pauses: 500,
    };

    /// Starts this program as such a process, which ends with this one, or where it is dropped.
    pub fn start(self) -> Child {
        let program = std::env::current_exe().expect("this program's own path");
        let (computes, pauses) = (self.computes.to_string(), self.pauses.to_string());
        Command::new(program)
            .args(["compute", "--computes", &computes, "--pauses", &pauses])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("this program once more")
    }

    /// Computes for as long as who started it lives.
    pub fn run(self) {
        // By work, not by the clock: what it waits for a processor is no computing.
        let spins = spins_of_a_millisecond() * u64::from(self.computes) / 1_000;
        let parent = parent_id();
        while parent_id() == parent {
            spin(spins);
            if self.pauses > 0 {
                std::thread::sleep(Duration::from_micros(self.pauses.into()));
            }
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |micros: u32| f64::from(micros) / 1e3;
        if self.pauses == 0 {
            return f.write_str("computes without a pause");
        }
        write!(
            f,
            "computes {} ms and pauses {} ms in turns",
            millis(self.computes),
            millis(self.pauses)
        )
    }
}

/// By the fastest of several tries, which is the one that was disturbed least.
fn spins_of_a_millisecond() -> u64 {
    const SPINS: u64 = 1_000_000;
    let tries = (0..20).map(|_| {
        let begun = Instant::now();
        spin(SPINS);
        begun.elapsed()
    });
    let fastest = tries.min().unwrap_or_default().as_secs_f64();
    (SPINS as f64 / fastest / 1e3) as u64
}

fn spin(times: u64) {
    for time in 0..times {
        std::hint::black_box(time);
    }
}
