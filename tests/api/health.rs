//! Health over its own port, while PostgreSQL is there, away, and there again; nothing is restarted in between.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::postgres;
use crate::support::server::{Server, migrated};
use crate::wire::{Answer, get, post};

const PAIR: &str = r#"{"user_id":"u","segment":"s"}"#;

fn health(server: &Server, path: &str) -> Answer {
    get(path)
        .send(server.health.strip_prefix("http://").unwrap())
        .expect("an answer")
}

fn postgres_of(ready: &Answer) -> Value {
    let body = ready.json();
    let all = body["dependencies"].as_array().unwrap().clone();
    all.into_iter()
        .find(|one| one["name"] == "postgres")
        .unwrap_or_else(|| panic!("{body}"))
}

#[test]
fn health_has_a_port_of_its_own() {
    let server = crate::server();
    assert_eq!(health(&server, "/livez").text(), "ok\n");
    let ready = health(&server, "/readyz");
    assert_eq!(ready.status, 200);
    assert_eq!(
        ready.json(),
        json!({"ready": true, "state": "ok", "dependencies": [{"name": "memory", "state": "ok"}, {"name": "sqlite", "state": "ok"}]})
    );
    assert_eq!(
        post("/v1/pairs", PAIR.replace("\"s\"", "\"secret-segment\""))
            .send(server.address())
            .unwrap()
            .status,
        200
    );
    let metrics = health(&server, "/metrics");
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"));
    assert!(
        text.contains("segment_counter_http_requests_total{method=\"POST\",route=\"/v1/pairs\",status=\"200\"} 1"),
        "{text}"
    );
    assert!(!text.contains("secret-segment"), "a name in a label: {text}");
    for path in ["/", "/v1/segments", "/nowhere"] {
        assert_eq!(health(&server, path).status, 404, "{path}");
    }
}

#[test]
fn without_postgres_readiness_says_why_and_it_heals_without_a_restart() {
    let database = postgres::Server::start(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = runtime.block_on(migrated(&database));
    // Nothing stale may stand in for it, so that it is needed.
    let server = Server::start(&url, &["--serve-stale-seconds", "0"]);
    assert_eq!(post("/v1/pairs", PAIR).send(server.address()).unwrap().status, 200);
    assert_eq!(health(&server, "/readyz").status, 200);
    database.stop();

    // The first look may meet a connection that died; from then on it says what is wrong and not merely that it took long.
    health(&server, "/readyz");
    for _ in 0..6 {
        let asked = Instant::now();
        let ready = health(&server, "/readyz");
        assert!(asked.elapsed() < Duration::from_millis(2_500), "{:?}", asked.elapsed());
        assert_eq!((ready.status, &ready.json()["state"]), (503, &json!("failed")));
        assert_eq!(
            postgres_of(&ready),
            json!({"name": "postgres", "state": "failed", "detail": "unreachable"})
        );
    }
    assert_eq!(health(&server, "/livez").status, 200, "a restart would mend nothing");
    assert!(
        health(&server, "/metrics")
            .text()
            .contains("segment_counter_ledger_up 0"),
        "{}",
        health(&server, "/metrics").text()
    );
    for (what, request) in [
        ("pair", post("/v1/pairs", PAIR)),
        ("batch", post("/v1/pairs:batch", format!("[{PAIR}]"))),
        ("count", get("/v1/segments/s/count?max_staleness_ms=0")),
        ("old count", get("/v1/segments/s/count")),
        (
            "counts",
            post("/v1/counts", r#"{"segments":["s"],"max_staleness_ms":0}"#),
        ),
        ("list", get("/v1/segments")),
        ("segment", get("/v1/segments/s")),
        ("put", crate::wire::put("/v1/segments/s", "{}")),
    ] {
        let answer = request.send(server.address()).unwrap();
        assert_eq!(
            (answer.status, answer.kind().as_deref()),
            (503, Some("unavailable")),
            "{what}: {}",
            answer.text()
        );
        assert!(answer.header("retry-after").is_some(), "{what}");
        let text = answer.text();
        assert!(
            !text.contains("127.0.0.1") && !text.contains("connect"),
            "{what}: {text}"
        );
    }

    database.crash_and_restart();
    let until = Instant::now() + Duration::from_secs(20);
    while health(&server, "/readyz").status != 200 {
        assert!(Instant::now() < until, "{}", server.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let answer = get("/v1/segments/s/count?max_staleness_ms=0")
        .send(server.address())
        .unwrap();
    assert_eq!(
        (answer.status, &answer.json()["count"]),
        (200, &json!(1)),
        "{}",
        answer.text()
    );
    assert_eq!(post("/v1/pairs", PAIR).send(server.address()).unwrap().status, 200);
    assert!(
        health(&server, "/metrics")
            .text()
            .contains("segment_counter_ledger_up 1")
    );
    let log = server.log();
    assert!(!log.contains("of-the-tests"), "the password is in the log: {log}");
    assert!(!log.contains("panicked"), "{log}");
}
