//! The list of the cache's nodes in a file that changes while the service serves.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::redis::Node;
use support::server::Server;
use tokio::time::{Instant, sleep};

fn write(path: &Path, text: &str) {
    // As editors and Kubernetes do: at once.
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn list(nodes: &[&Node]) -> String {
    nodes.iter().map(|node| node.url() + "\n").collect()
}

/// The nodes that readiness names, once they are these.
async fn names(server: &Server, wanted: &[&Node]) {
    let mut wanted: Vec<String> = wanted.iter().map(|node| format!("redis {}", node.name())).collect();
    wanted.sort();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let ready = reqwest::get(format!("{}/readyz", server.health)).await.unwrap();
        let ready: Value = ready.json().await.unwrap();
        let all = ready["dependencies"].as_array().unwrap();
        let names = all.iter().map(|one| one["name"].as_str().unwrap());
        let names: Vec<&str> = names.filter(|name| name.starts_with("redis")).collect();
        if names == wanted {
            assert_eq!(ready["state"], "ok", "{ready}");
            return;
        }
        assert!(Instant::now() < until, "{names:?} are not {wanted:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_by_the_file_and_no_request_fails() {
    let nodes = [Node::start(&[]), Node::start(&[]), Node::start(&[])];
    let [a, b, c] = &nodes;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nodes");
    write(&path, &list(&[a, b]));
    let server = Server::start("sqlite::memory:", &["--redis-nodes-file", path.to_str().unwrap()]);
    names(&server, &[a, b]).await;

    let (ended, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (url, ended, acknowledged) = (server.url.clone(), Arc::clone(&ended), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let http = reqwest::Client::new();
                let (mut user, mut past) = (0, Vec::new());
                while !ended.load(Ordering::SeqCst) {
                    if client == 0 {
                        user += 1;
                        let pair = json!({"user_id": user.to_string(), "segment": "s"});
                        let sent = http.post(format!("{url}/v1/pairs")).json(&pair).send().await.unwrap();
                        assert_eq!(sent.status(), 200);
                        acknowledged.store(user, Ordering::SeqCst);
                        continue;
                    }
                    past.push((Instant::now(), acknowledged.load(Ordering::SeqCst)));
                    let asked = Instant::now();
                    let bound = [0, 50, 1_000][client - 1];
                    let counted = http.get(format!("{url}/v1/segments/s/count?max_staleness_ms={bound}"));
                    let counted = counted.send().await.unwrap();
                    // The segment is there from its first pair on.
                    if counted.status() == 404 && past[0].1 == 0 {
                        past.clear();
                        continue;
                    }
                    assert_eq!(counted.status(), 200);
                    let counted: Value = counted.json().await.unwrap();
                    // A millisecond more: it is told in whole ones.
                    let age = Duration::from_millis(counted["staleness_ms"].as_u64().unwrap() + 1);
                    // It was exact at an instant no earlier than that; a strict one holds what was acknowledged before it was asked.
                    let since = if bound == 0 { asked } else { asked - age };
                    let known = past
                        .iter()
                        .rev()
                        .find(|(at, _)| *at <= since)
                        .map_or(0, |(_, count)| *count);
                    assert!(
                        counted["count"].as_i64().unwrap() >= known,
                        "{counted}: {known} were acknowledged"
                    );
                }
                past.len()
            })
        })
        .collect();
    write(&path, &list(&[a, b, c]));
    names(&server, &[a, b, c]).await;
    sleep(Duration::from_millis(500)).await;
    write(&path, &list(&[c, b]));
    names(&server, &[b, c]).await;
    sleep(Duration::from_millis(500)).await;
    // What names no nodes is told, once, and changes nothing.
    write(&path, "redis://:hunter2@a:port\n");
    let until = Instant::now() + Duration::from_secs(20);
    while !server.log().contains("NOT in use") {
        assert!(Instant::now() < until, "{}", server.log());
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_millis(2_200)).await;
    names(&server, &[b, c]).await;
    ended.store(true, Ordering::SeqCst);
    let mut reads = 0;
    for client in clients {
        reads += client.await.unwrap();
    }
    assert!(reads > 200, "{reads} counts");
    let log = server.log();
    assert_eq!(log.matches("NOT in use").count(), 1, "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_start_without_a_list_of_nodes_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nodes");
    std::fs::write(&path, "# none yet\n").unwrap();
    let output = support::server::command("sqlite::memory:")
        .args(["serve", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
        .args(["--redis-nodes-file", path.to_str().unwrap()])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && told.contains("redis_nodes_file") && told.contains("names no node"),
        "{told}"
    );
}
