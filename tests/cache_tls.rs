//! A cache that is reached by TLS: the binary, private Redis servers with certificates of a private authority, and one that nobody trusts.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "cache_tls/authority.rs"]
mod authority;
mod support;

use std::time::{Duration, Instant};

use authority::Authority;
use redis::Value;
use serde_json::{Value as Json, json};
use support::redis::{Node, command, free_port};
use support::server::Server;

/// A node that answers TLS on a second port, and the URL of that.
fn node(authority: &Authority, more: &[&str]) -> (Node, String) {
    let port = free_port();
    let (certificate, key) = authority.certificate();
    let mut settings = vec![
        "--tls-port".to_owned(),
        port.to_string(),
        "--tls-cert-file".to_owned(),
        certificate,
        "--tls-key-file".to_owned(),
        key,
        "--tls-ca-cert-file".to_owned(),
        authority.file(),
        "--tls-auth-clients".to_owned(),
        "no".to_owned(),
    ];
    settings.extend(more.iter().map(ToString::to_string));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    (Node::start(&settings), format!("rediss://localhost:{port}"))
}

fn serve(flags: &[&str], trusted: &Authority) -> Server {
    Server::start_with("sqlite::memory:", flags, &[("SSL_CERT_FILE", &trusted.file())])
}

/// Two users of a segment, sent and counted: first a count that looks into the cache and fills it, then one of the ledger.
async fn counts_two(server: &Server) {
    let client = reqwest::Client::new();
    for user in ["ada", "bob"] {
        let pair = json!({"user_id": user, "segment": "s"});
        let sent = client.post(format!("{}/v1/pairs", server.url)).json(&pair).send();
        assert_eq!(sent.await.unwrap().status(), 200);
    }
    for bound in [1_000, 0] {
        let url = format!("{}/v1/segments/s/count?max_staleness_ms={bound}", server.url);
        let count: Json = client.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!((&count["count"], &count["exact"]), (&json!(2), &json!(true)), "{count}");
    }
}

/// How many keys a node holds, once it holds some; 0 where it still has none after a while.
async fn keys(url: &str, patience: Duration) -> i64 {
    let until = Instant::now() + patience;
    loop {
        let Value::Int(keys) = command(url, &["DBSIZE"]).await else {
            panic!("DBSIZE is a number")
        };
        if keys > 0 || Instant::now() > until {
            return keys;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Counts until the node at `url` holds something: while it is not connected yet, counts are the ledger's.
async fn caches(server: &Server, url: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        counts_two(server).await;
        if keys(url, Duration::ZERO).await > 0 {
            return;
        }
        assert!(Instant::now() < until, "nothing is cached: {}", server.log());
        // A count in the memory of the process is a second old at most.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
}

async fn ready(server: &Server) -> String {
    let answer = reqwest::get(format!("{}/readyz", server.health)).await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test]
async fn a_count_is_cached_by_tls_where_the_authority_is_trusted() {
    let authority = Authority::new();
    let (node, url) = node(&authority, &["--requirepass", "hunter2"]);
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "hunter2").unwrap();
    let file = password.path().to_str().unwrap();
    let server = serve(&["--redis-url", &url, "--redis-password-file", file], &authority);
    let plain = node.url().replace("redis://", "redis://:hunter2@");
    caches(&server, &plain).await;
    let ready = ready(&server).await;
    assert!(ready.contains("localhost") && !ready.contains("hunter2"), "{ready}");
    assert!(!server.log().contains("hunter2"));
}

#[tokio::test]
async fn a_cluster_is_followed_by_tls() {
    let authority = Authority::new();
    let (node, url) = node(&authority, &["--cluster-enabled", "yes", "--tls-cluster", "yes"]);
    assert_eq!(node.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), Value::Okay);
    let server = serve(&["--redis-url", &url, "--redis-mode", "cluster"], &authority);
    caches(&server, &node.url()).await;
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_told_and_costs_no_count() {
    let (theirs, ours) = (Authority::new(), Authority::new());
    let (node, url) = node(&theirs, &[]);
    let server = serve(&["--redis-url", &url], &ours);
    counts_two(&server).await;
    let ready = ready(&server).await;
    assert!(ready.contains("localhost") && ready.contains("certificate"), "{ready}");
    assert_eq!(
        keys(&node.url(), Duration::from_millis(300)).await,
        0,
        "nothing was sent there"
    );
}

#[tokio::test]
async fn plain_words_to_a_port_of_tls_are_told_and_cost_no_count() {
    let authority = Authority::new();
    let (node, url) = node(&authority, &[]);
    let server = serve(&["--redis-url", &url.replace("rediss", "redis")], &authority);
    counts_two(&server).await;
    let ready = ready(&server).await;
    assert!(ready.contains("localhost"), "{ready}");
    assert_eq!(keys(&node.url(), Duration::from_millis(300)).await, 0, "{ready}");
}
