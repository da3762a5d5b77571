//! The service's own binary, serving on ports that the system chose; ended by its process id.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::watchdog::Watchdog;

/// A running `segment-counter serve`.
pub struct Server {
    child: Child,
    _watchdog: Watchdog,
    folder: tempfile::TempDir,
    /// `http://127.0.0.1:PORT` of the API.
    pub url: String,
    /// The same of health and metrics.
    pub health: String,
}

impl Server {
    /// Serves from `database_url` with these flags beside the addresses.
    pub fn start(database_url: &str, flags: &[&str]) -> Self {
        Self::start_with(database_url, flags, &[])
    }

    /// The same with variables of the environment.
    pub fn start_with(database_url: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).unwrap();
        let mut child = command(database_url)
            .args(["serve", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .args(flags)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let watchdog = Watchdog::of(child.id());
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let addresses = lines.find_map(|line| {
            let (api, health) = line
                .strip_prefix("serving on ")?
                .split_once(", health and metrics on ")?;
            Some((api.to_owned(), health.to_owned()))
        });
        // Whatever else it says is read, or it would one day wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let Some((url, health)) = addresses else {
            let _ = child.kill();
            let _ = child.wait();
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            panic!("the server ended without saying where it serves: {log}");
        };
        Self {
            child,
            _watchdog: watchdog,
            folder,
            url,
            health,
        }
    }

    /// Host and port of the API, for what speaks over a socket of its own.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The most memory that it ever held at once, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Asks it to end, as Kubernetes does.
    pub fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself; a failure where that takes longer than `patience`.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < until,
                "it has not ended within {patience:?}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The binary, told where its ledger is; nothing of this process' own environment reaches its configuration.
pub fn command(database_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segment-counter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SEGMENT_COUNTER_") {
            command.env_remove(name);
        }
    }
    command.env("SEGMENT_COUNTER_DATABASE_URL", database_url);
    command
}

/// A new PostgreSQL database whose schema stands, brought up by the binary itself.
pub async fn migrated(server: &super::postgres::Server) -> String {
    let url = server.database().await;
    let output = command(&url).arg("migrate").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    url
}
