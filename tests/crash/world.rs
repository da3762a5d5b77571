//! What is under load: two replicas, each reaching PostgreSQL and Redis through a proxy.

use std::sync::{Mutex, RwLock};
use std::time::Duration;

use crate::support::postgres;
use crate::support::proxy::Proxy;
use crate::support::redis::Node;
use crate::support::server::{Server, migrated};

pub const REPLICAS: usize = 2;
pub const SEGMENTS: usize = 5;

/// The name of a segment.
pub fn segment(index: usize) -> String {
    format!("s{index}")
}

/// One process of the API, and those that were there before it.
pub struct Replica {
    pub server: Server,
    /// Counts deaths and births, so that it is odd while no process is there.
    pub life: u64,
}

pub struct World {
    pub postgres: postgres::Server,
    /// Beside the proxy.
    pub database: String,
    pub to_postgres: Proxy,
    pub redis: Mutex<Node>,
    pub to_redis: Proxy,
    pub replicas: Vec<RwLock<Replica>>,
    flags: Vec<String>,
    through: String,
}

impl World {
    pub async fn start() -> Self {
        // As installed: fsync and synchronous_commit on.
        let postgres = postgres::Server::start(&["synchronous_commit=on"]);
        let database = migrated(&postgres).await;
        let to_postgres = Proxy::in_front_of(&database);
        let redis = Node::start(&[]);
        let to_redis = Proxy::in_front_of(&redis.url());
        let flags = vec!["--redis-url".to_owned(), to_redis.url(&redis.url())];
        let through = to_postgres.url(&database);
        let replicas = (0..REPLICAS)
            .map(|_| {
                RwLock::new(Replica {
                    server: serve(&through, &flags),
                    life: 0,
                })
            })
            .collect();
        Self {
            postgres,
            database,
            to_postgres,
            redis: Mutex::new(redis),
            to_redis,
            replicas,
            flags,
            through,
        }
    }

    /// Where a replica answers, and which of its lives it is in.
    pub fn address(&self, replica: usize) -> (String, u64) {
        let replica = self.replicas[replica].read().unwrap();
        (replica.server.url.clone(), replica.life)
    }

    /// Kills a replica's process, and starts another in its place after a while.
    pub fn kill_replica(&self, replica: usize, away: Duration) {
        {
            let mut replica = self.replicas[replica].write().unwrap();
            replica.life += 1;
            replica.server.kill();
        }
        std::thread::sleep(away);
        let server = serve(&self.through, &self.flags);
        let mut replica = self.replicas[replica].write().unwrap();
        replica.server = server;
        replica.life += 1;
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

fn serve(database: &str, flags: &[String]) -> Server {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Server::start(database, &flags)
}
