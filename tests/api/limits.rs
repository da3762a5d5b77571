//! What is refused because there is too much of it, or because it is under way already.

use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{Connection, SqliteConnection};

use crate::server;
use crate::support::server::Server;
use crate::table::{hold, is_well, row};
use crate::wire::{get, post, put, request, stream};

#[test]
fn pairs_create_10_000_segments_and_a_put_creates_more() {
    let server = server();
    is_well(&server);
    let lines: String = (1..=10_000)
        .map(|n| json!({"user_id": "u", "segment": format!("s{n:05}")}).to_string() + "\n")
        .collect();
    let answer = stream(lines).send(server.address()).unwrap();
    let totals = answer.json();
    assert_eq!(
        (&totals["created"], &totals["refused"]),
        (&json!(9_999), &json!(1)),
        "one stands already: {totals}"
    );
    assert_eq!(
        totals["errors"][0]["type"],
        "https://segmentcounter.io/problems/segment-limit"
    );
    let one_more = r#"{"user_id":"u","segment":"one-more"}"#;
    hold(
        &server,
        [row("one more", post("/v1/pairs", one_more), 409, "segment-limit").at("segment")],
    );
    assert_eq!(get("/v1/segments/one-more").send(server.address()).unwrap().status, 404);
    assert_eq!(
        put("/v1/segments/one-more", "{}")
            .send(server.address())
            .unwrap()
            .status,
        201
    );
    let answer = post("/v1/pairs", one_more).send(server.address()).unwrap();
    assert_eq!(answer.json()["status"], "created", "{}", answer.text());
}

#[test]
fn a_job_that_runs_elsewhere_is_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens.yaml");
    let hash = hex::encode(Sha256::digest("a-token-of-the-test"));
    std::fs::write(&tokens, format!("- {{name: root, sha256: {hash}, scopes: [admin]}}")).unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let server = Server::start(&url, &["--tokens-file", tokens.to_str().unwrap()]);
    // As another process notes it.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let note = |sql: &'static str| {
        runtime.block_on(async {
            let mut ledger = SqliteConnection::connect(&url).await.unwrap();
            sqlx::query(sql).execute(&mut ledger).await.unwrap();
        });
    };
    note(
        "INSERT INTO job_run (job, started_at, seen_at) SELECT e.value, unixepoch() * 1000000, unixepoch() * 1000000 FROM json_each('[\"archive\", \"refresh\"]') e",
    );
    let ask = |method: &str, path: &str| {
        let answer = request(method, path)
            .token("a-token-of-the-test")
            .send(server.address());
        answer.expect("an answer")
    };
    for job in ["archive", "refresh"] {
        let answer = ask("POST", &format!("/v1/admin/{job}"));
        assert_eq!(
            (answer.status, answer.kind().as_deref()),
            (409, Some("job-running")),
            "{}",
            answer.text()
        );
        assert_eq!(ask("GET", "/v1/admin/status").json()[job]["running"], true);
    }
    note("UPDATE job_run SET seen_at = seen_at - 61000000");
    for job in ["archive", "refresh"] {
        let answer = ask("POST", &format!("/v1/admin/{job}"));
        assert_eq!(
            (answer.status, &answer.json()["finished"]),
            (200, &json!(true)),
            "{}",
            answer.text()
        );
        assert_eq!(ask("GET", "/v1/admin/status").json()[job]["last_succeeded"], true);
    }
}

#[test]
fn a_stream_that_finds_no_turn_is_told_to_come_again() {
    let server = server();
    let pair = "{\"user_id\":\"u\",\"segment\":\"s\"}\n";
    let slow: Vec<_> = (0..64)
        .map(|_| {
            let address = server.address().to_owned();
            thread::spawn(move || stream("").stalls(pair).send(&address).expect("an answer").status)
        })
        .collect();
    thread::sleep(Duration::from_secs(2));
    hold(&server, [row("the 65th", stream(pair), 503, "overloaded")]);
    for client in slow {
        assert_eq!(client.join().unwrap(), 408);
    }
    assert_eq!(stream(pair).send(server.address()).unwrap().status, 200);
}
