//! Where it was measured.

use std::process::Command;

use super::Plan;

/// Ticks of a second in `/proc`: what `sysconf(_SC_CLK_TCK)` is on every Linux there is.
pub const TICKS: f64 = 100.0;

/// Machine and versions, in a sentence each.
pub fn describe(plan: &Plan) -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unnamed CPU", |(_, model)| model);
    let cores = processors();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let versions = [
        version(Command::new("rustc").arg("--version")),
        version(Command::new(crate::support::postgres::find("postgres")).arg("--version")),
        version(Command::new("redis-server").arg("--version")),
        version(Command::new("wrk").arg("-v")),
    ];
    format!(
        "{cores} cores ({model}), shared by the load, what is under load and the servers behind it; load average {} at the end.\n\
         {}.\n\
         Medians of {} runs of {} s (requests by wrk: {} of {} s; streams: {} pairs) taken in turns; ratios are medians of the rounds' own, with the least and the greatest.",
        load.join(" "),
        versions.join("; "),
        plan.rounds,
        plan.seconds,
        plan.turns,
        plan.turn_seconds,
        super::table::thousands(plan.pairs as f64),
    )
}

/// The processor time that anything here has used, in seconds, without what other guests took.
pub fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    // user, nice, system, irq, softirq; between them stand idle and iowait.
    [0, 1, 2, 5, 6].map(|index| ticks[index]).iter().sum::<f64>() / TICKS
}

/// How many processors there are.
pub fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |number| number.get() as f64)
}

fn version(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} did not run ({error}): tests/install.sh bench installs what is needed")
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    first
        .split(" Copyright")
        .next()
        .unwrap_or_default()
        .split(" sha=")
        .next()
        .unwrap_or_default()
        .to_owned()
}
