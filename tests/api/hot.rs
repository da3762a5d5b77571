//! Counts that memory answers in front of the router: the same answer, the same refusals, the same measures as of any other.

use sha2::{Digest, Sha256};

use crate::server;
use crate::support::server::Server;
use crate::wire::{Answer, Request, get, post, request};

const PATH: &str = "/v1/segments/owner%2Frepo:dir/count";
/// A query is the router's, whatever it says.
const BY_THE_ROUTER: &str = "/v1/segments/owner%2Frepo:dir/count?max_staleness_ms=60000";

fn send(server: &Server, request: Request) -> Answer {
    request.send(server.address()).expect("an answer")
}

/// A count that is remembered by now.
fn warm(server: &Server, token: &str) {
    let pair = r#"{"user_id":"u","segment":"owner/repo:dir"}"#;
    assert_eq!(send(server, post("/v1/pairs", pair).token(token)).status, 200);
    // The change that the pair was makes what is remembered unfresh for a moment.
    for _ in 0..3 {
        assert_eq!(send(server, get(PATH).token(token)).status, 200);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Requests for a count that were answered well, by the metrics.
fn answered(server: &Server) -> u64 {
    let address = server.health.strip_prefix("http://").unwrap();
    let text = get("/metrics").send(address).unwrap().text();
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix("segment_counter_http_requests_total{")?;
        let wanted = [
            r#"method="GET""#,
            r#"route="/v1/segments/{segment}/count""#,
            r#"status="200""#,
        ];
        wanted
            .iter()
            .all(|label| rest.contains(label))
            .then(|| rest.rsplit_once(' '))?
    });
    line.map_or(0, |(_, number)| number.parse().unwrap())
}

#[test]
fn a_count_from_memory_is_answered_as_by_the_router() {
    // Nothing is asked of the ledger again while this runs.
    let server = Server::start_with("sqlite::memory:", &[], &[("SEGMENT_COUNTER_MAX_STALENESS_MS", "60000")]);
    warm(&server, "");
    let before = answered(&server);
    let (hot, routed) = (send(&server, get(PATH)), send(&server, get(BY_THE_ROUTER)));
    assert_eq!(answered(&server), before + 2);
    let names = |answer: &Answer| {
        let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&hot), names(&routed));
    for name in ["content-type", "etag", "cache-control"] {
        assert!(hot.header(name).is_some(), "{name}");
        assert_eq!(hot.header(name), routed.header(name), "{name}");
    }
    assert_ne!(hot.header("x-request-id"), routed.header("x-request-id"));
    let (mut hot, mut routed) = (hot.json(), routed.json());
    for body in [&mut hot, &mut routed] {
        let age = body.as_object_mut().unwrap().remove("staleness_ms").unwrap();
        assert!(age.as_u64().unwrap() < 60_000, "{age}");
    }
    assert_eq!(hot, routed);
    assert_eq!((&hot["segment"], &hot["count"]), (&"owner/repo:dir".into(), &1.into()));
}

#[test]
fn a_request_keeps_its_name_and_its_condition() {
    let server = server();
    warm(&server, "");
    let named = send(&server, get(PATH).header("X-Request-Id", "mine-1"));
    assert_eq!((named.status, named.header("x-request-id")), (200, Some("mine-1")));
    let tag = named.header("etag").unwrap().to_owned();
    assert_eq!(send(&server, get(PATH).header("If-None-Match", &tag)).status, 304);
    let head = send(&server, request("HEAD", PATH));
    assert_eq!((head.status, head.body.len()), (200, 0));
    // A name that merely looks like it is another segment's, or none.
    assert_eq!(send(&server, get("/v1/segments/owner%252Frepo:dir/count")).status, 404);
    assert_eq!(send(&server, get("/v1/segments/owner%2frepo:dir/count")).status, 200);
}

#[test]
fn memory_answers_only_who_may_ask() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.yaml");
    let entries: String = [("all", "['pairs:write', 'counts:read']"), ("writer", "['pairs:write']")]
        .iter()
        .map(|(name, scopes)| {
            let hash = hex::encode(Sha256::digest(format!("of-the-{name}")));
            format!("- {{name: {name}, sha256: {hash}, scopes: {scopes}}}\n")
        })
        .collect();
    std::fs::write(&file, entries).unwrap();
    let server = Server::start("sqlite::memory:", &["--tokens-file", file.to_str().unwrap()]);
    warm(&server, "of-the-all");
    assert_eq!(send(&server, get(PATH).token("of-the-all")).status, 200);
    assert_eq!(send(&server, get(PATH)).status, 401);
    assert_eq!(send(&server, get(PATH).token("of-nobody")).status, 401);
    assert_eq!(send(&server, get(PATH).token("of-the-writer")).status, 403);
}
