//! Processors of their own: what a machine with few of them cannot tell apart is whether something is in the way, or only on the same processor.

use std::process::{Command, Stdio};

use super::ledger::ask;

/// Confines processes, with all their threads, to processors: `0`, `0,1`, as `taskset` has them.
pub fn pin(processors: &str, processes: &[u32]) {
    for process in processes {
        // One that ended meanwhile needs no place.
        let _ = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", processors, &process.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("taskset, of util-linux");
    }
}

/// The processes of the PostgreSQL behind a URL: those that stand, and the one that new ones come from.
pub async fn of_postgres(database_url: &str) -> Vec<u32> {
    let (pids, own): (Vec<i32>, i32) = ask(
        database_url,
        "SELECT array_agg(pid), pg_backend_pid() FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    )
    .await;
    let parents = pids.iter().chain([&own]).filter_map(|pid| parent(*pid));
    let mut all: Vec<u32> = parents
        .chain(pids.iter().filter_map(|pid| u32::try_from(*pid).ok()))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn parent(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
