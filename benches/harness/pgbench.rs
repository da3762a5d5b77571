//! The statement that records a batch, sent by `pgbench`: what the database alone can do.

use std::path::Path;
use std::process::{Command, Stdio};

use sqlx::postgres::PgConnectOptions;

use crate::support::postgres::find;

/// Runs `script` once in each of `clients` sessions at once, with these session settings; gives the seconds that it took, connecting not
/// counted.
pub fn seconds(database_url: &str, session: &str, clients: usize, script: &Path) -> f64 {
    let options: PgConnectOptions = database_url.parse().expect("the URL of our own database");
    let (_, rest) = database_url.split_once("://").expect("a URL");
    let password = rest
        .split_once('@')
        .and_then(|(login, _)| login.split_once(':'))
        .expect("a password")
        .1;
    let output = Command::new(find("pgbench"))
        .args(["--no-vacuum", "--jobs=1", "--transactions=1"])
        .args([format!("--client={clients}"), format!("--file={}", script.display())])
        .args(["--host", options.get_host(), "--port", &options.get_port().to_string()])
        .args([
            "--username",
            options.get_username(),
            options.get_database().expect("a database"),
        ])
        .env("PGPASSWORD", password)
        .env("PGOPTIONS", session)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("pgbench did not run: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "pgbench failed: {text}");
    let per_second = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("tps = ")?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        })
        .unwrap_or_else(|| panic!("pgbench said no tps: {text}"));
    clients as f64 / per_second
}
