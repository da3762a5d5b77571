//! Who may do what, on every route there is: no token, an unknown one, one that lacks the scope, the right one; and a file that changes.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::server;
use crate::support::server::Server;
use crate::table::{is_well, openapi};
use crate::wire::{Answer, Request, get, request};

const SCOPES: [&str; 5] = ["pairs:write", "counts:read", "users:read", "users:erase", "admin"];
/// The file is looked at every second.
const SOON: Duration = Duration::from_secs(10);

/// The token of a scope: nothing that could stand in a log by chance.
fn token(scope: &str) -> String {
    format!("correct-horse-battery-{}", scope.replace(':', "-"))
}

fn entry(name: &str, token: &str, scopes: &str) -> String {
    format!(
        "- {{name: {name}, sha256: {}, scopes: ['{scopes}']}}\n",
        hex::encode(Sha256::digest(token))
    )
}

fn all() -> String {
    SCOPES
        .iter()
        .enumerate()
        .map(|(n, scope)| entry(&format!("t{n}"), &token(scope), scope))
        .collect()
}

fn serve(file: &Path) -> Server {
    let file = file.to_str().unwrap();
    // Whatever any part of it would ever log is logged.
    Server::start_with(
        "sqlite::memory:",
        &["--tokens-file", file],
        &[("SEGMENT_COUNTER_LOG", "trace")],
    )
}

/// Every operation of the document with a request that is good for it, and the scope that it names.
fn operations(document: &Value) -> Vec<(String, String, Option<String>)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(responses) = operation.get("responses") {
                assert!(responses.is_object());
                let scope = operation["security"][0]["token"][0].as_str().map(str::to_owned);
                all.push((
                    method.to_uppercase(),
                    path.replace("{segment}", "s").replace("{user}", "u"),
                    scope,
                ));
            }
        }
    }
    all
}

fn ask(method: &str, path: &str) -> Request {
    let body = match (method, path) {
        (_, "/v1/pairs") => r#"{"user_id":"u","segment":"s"}"#,
        (_, "/v1/pairs:batch" | "/v1/pairs:remove") => "[]",
        (_, "/v1/counts") => r#"{"segments":["s"]}"#,
        ("PUT", _) => "{}",
        _ => return request(method, path),
    };
    request(method, path)
        .header("Content-Type", "application/json")
        .body(body)
}

fn send(server: &Server, request: Request) -> Answer {
    request.send(server.address()).expect("an answer")
}

#[test]
fn every_route_asks_for_the_scope_that_its_documentation_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.yaml");
    std::fs::write(&file, all()).unwrap();
    let server = serve(&file);
    let operations = operations(&openapi(&server));
    assert!(operations.len() >= 16, "{operations:?}");
    let public: Vec<_> = operations
        .iter()
        .filter(|(_, _, scope)| scope.is_none())
        .map(|(_, path, _)| &**path)
        .collect();
    assert_eq!(public, ["/docs", "/openapi.json"], "nothing else is open by mistake");
    // The segment that the others ask for.
    assert_eq!(
        send(&server, ask("POST", "/v1/pairs").token(&token("pairs:write"))).status,
        200
    );
    for (method, path, scope) in &operations {
        let what = format!("{method} {path}");
        let Some(scope) = scope else {
            assert_eq!(send(&server, ask(method, path)).status, 200, "{what}");
            continue;
        };
        let other = if scope == "users:read" {
            "counts:read"
        } else {
            "users:read"
        };
        let refused = |request: Request, status: u16, kind: &str| {
            let answer = send(&server, request);
            assert_eq!(
                (answer.status, answer.kind().as_deref()),
                (status, Some(kind)),
                "{what}"
            );
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{what}"
            );
            answer
        };
        let none = refused(ask(method, path), 401, "unauthorized");
        assert!(none.header("www-authenticate").unwrap().starts_with("Bearer"), "{what}");
        refused(ask(method, path).token("never-made"), 401, "unauthorized");
        refused(
            ask(method, path).token(&format!("{}x", token(scope))),
            401,
            "unauthorized",
        );
        refused(
            ask(method, path).header("Authorization", &format!("Basic {}", token(scope))),
            401,
            "unauthorized",
        );
        refused(
            ask(method, path).header("Authorization", &token(scope)),
            401,
            "unauthorized",
        );
        let lacks = refused(ask(method, path).token(&token(other)), 403, "forbidden");
        assert_eq!(lacks.json()["scope"], **scope, "{what}");
        assert!(
            lacks.json()["detail"].as_str().unwrap().contains(scope.as_str()),
            "{what}"
        );
        for right in [token(scope), token("admin")] {
            let answer = send(&server, ask(method, path).token(&right));
            let deleted = method == "DELETE" && path == "/v1/segments/s";
            let good = if deleted { 204 } else { 200 };
            assert_eq!(answer.status, good, "{what}: {}", answer.text());
            if deleted {
                let again = ask("POST", "/v1/pairs").token(&token("pairs:write"));
                assert_eq!(send(&server, again).status, 200);
            }
        }
        // A refusal comes before the body is looked at.
        let early = request(method, path)
            .header("Content-Type", "application/json")
            .token("never-made");
        assert_eq!(send(&server, early.body("{")).status, 401, "{what}");
    }
    no_token_in(&server.log());
}

#[test]
fn the_tokens_file_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.yaml");
    let (old, new) = (token("old"), token("new"));
    std::fs::write(&file, entry("shop", &old, "counts:read")).unwrap();
    let server = serve(&file);
    let status = |token: &str| send(&server, get("/v1/segments").token(token)).status;
    assert_eq!((status(&old), status(&new)), (200, 401));
    std::fs::write(&file, entry("shop", &new, "counts:read")).unwrap();
    until(|| status(&new) == 200);
    assert_eq!(
        status(&old),
        401,
        "what the file does not hold any more is not known any more"
    );
    // What people write into such a file by mistake, the token itself among it.
    let token = new.as_str();
    for broken in [
        String::new(),
        "[]".to_owned(),
        token.to_owned(),
        format!("shop: {token}"),
        format!("- {token}"),
        format!("- {{name: shop, sha256: {token}, scopes: [admin]}}"),
        format!("- {{name: shop, sha256: '{}', scopes: {token}}}", "0".repeat(64)),
        format!("- {{name: shop, sha256: '{}', scopes: [{token}]}}", "0".repeat(64)),
        format!("- {{name: shop, {token}: x}}"),
        format!("- {{name: [{token}], sha256: '{}', scopes: [admin]}}", "0".repeat(64)),
        format!(
            "- {{name: shop, token: {token}, sha256: '{}', scopes: [admin]}}",
            "0".repeat(64)
        ),
        format!("- [\"{token}"),
        format!("- &{token} *{token}x"),
    ] {
        let before = server.log().matches("NOT in force").count();
        std::fs::write(&file, &broken).unwrap();
        until(|| server.log().matches("NOT in force").count() > before);
        assert_eq!(status(token), 200, "{broken}");
    }
    let before = server.log().matches("NOT in force").count();
    std::fs::remove_file(&file).unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(status(token), 200);
    assert!(
        server.log().matches("NOT in force").count() <= before + 1,
        "said once, not every second"
    );
    std::fs::write(&file, entry("shop", &old, "counts:read")).unwrap();
    until(|| status(&old) == 200);
    assert_eq!(status(token), 401);
    no_token_in(&server.log());
}

#[test]
fn a_server_without_tokens_is_open_for_pairs_and_counts_and_says_how_to_open_the_rest() {
    let server = server();
    assert!(server.log().contains("no tokens file"), "{}", server.log());
    assert_eq!(send(&server, ask("POST", "/v1/pairs")).status, 200);
    for (method, path, scope) in operations(&openapi(&server)) {
        let answer = send(&server, ask(&method, &path));
        if matches!(scope.as_deref(), Some("admin" | "users:erase")) {
            assert_eq!(
                (answer.status, answer.kind().as_deref()),
                (403, Some("forbidden")),
                "{method} {path}"
            );
            assert!(
                answer.json()["detail"].as_str().unwrap().contains("--tokens-file"),
                "{}",
                answer.text()
            );
        } else {
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        }
    }
    is_well(&server);
}

#[test]
fn a_tokens_file_that_is_none_ends_the_start_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.yaml");
    for content in [None, Some("correct-horse-battery-old"), Some("- {name: a}")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let output = crate::support::server::command("sqlite::memory:")
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--health-listen",
                "127.0.0.1:0",
                "--tokens-file",
            ])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("tokens_file") && said.contains("tokens.yaml"), "{said}");
        no_token_in(&said);
    }
}

fn no_token_in(log: &str) {
    assert!(!log.is_empty());
    let line = log.lines().find(|line| line.contains("correct-horse-battery"));
    assert_eq!(line, None, "a token in the log");
}

fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
