//! What is under load: two replicas, each reached through a proxy, and each reaching PostgreSQL and Redis through one.

use std::path::PathBuf;
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::support::postgres;
use crate::support::proxy::Proxy;
use crate::support::redis::Node;
use crate::support::server::{self, Server, migrated};

pub const REPLICAS: usize = 2;
pub const SEGMENTS: usize = 5;
/// The segment whose members leave after a second, so that the archive has something to move.
pub const PASSING: &str = "passing";
/// How long a membership has ended before the archive touches it: the least that is allowed.
pub const SETTLE: Duration = Duration::from_secs(10);

/// How long a client waits for an answer, whatever is broken. The documented statuses come sooner.
const PATIENCE: Duration = Duration::from_secs(15);
/// It may do everything: erasures and jobs are open to nobody without one.
const TOKEN: &str = "of-the-tests";
/// What a replica logs when a refresh mends a counter: a drift that nobody would find any more.
const MENDED: &str = "differed from its memberships";

/// The name of a segment.
pub fn segment(index: usize) -> String {
    format!("s{index}")
}

/// One process of the API and the way to it, and those that were there before them.
struct Replica {
    server: Server,
    way: Proxy,
    client: Client,
    /// Counts what began and ended to be wrong with it, so that it is odd while no answer can come.
    life: watch::Sender<u64>,
}

impl Replica {
    /// Begins or ends to be away.
    fn turn(&self) {
        self.life.send_modify(|life| *life += 1);
    }
}

/// How a client reaches a replica just now.
pub struct Line {
    url: String,
    client: Client,
    pub life: watch::Receiver<u64>,
}

impl Line {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }
}

pub struct World {
    pub postgres: postgres::Server,
    /// Beside the proxy.
    pub database: String,
    pub to_postgres: Proxy,
    pub redis: Mutex<Node>,
    pub to_redis: Proxy,
    replicas: Vec<RwLock<Replica>>,
    flags: Vec<String>,
    through: String,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        // As installed: fsync and synchronous_commit on.
        let postgres = postgres::Server::start(&["synchronous_commit=on"]);
        let database = migrated(&postgres).await;
        let to_postgres = Proxy::in_front_of(&database);
        let redis = Node::start(&[]);
        let to_redis = Proxy::in_front_of(&redis.url());
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens.yaml");
        let hash = hex::encode(Sha256::digest(TOKEN));
        std::fs::write(&tokens, format!("- {{name: all, sha256: {hash}, scopes: [admin]}}\n")).unwrap();
        let flags = flags(&to_redis.url(&redis.url()), tokens);
        let through = to_postgres.url(&database);
        let replicas = (0..REPLICAS).map(|_| {
            let server = serve(&through, &flags);
            RwLock::new(Replica {
                way: Proxy::in_front_of(&server.url),
                server,
                client: client(),
                life: watch::Sender::new(0),
            })
        });
        Self {
            replicas: replicas.collect(),
            postgres,
            database,
            to_postgres,
            redis: Mutex::new(redis),
            to_redis,
            flags,
            through,
            _folder: folder,
        }
    }

    pub fn line(&self, replica: usize) -> Line {
        let replica = self.replicas[replica].read().unwrap();
        Line {
            url: replica.way.url(&replica.server.url),
            client: replica.client.clone(),
            life: replica.life.subscribe(),
        }
    }

    /// Kills a replica's process, and starts another in its place after a while.
    pub fn kill_replica(&self, replica: usize, away: Duration) {
        {
            let mut replica = self.replicas[replica].write().unwrap();
            replica.turn();
            replica.server.kill();
            nothing_mended(&replica.server);
        }
        std::thread::sleep(away);
        let server = serve(&self.through, &self.flags);
        let mut replica = self.replicas[replica].write().unwrap();
        replica.way = Proxy::in_front_of(&server.url);
        replica.server = server;
        replica.client = client();
        replica.turn();
    }

    /// Breaks the way from the clients to a replica, and heals it after a while. Clients then make new connections, as those would that gave up
    /// waiting on the old ones.
    pub fn break_way(&self, replica: usize, how: impl Fn(&Proxy), away: Duration) {
        {
            let replica = self.replicas[replica].read().unwrap();
            replica.turn();
            how(&replica.way);
        }
        std::thread::sleep(away);
        let mut replica = self.replicas[replica].write().unwrap();
        replica.way.heal();
        replica.client = client();
        replica.turn();
    }

    /// The program with one of its commands, as a CronJob runs it: by the replicas' way to the database and the cache.
    pub fn command(&self, name: &str) -> tokio::process::Command {
        let mut command = server::command(&self.through);
        command.arg(name).args(&self.flags);
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// A refresh mends what it finds, and what is mended is no drift any more: so none may ever have found any.
    pub fn nothing_was_mended(&self) {
        assert!(include_str!("../../src/service/maintenance.rs").contains(MENDED));
        for replica in &self.replicas {
            nothing_mended(&replica.read().unwrap().server);
        }
    }

    /// What the replicas logged, for a failure.
    pub fn logs(&self) -> String {
        let logs = self.replicas.iter().map(|replica| {
            let log = replica.read().unwrap().server.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(6)..].join("\n")
        });
        logs.collect::<Vec<_>>().join("\n---\n")
    }
}

fn nothing_mended(server: &Server) {
    let log = server.log();
    assert!(!log.contains(MENDED), "a refresh found a drift: {log}");
}

fn flags(redis: &str, tokens: PathBuf) -> Vec<String> {
    let tokens = tokens.into_os_string().into_string().unwrap();
    let settle = SETTLE.as_secs().to_string();
    // The archive is to have many batches; a second is the finest grain at which users leave.
    let flags = [
        ("--redis-url", redis),
        ("--tokens-file", &tokens),
        ("--resolution-seconds", "1"),
        ("--settle-seconds", &settle),
        ("--batch-size", "50"),
    ];
    flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
        .collect()
}

fn client() -> Client {
    let bearer = HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
    let client = Client::builder().timeout(PATIENCE).default_headers(headers);
    client.build().unwrap()
}

fn serve(database: &str, flags: &[String]) -> Server {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Server::start(database, &flags)
}
