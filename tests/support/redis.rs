//! Real Redis servers for tests: private ones in temporary folders on free ports of 127.0.0.1, ended by their process id.
//!
//! [`url`] is a node that the tests of a process share: `REDIS_URL`, or a private one; [`Node::start`] makes one to be broken,
//! [`Cluster::start`] three that are a Redis Cluster. Nothing here skips: what is missing is a failure.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use redis::Value;

const INSTALL: &str =
    "the tests need Redis 6 or newer: `apt-get install redis-server` (or put redis-server on the PATH)";
/// Ends the server when the pipe to the test process closes, however that process ended.
const WATCHDOG: &str = "trap '' INT TERM HUP; read -r _; kill -KILL \"$1\" 2>/dev/null";

/// A port that nobody has at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

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
        for _ in 0..100 {
            node.port = free_port();
            // The nodes of a cluster talk on a second port, 10,000 above the first.
            if node.port > u16::MAX - 10_000 {
                continue;
            }
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

    /// Runs one command on it, and waits for it.
    pub fn ask<T: AsRef<str>>(&self, words: &[T]) -> Value {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0].as_ref());
        for word in &words[1..] {
            command.arg(word.as_ref());
        }
        command.query(&mut connection).unwrap()
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

/// Three nodes without replicas that are a Redis Cluster, each with a third of the slots.
pub struct Cluster {
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts it and waits until every node knows every other. It serves what it can while a node is away.
    pub fn start() -> Self {
        let settings = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            "1000",
            "--cluster-require-full-coverage",
            "no",
        ];
        let nodes: Vec<Node> = (0..3).map(|_| Node::start(&settings)).collect();
        for (index, node) in nodes.iter().enumerate() {
            let (first, last) = (index * 16_384 / 3, (index + 1) * 16_384 / 3);
            let slots = (first..last).map(|slot| slot.to_string());
            let words: Vec<String> = ["CLUSTER".to_owned(), "ADDSLOTS".to_owned()]
                .into_iter()
                .chain(slots)
                .collect();
            node.ask(&words);
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for node in &nodes[1..] {
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string()]);
        }
        let cluster = Self { nodes };
        cluster.settles();
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Waits until every node sees a whole cluster.
    pub fn settles(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let whole = |node: &Node| {
            let Value::BulkString(info) = node.ask(&["CLUSTER", "INFO"]) else {
                return false;
            };
            let info = String::from_utf8(info).unwrap();
            ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"]
                .iter()
                .all(|line| info.contains(line))
        };
        while !self.nodes.iter().all(whole) {
            assert!(Instant::now() < deadline, "the nodes do not become a cluster");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn slot_of(&self, key: &str) -> u16 {
        match self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]) {
            Value::Int(slot) => slot.try_into().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Begins to move a slot: from now on its new keys are made at `to`.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let id = |node: &Node| match node.ask(&["CLUSTER", "MYID"]) {
            Value::BulkString(id) => String::from_utf8(id).unwrap(),
            other => panic!("{other:?}"),
        };
        let (from, to, slot) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    }

    /// Moves the keys that the slot has now.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (from, port) = (&self.nodes[from], self.nodes[to].port.to_string());
        loop {
            let Value::Array(keys) = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]) else {
                panic!("no list of keys")
            };
            if keys.is_empty() {
                return;
            }
            let keys = keys.into_iter().map(|key| match key {
                Value::BulkString(key) => String::from_utf8(key).unwrap(),
                other => panic!("{other:?}"),
            });
            let words = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"].map(str::to_owned);
            from.ask(&words.into_iter().chain(keys).collect::<Vec<_>>());
        }
    }

    /// Ends the move: the slot is the other node's for good.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let Value::BulkString(id) = self.nodes[to].ask(&["CLUSTER", "MYID"]) else {
            panic!("no id")
        };
        let id = String::from_utf8(id).unwrap();
        for node in [to, from] {
            self.nodes[node].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
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
