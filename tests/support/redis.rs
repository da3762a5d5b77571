//! Real Redis servers for tests: private ones in temporary folders on free ports of 127.0.0.1, ended by their process id.
//!
//! [`url`] is a node that the tests of a process share: `REDIS_URL`, or a private one; [`Node::start`] makes one to be broken. Nothing
//! here skips: what is missing is a failure.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use redis::Value;

const INSTALL: &str =
    "the tests need Redis 6 or newer: `apt-get install redis-server` (or put redis-server on the PATH)";
/// Ends the server when the pipe to the test process closes, however that process ended.
const WATCHDOG: &str = "trap '' INT TERM HUP; read -r _; kill -KILL \"$1\" 2>/dev/null";

/// The URL of a node that the tests of this process share; they keep apart by the prefix of their keys.
pub fn url() -> String {
    static SHARED: OnceLock<Result<String, Node>> = OnceLock::new();
    match SHARED.get_or_init(|| std::env::var("REDIS_URL").map_err(|_| Node::start(&[]))) {
        Ok(url) => url.clone(),
        Err(node) => node.url(),
    }
}

/// A private node.
pub struct Node {
    port: u16,
    settings: Vec<String>,
    folder: tempfile::TempDir,
    process: Option<(Child, Child)>,
}

impl Node {
    /// Starts a node with these settings over the defaults (nothing is saved).
    pub fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut node = Self {
            port: 0,
            settings,
            folder,
            process: None,
        };
        for _ in 0..20 {
            node.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            // Another process may have taken the port in between.
            if node.launch() {
                return node;
            }
        }
        panic!(
            "redis-server does not start: {}",
            std::fs::read_to_string(node.folder.path().join("log")).unwrap()
        );
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As the cache names it.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}/0", self.port)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some((mut server, mut watchdog)) = self.process.take() {
            let _ = server.kill();
            let _ = server.wait();
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }

    /// Starts it again, empty, where it was.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "the port of a killed Redis is taken");
    }

    /// Stops it answering, its connections still open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Undoes [`Node::freeze`].
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let (server, _) = self.process.as_ref().expect("a running node");
        assert!(
            Command::new("kill")
                .arg(signal)
                .arg(server.id().to_string())
                .status()
                .unwrap()
                .success()
        );
    }

    fn launch(&mut self) -> bool {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut server = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server did not run ({error}): {INSTALL}"));
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", &server.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut up = false;
        while !up && Instant::now() < deadline && server.try_wait().unwrap().is_none() {
            up = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            std::thread::sleep(Duration::from_millis(10));
        }
        // Whoever answers on the port must be this very process.
        up &= server.try_wait().unwrap().is_none();
        self.process = Some((server, watchdog));
        if !up {
            self.kill();
        }
        up
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs one command on a node by URL.
pub async fn command(url: &str, words: &[&str]) -> Value {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}
