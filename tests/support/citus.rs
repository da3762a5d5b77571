//! A cluster of PostgreSQL with Citus that stands already: `CITUS_URL` leads to its coordinator, as a role that may do everything
//! (`tests/citus.sh` starts one). Where there is none, what needs it is left out and says so: no Debian package has the extension.
#![allow(clippy::print_stderr)]

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

/// A database of a test, on every node.
pub struct Database {
    pub url: String,
    name: String,
    /// Connections to the maintenance databases of coordinator and workers.
    nodes: Vec<PgConnectOptions>,
    /// Where lanes may be.
    pub workers: Vec<(String, u16)>,
}

/// Whether there is a cluster. `what` is left out otherwise.
pub fn is_given(what: &str) -> bool {
    let given = std::env::var_os("CITUS_URL").is_some();
    if !given {
        eprintln!("LEFT OUT: {what} needs a Citus cluster, and CITUS_URL is not set (tests/citus.sh starts one)");
    }
    given
}

impl Database {
    /// A new one, whose nodes know each other.
    pub async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let url = std::env::var("CITUS_URL").expect("CITUS_URL");
        let coordinator = PgConnectOptions::from_str(&url).unwrap().disable_statement_logging();
        let mut session = PgConnection::connect_with(&coordinator).await.unwrap();
        let workers: Vec<(String, i32)> = sqlx::query_as(
            "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid <> 0 AND shouldhaveshards ORDER BY nodeport",
        )
        .fetch_all(&mut session)
        .await
        .unwrap();
        let itself: (String, i32) = sqlx::query_as("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid = 0")
            .fetch_one(&mut session)
            .await
            .unwrap();
        let workers: Vec<(String, u16)> = workers
            .into_iter()
            .map(|(host, port)| (host, u16::try_from(port).unwrap()))
            .collect();
        let mut nodes = vec![coordinator.clone()];
        nodes.extend(
            workers
                .iter()
                .map(|(host, port)| coordinator.clone().host(host).port(*port)),
        );
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        for node in &nodes {
            run(node, &format!("CREATE DATABASE {name}")).await;
            run(&node.clone().database(&name), "CREATE EXTENSION citus").await;
        }
        let here = coordinator.database(&name);
        run(
            &here,
            &format!("SELECT citus_set_coordinator_host('{}', {})", itself.0, itself.1),
        )
        .await;
        for (host, port) in &workers {
            // Citus looks at a new database by processes of its own, one of which may be in the way for a moment: it is asked again.
            run(&here, &format!("SELECT citus_add_node('{host}', {port})")).await;
        }
        let (before, _) = url.rsplit_once('/').expect("a URL with a database");
        Self {
            url: format!("{before}/{name}"),
            name,
            nodes,
            workers,
        }
    }

    /// Takes it away: each one costs every node a process. A test that fails leaves it to be looked at.
    pub async fn drop(self) {
        for node in &self.nodes {
            run(node, &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
        }
    }
}

/// Runs a statement; a few times where it fails.
async fn run(node: &PgConnectOptions, sql: &str) {
    for tried in 0.. {
        let mut session = PgConnection::connect_with(node).await.expect("a node of CITUS_URL");
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut session).await;
        session.close().await.unwrap();
        match done {
            Err(_) if tried < 5 => tokio::time::sleep(Duration::from_millis(500)).await,
            done => {
                done.expect(sql);
                return;
            }
        }
    }
}
