//! What is declared for a dependency that is away: what a client is answered then, and what readiness says.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::postgres;
use crate::support::redis::Node;
use crate::support::server::{Server, migrated};
use crate::wire::{Answer, get, post};

const PAIR: &str = r#"{"user_id":"u","segment":"s"}"#;
const COUNT: &str = "/v1/segments/s/count";
const STRICT: &str = "/v1/segments/s/count?max_staleness_ms=0";

fn ask(server: &Server, path: &str) -> Answer {
    get(path).send(server.address()).unwrap()
}

fn many(server: &Server) -> Answer {
    post("/v1/counts", r#"{"segments":["s"]}"#)
        .send(server.address())
        .unwrap()
}

fn ready(server: &Server) -> Answer {
    get("/readyz")
        .send(server.health.strip_prefix("http://").unwrap())
        .unwrap()
}

fn send_pair(server: &Server) {
    assert_eq!(post("/v1/pairs", PAIR).send(server.address()).unwrap().status, 200);
}

/// Asks until the answer has this status; it is what the server comes to by itself.
fn until(status: u16, ask: impl Fn() -> Answer) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask();
        if answer.status == status {
            return answer;
        }
        assert!(Instant::now() < deadline, "{}: {}", answer.status, answer.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Longer than what a process remembers counts as fresh.
fn let_it_grow_old() {
    std::thread::sleep(Duration::from_millis(1_200));
}

#[test]
fn a_count_that_may_not_cost_the_database_fails_while_the_cache_is_away() {
    let mut redis = Node::start(&[]);
    let server = Server::start(
        "sqlite::memory:",
        &["--redis-url", &redis.url(), "--on-cache-failure", "fail"],
    );
    send_pair(&server);
    assert_eq!(ask(&server, COUNT).status, 200);
    assert_eq!(ready(&server).status, 200);
    redis.kill();
    let_it_grow_old();
    for refused in [ask(&server, COUNT), many(&server)] {
        assert_eq!(
            (refused.status, refused.kind().as_deref()),
            (503, Some("cache-unavailable"))
        );
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(!refused.text().contains("127.0.0.1"), "{}", refused.text());
    }
    send_pair(&server);
    assert_eq!(
        ask(&server, STRICT).status,
        200,
        "strict asks the database by its own word"
    );
    let unready = until(503, || ready(&server));
    assert_eq!(unready.json()["state"], "failed", "{}", unready.text());
    redis.restart();
    until(200, || ask(&server, COUNT));
    until(200, || ready(&server));
}

#[test]
fn without_such_a_declaration_the_database_answers_and_readiness_is_degraded() {
    let mut redis = Node::start(&[]);
    let server = Server::start("sqlite::memory:", &["--redis-url", &redis.url()]);
    send_pair(&server);
    redis.kill();
    let_it_grow_old();
    let answer = ask(&server, COUNT);
    assert_eq!((answer.status, &answer.json()["count"]), (200, &json!(1)));
    let degraded = ready(&server);
    assert_eq!((degraded.status, &degraded.json()["state"]), (200, &json!("degraded")));
}

#[test]
fn a_stale_count_tells_its_age_in_the_answer_and_in_the_header_or_is_not_given() {
    let database = postgres::Server::start(&[]);
    let url = tokio::runtime::Runtime::new().unwrap().block_on(migrated(&database));
    let stale = Server::start(&url, &[]);
    let strict = Server::start(&url, &["--on-database-failure", "fail"]);
    send_pair(&stale);
    for server in [&stale, &strict] {
        let fresh = ask(server, COUNT);
        assert_eq!((fresh.status, fresh.header("age")), (200, Some("0")));
        assert_eq!(fresh.json()["exact"], true);
        assert_eq!(ready(server).status, 200);
    }
    database.stop();
    std::thread::sleep(Duration::from_millis(2_100));

    let answer = ask(&stale, COUNT);
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["count"], &body["exact"]),
        (200, &json!(1), &json!(false))
    );
    let age = body["staleness_ms"].as_u64().unwrap();
    assert!((2_100..20_000).contains(&age), "{body}");
    assert_eq!(answer.header("age"), Some((age / 1_000).to_string().as_str()));
    let answer = many(&stale);
    let age = answer.json()["counts"][0]["staleness_ms"].as_u64().unwrap();
    assert_eq!(
        answer.header("age"),
        Some((age / 1_000).to_string().as_str()),
        "{}",
        answer.text()
    );
    assert_eq!(ask(&stale, STRICT).status, 503, "strict is never stale");

    let refused = ask(&strict, COUNT);
    assert_eq!((refused.status, refused.kind().as_deref()), (503, Some("unavailable")));
    assert!(refused.header("retry-after").is_some() && refused.header("age").is_none());
    assert_eq!((ready(&stale).status, ready(&strict).status), (200, 503));
}
