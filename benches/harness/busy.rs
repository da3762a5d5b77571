//! A process that shares nothing with what is measured but the processors.

use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::process::{Child, Command};

/// How it computes. With pauses it is what the system makes of every process that computes and waits in turns, such as a session of a database:
/// where a processor waits for it, and for how long, is then the system's doing.
#[derive(Debug, Clone, Copy, Args)]
pub struct Compute {
    /// Microseconds of processor time between two pauses.
    #[arg(long, default_value_t = 3_000)]
    computes: u64,
    /// Microseconds of a pause; 0 where there are none.
    #[arg(long, default_value_t = 0)]
    pauses: u64,
}

impl Compute {
    /// Without a pause.
    pub const STEADILY: Self = Self {
        computes: 3_000,
        pauses: 0,
    };
    /// About as a session that archives: its voluntary switches, by `/proc`, are one in 3 to 4 ms.
    pub const IN_TURNS: Self = Self {
        computes: 3_000,
        pauses: 500,
    };

    /// Starts this program as such a process; killed where it is dropped.
    pub fn start(self) -> Child {
        let program = std::env::current_exe().expect("this program's own path");
        let (computes, pauses) = (self.computes.to_string(), self.pauses.to_string());
        Command::new(program)
            .args(["compute", "--computes", &computes, "--pauses", &pauses])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("this program once more")
    }

    pub fn run(self) -> ! {
        // By work, not by the clock: what it waits for a processor is no computing.
        let spins = spins_of_a_millisecond() * self.computes / 1_000;
        loop {
            spin(spins);
            if self.pauses > 0 {
                std::thread::sleep(Duration::from_micros(self.pauses));
            }
        }
    }
}

/// The most of several tries, which is the one that was disturbed least.
fn spins_of_a_millisecond() -> u64 {
    const AT_ONCE: u64 = 100;
    let tries = (0..20).map(|_| {
        let begun = Instant::now();
        let mut spins = 0;
        while begun.elapsed() < Duration::from_millis(1) {
            spin(AT_ONCE);
            spins += AT_ONCE;
        }
        spins
    });
    tries.max().unwrap_or(AT_ONCE)
}

fn spin(times: u64) {
    for time in 0..times {
        std::hint::black_box(time);
    }
}
