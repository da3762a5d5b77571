//! Taking users out: one, many, a whole segment, a user everywhere.

use serde_json::{Value, json};
use sha2::Digest;

use crate::server;
use crate::support::server::Server;
use crate::table::{hold, row};
use crate::wire::{Request, get, post, put, request};

fn send(server: &Server, request: Request) -> (u16, Value) {
    let answer = request.send(server.address()).expect("an answer");
    let body = if answer.text().is_empty() {
        Value::Null
    } else {
        answer.json()
    };
    (answer.status, body)
}

fn delete(path: &str) -> Request {
    request("DELETE", path)
}

fn count(server: &Server, segment: &str) -> (u16, Value) {
    let (status, body) = send(server, get(&format!("/v1/segments/{segment}/count?max_staleness_ms=0")));
    (status, body["count"].clone())
}

/// An instant by the ledger's clock.
fn just_now(server: &Server) -> String {
    send(server, put("/v1/segments/clock", "{}"));
    let (_, clock) = send(server, get("/v1/segments/clock/count?max_staleness_ms=0"));
    clock["as_of"].as_str().expect("an instant").to_owned()
}

fn pair(user: &str, segment: &str) -> String {
    json!({"user_id": user, "segment": segment}).to_string()
}

#[test]
fn a_user_is_taken_out_and_late_pairs_stay_out() {
    let server = server();
    send(&server, post("/v1/pairs", pair("a/b", "s")));
    let late = json!({"user_id": "a/b", "segment": "s", "observed_at": just_now(&server)}).to_string();
    assert_eq!(
        send(&server, delete("/v1/segments/s/users/a%2Fb")),
        (200, json!({"status": "removed"}))
    );
    assert_eq!(count(&server, "s"), (200, json!(0)));
    assert_eq!(
        send(&server, delete("/v1/segments/s/users/a%2Fb")),
        (200, json!({"status": "not_member"}))
    );
    assert_eq!(
        send(&server, post("/v1/pairs", late)),
        (200, json!({"status": "ignored", "reason": "removed"}))
    );
    assert_eq!(
        send(&server, post("/v1/pairs", pair("a/b", "s"))).1["status"],
        "created"
    );
    assert_eq!(count(&server, "s"), (200, json!(1)));
}

#[test]
fn many_are_taken_out_and_a_bad_one_loses_no_good_one() {
    let server = server();
    for user in ["1", "2", "3"] {
        send(&server, post("/v1/pairs", pair(user, "s")));
    }
    let body = json!([
        {"user_id": "1", "segment": "s"},
        {"user_id": "2", "segment": "none"},
        {"user_id": "9", "segment": "s"},
        {"user_id": "", "segment": "s"},
        {"user_id": "2", "segment": "s", "observed_at": "2026-01-01T00:00:00Z"},
        {"user_id": "3", "segment": "s"},
    ]);
    let (status, totals) = send(&server, post("/v1/pairs:remove", body.to_string()));
    assert_eq!(status, 200, "{totals}");
    assert_eq!(
        [
            &totals["received"],
            &totals["removed"],
            &totals["not_member"],
            &totals["refused"],
            &totals["invalid"]
        ],
        [&json!(6), &json!(2), &json!(1), &json!(1), &json!(2)]
    );
    let at: Vec<_> = totals["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["index"].clone(), e["field"].clone()))
        .collect();
    assert_eq!(
        at,
        [
            (json!(1), json!("segment")),
            (json!(3), json!("user_id")),
            (json!(4), json!("observed_at"))
        ]
    );
    assert_eq!(count(&server, "s"), (200, json!(1)));
    assert_eq!(count(&server, "none").0, 404);
    assert_eq!(send(&server, post("/v1/pairs:remove", "[]")).1["received"], 0);
}

#[test]
fn a_segment_is_deleted_and_its_name_is_free() {
    let (server, _folder) = guarded();
    let with_token = |request: Request| request.header("authorization", "Bearer secret");
    send(&server, with_token(post("/v1/pairs", pair("1", "s"))));
    send(&server, with_token(put("/v1/segments/s", r#"{"window_seconds": 600}"#)));
    assert_eq!(send(&server, with_token(delete("/v1/segments/s"))).0, 204);
    for path in ["/v1/segments/s", "/v1/segments/s/count"] {
        assert_eq!(send(&server, with_token(get(path))).0, 404, "{path}");
    }
    assert_eq!(send(&server, with_token(delete("/v1/segments/s"))).0, 404);
    assert_eq!(
        send(&server, with_token(post("/v1/pairs", pair("2", "s")))).1["status"],
        "created"
    );
    let (_, segment) = send(&server, with_token(get("/v1/segments/s")));
    assert_eq!((&segment["count"], &segment["own_window"]), (&json!(1), &json!(false)));
}

#[test]
fn an_erasure_gives_a_receipt_without_the_users_name() {
    let (server, _folder) = guarded();
    let with_token = |request: Request| request.header("authorization", "Bearer secret");
    for segment in ["s", "t"] {
        send(&server, with_token(post("/v1/pairs", pair("somebody", segment))));
    }
    let (_, clock) = {
        send(&server, with_token(put("/v1/segments/clock", "{}")));
        send(&server, with_token(get("/v1/segments/clock/count?max_staleness_ms=0")))
    };
    let now = clock["as_of"].as_str().expect("an instant");
    let late = json!({"user_id": "somebody", "segment": "s", "observed_at": now}).to_string();
    let (status, receipt) = send(&server, with_token(delete("/v1/users/somebody")));
    assert_eq!(status, 200, "{receipt}");
    assert_eq!((&receipt["memberships"], &receipt["history"]), (&json!(2), &json!(0)));
    assert!(!receipt.to_string().contains("somebody"));
    assert_eq!(
        send(&server, with_token(post("/v1/pairs", late))),
        (200, json!({"status": "ignored", "reason": "erased"}))
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let server = server();
    send(&server, post("/v1/pairs", pair("1", "s")));
    hold(
        &server,
        [
            row(
                "no segment",
                delete("/v1/segments/none/users/1"),
                404,
                "segment-not-found",
            )
            .at("segment"),
            row(
                "a broken escape",
                delete("/v1/segments/s/users/%f"),
                400,
                "malformed-path",
            )
            .at("user"),
            row("no UTF-8", delete("/v1/segments/s/users/%ff"), 400, "malformed-path").at("user"),
            row(
                "a segment that is no UTF-8",
                delete("/v1/segments/%ff/users/a"),
                400,
                "malformed-path",
            )
            .at("segment"),
            row(
                "a user with a NUL",
                delete("/v1/segments/s/users/a%00"),
                422,
                "invalid-field",
            )
            .at("user"),
            row(
                "a parameter",
                delete("/v1/segments/s/users/1?now=1"),
                422,
                "unknown-field",
            )
            .at("now"),
            row("an object", post("/v1/pairs:remove", "{}"), 422, "invalid-field").at(""),
            row("broken JSON", post("/v1/pairs:remove", "[{]"), 400, "malformed-json"),
            row(
                "nothing",
                post("/v1/pairs:remove", String::new()),
                400,
                "malformed-json",
            ),
            row(
                "too many",
                post("/v1/pairs:remove", format!("[{}0]", "0,".repeat(10_000))),
                413,
                "too-many-items",
            ),
            row(
                "lines",
                request("POST", "/v1/pairs:remove").header("Content-Type", "application/x-ndjson"),
                415,
                "unsupported-media-type",
            )
            .at("Content-Type"),
            row("an erasure without tokens", delete("/v1/users/1"), 403, "forbidden"),
            row("a deletion without tokens", delete("/v1/segments/s"), 403, "forbidden"),
        ],
    );
}

/// A server with one token, `secret`, that may do all.
fn guarded() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.yaml");
    let hash = hex::encode(sha2::Sha256::digest("secret"));
    std::fs::write(&file, format!("- {{name: test, sha256: {hash}, scopes: [admin]}}\n")).unwrap();
    let server = Server::start("sqlite::memory:", &["--tokens-file", file.to_str().unwrap()]);
    (server, folder)
}
