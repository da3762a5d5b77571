//! What stands around a body: methods, routes, queries, types, encodings; and what is no HTTP at all.

use crate::server;
use crate::table::{Row, hold, is_well, row};
use crate::wire::{Request, get, post, put, raw, request, stream};

const PAIR: &str = r#"{"user_id":"u","segment":"s"}"#;

#[test]
fn another_method_is_told_which_ones_there_are() {
    let server = server();
    let routes = [
        ("/v1/pairs", "POST"),
        ("/v1/pairs:batch", "POST"),
        ("/v1/segments/s/count", "GET, HEAD"),
        ("/v1/counts", "POST"),
        ("/v1/segments", "GET, HEAD"),
        ("/v1/pairs:remove", "POST"),
        ("/v1/segments/s", "DELETE, GET, HEAD, PUT"),
        ("/v1/segments/s/users/u", "DELETE"),
        ("/v1/users/u", "DELETE"),
        ("/v1/admin/archive", "POST"),
        ("/v1/admin/refresh", "POST"),
        ("/v1/admin/status", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
    ];
    let mut rows = Vec::new();
    for (path, allow) in routes {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if allow.split(", ").any(|one| one == method) {
                continue;
            }
            rows.push(row("another method", request(method, path), 405, "method-not-allowed"));
            let answer = request(method, path).send(server.address()).unwrap();
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
        if !allow.contains("HEAD") {
            let answer = request("HEAD", path).send(server.address()).unwrap();
            assert_eq!((answer.status, answer.body.len()), (405, 0), "HEAD {path}");
        }
    }
    hold(&server, rows);
    let answer = request("HEAD", "/v1/segments/is-well/count")
        .send(server.address())
        .unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

#[test]
fn what_is_no_route_is_not_found() {
    let server = server();
    let paths = [
        "/",
        "/v1",
        "/v1/",
        "/v1/pairs/",
        "/v1//pairs",
        "//v1/pairs",
        "/V1/pairs",
        "/v2/pairs",
        "/v1/pair",
        "/v1/pairs:batch/",
        "/v1/segments/",
        "/v1/segments/a/b",
        "/v1/segments/a/count/",
        "/v1/admin",
        "/livez",
        "/readyz",
        "/metrics",
        "/favicon.ico",
        "/v1/pairs%3Abatch",
        "/v1/../openapi.json",
        "/v1/segments/..%2f..%2fetc%2fpasswd/x",
    ];
    hold(
        &server,
        paths.into_iter().flat_map(|path| {
            [
                row("no route", get(path), 404, "not-found"),
                row("no route", post(path, PAIR), 404, "not-found"),
            ]
        }),
    );
}

fn lines_with(path: &str) -> Request {
    request("POST", path)
        .header("Content-Type", "application/x-ndjson")
        .body(PAIR)
}

#[test]
fn a_query_is_read_strictly() {
    let mut rows: Vec<Row> = Vec::new();
    for value in [
        "abc",
        "-1",
        "1.5",
        "60001",
        "",
        "0x10",
        "99999999999999999999",
        "%31%zz",
        "1%ff",
    ] {
        let path = format!("/v1/segments/s/count?max_staleness_ms={value}");
        rows.push(row("staleness", get(&path), 422, "invalid-field").at("max_staleness_ms"));
    }
    for value in ["0", "1001", "abc", "-1", "", "1e2", "99999999999999999999"] {
        rows.push(
            row(
                "limit",
                get(&format!("/v1/segments?limit={value}")),
                422,
                "invalid-field",
            )
            .at("limit"),
        );
    }
    rows.extend([
        row("twice", get("/v1/segments?limit=1&limit=2"), 422, "invalid-field").at("limit"),
        row("without a value", get("/v1/segments?limit"), 422, "invalid-field").at("limit"),
        row("unknown", get("/v1/segments?page=2"), 422, "unknown-field").at("page"),
        row(
            "unknown",
            get("/v1/segments/s/count?max_staleness=0"),
            422,
            "unknown-field",
        )
        .at("max_staleness"),
        // Where a route has no parameters, one that is given is a mistake too, and would otherwise go unseen.
        row("a pair", post("/v1/pairs?ttl_seconds=60", PAIR), 422, "unknown-field").at("ttl_seconds"),
        row(
            "a batch",
            post("/v1/pairs:batch?dry_run=true", "[]"),
            422,
            "unknown-field",
        )
        .at("dry_run"),
        row(
            "a stream",
            lines_with("/v1/pairs:batch?dry_run=true"),
            422,
            "unknown-field",
        )
        .at("dry_run"),
        row(
            "counts",
            post("/v1/counts?max_staleness_ms=0", r#"{"segments":[]}"#),
            422,
            "unknown-field",
        )
        .at("max_staleness_ms"),
        row("a segment", get("/v1/segments/s?window=1"), 422, "unknown-field").at("window"),
        row(
            "a put",
            put("/v1/segments/s?window_seconds=60", "{}"),
            422,
            "unknown-field",
        )
        .at("window_seconds"),
    ]);
    hold(&server(), rows);
}

#[test]
fn a_body_of_another_type_is_refused_before_it_is_read() {
    let json = [
        ("/v1/pairs", "POST"),
        ("/v1/counts", "POST"),
        ("/v1/segments/s", "PUT"),
        ("/v1/pairs:batch", "POST"),
    ];
    let mut rows = Vec::new();
    for (path, method) in json {
        for media in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/xml",
            "multipart/form-data; boundary=x",
            "json",
            "",
            ";",
            "\"application/json\"",
        ] {
            let asked = request(method, path).header("Content-Type", media).body(PAIR);
            rows.push(row(format!("type {media:?}"), asked, 415, "unsupported-media-type").at("Content-Type"));
        }
        let asked = request(method, path).body(PAIR);
        rows.push(row("no type", asked, 415, "unsupported-media-type").at("Content-Type"));
        for encoding in ["br", "deflate", "gzip, gzip", "snappy", "x", "\u{e9}"] {
            let asked = request(method, path)
                .header("Content-Type", "application/json")
                .header("Content-Encoding", encoding)
                .body(PAIR);
            rows.push(row(format!("encoding {encoding}"), asked, 415, "unsupported-media-type").at("Content-Encoding"));
        }
        let twice = request(method, path)
            .header("Content-Type", "application/json")
            .gzip()
            .gzip()
            .body(PAIR);
        rows.push(row("two encodings", twice, 415, "unsupported-media-type").at("Content-Encoding"));
    }
    for path in ["/v1/pairs", "/v1/counts"] {
        let lines = request("POST", path)
            .header("Content-Type", "application/x-ndjson")
            .body(PAIR);
        rows.push(row("lines", lines, 415, "unsupported-media-type").at("Content-Type"));
    }
    rows.push(
        row(
            "lines encoded",
            stream(PAIR).header("Content-Encoding", "br"),
            415,
            "unsupported-media-type",
        )
        .at("Content-Encoding"),
    );
    let server = server();
    hold(&server, rows);
    for media in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/json;",
        " application/json ",
    ] {
        let answer = request("POST", "/v1/pairs")
            .header("Content-Type", media)
            .body(PAIR)
            .send(server.address());
        assert_eq!(answer.unwrap().status, 200, "{media:?}");
    }
}

#[test]
fn what_is_no_http_is_refused_or_closed_and_harms_nobody() {
    let server = server();
    let long = "x".repeat(70_000);
    let fields: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let head = "POST /v1/pairs HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n";
    let cases: Vec<Vec<u8>> = vec![
        b"\r\n\r\n".to_vec(),
        b"GARBAGE\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\0\0\0\0\0\0\0\0".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET  /v1/segments  HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(),
        b"GET /v1/segments HTTP/1.1\r\nno colon\r\n\r\n".to_vec(),
        b"GET /v1/segments HTTP/1.1\r\nHost: t\r\nA: \0\r\n\r\n".to_vec(),
        b"GET /v1/segments HTTP/1.1\r\nHost : t\r\n\r\n".to_vec(),
        b"GET /v1/seg\0ments HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(),
        b"GET \xff\xfe HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(),
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(),
        format!("GET /{long} HTTP/1.1\r\nHost: t\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\nA: {long}\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes(),
        format!("{head}Content-Length: abc\r\n\r\n{{}}").into_bytes(),
        format!("{head}Content-Length: -1\r\n\r\n{{}}").into_bytes(),
        format!("{head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}").into_bytes(),
        format!("{head}Content-Length: 18446744073709551616\r\n\r\n{{}}").into_bytes(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{{}}").into_bytes(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n2;{long}\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
        format!("{head}Transfer-Encoding: gzip\r\n\r\n{{}}").into_bytes(),
        format!("{head}Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
        format!("{head}Content-Length: 10\r\n\r\n{{").into_bytes(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{").into_bytes(),
    ];
    for case in &cases {
        if let Some(answer) = raw(server.address(), case) {
            let begin = String::from_utf8_lossy(&case[..case.len().min(120)]).into_owned();
            assert!(
                (400..500).contains(&answer.status),
                "{begin:?}: {} {}",
                answer.status,
                answer.text()
            );
            // The server's own refusals are of these; whatever is HTTP gets a problem.
            if answer.header("content-type") != Some("application/problem+json") {
                assert!(
                    answer.body.is_empty() && [400, 414, 431].contains(&answer.status),
                    "{begin:?}: {answer:?}"
                );
            }
        }
    }
    // A smuggled second request is not answered as one.
    let smuggled = format!(
        "{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n"
    );
    if let Some(answer) = raw(server.address(), smuggled.as_bytes()) {
        assert!(!answer.text().contains("\"openapi\""), "{}", answer.text());
    }
    is_well(&server);
}
