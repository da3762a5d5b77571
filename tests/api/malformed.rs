//! What is no JSON at all, or no object.

use crate::server;
use crate::table::{Row, hold, row};
use crate::wire::{post, put};

/// Bodies that are no JSON object; `TEXT` stands for a field that holds a text, `NUMBER` for one that holds a number.
const NO_OBJECT: [(&str, &[u8]); 14] = [
    ("empty", b""),
    ("blank", b" \r\n\t "),
    ("broken", b"{"),
    ("a comma too many", b"{\"TEXT\":\"u\",}"),
    ("single quotes", b"{'TEXT':'u'}"),
    ("cut in a string", b"{\"TEXT\":\"u"),
    ("a byte order mark", b"\xef\xbb\xbf{}"),
    ("UTF-16", b"\xff\xfe{\0}\0"),
    ("no UTF-8 in a text", b"{\"TEXT\":\"\xff\"}"),
    ("half a surrogate", b"{\"TEXT\":\"\\ud800\"}"),
    ("a raw line end in a text", b"{\"TEXT\":\"a\nb\"}"),
    ("a number that is none", b"{\"NUMBER\":0x10}"),
    ("NaN", b"{\"NUMBER\":NaN}"),
    ("a comment", b"/* */ {}"),
];

/// `template` with its fields named as a route names them.
fn fill(template: &[u8], text: &str, number: &str) -> Vec<u8> {
    let mut body = template.to_vec();
    for (word, name) in [("TEXT", text), ("NUMBER", number)] {
        if let Some(at) = body.windows(word.len()).position(|part| part == word.as_bytes()) {
            body.splice(at..at + word.len(), name.bytes());
        }
    }
    body
}

fn no_json() -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, template) in NO_OBJECT {
        let pair = post("/v1/pairs", fill(template, "user_id", "ttl_seconds"));
        rows.push(row(format!("pair: {what}"), pair, 400, "malformed-json"));
        let settings = put("/v1/segments/s", fill(template, "description", "window_seconds"));
        rows.push(row(format!("put: {what}"), settings, 400, "malformed-json"));
    }
    for (what, body) in [
        ("empty", ""),
        ("cut", "{\"segments\":["),
        ("a comma too many", "{\"segments\":[\"s\",]}"),
        ("half a surrogate", "{\"segments\":[\"\\ud800\"]}"),
        ("text behind it", "{\"segments\":[\"s\"]} x"),
    ] {
        rows.push(row(
            format!("counts: {what}"),
            post("/v1/counts", body),
            400,
            "malformed-json",
        ));
    }
    let two = r#"{"user_id":"u","segment":"s"} {}"#;
    rows.push(row("two objects", post("/v1/pairs", two), 400, "malformed-json"));
    for (what, body) in [
        ("an array", "[]"),
        ("a number", "5"),
        ("a string", "\"u\""),
        ("null", "null"),
        ("true", "true"),
    ] {
        for request in [
            post("/v1/pairs", body),
            post("/v1/counts", body),
            put("/v1/segments/s", body),
        ] {
            rows.push(row(what, request, 422, "invalid-field").at(""));
        }
    }
    for (what, body) in [
        ("an object", "{}"),
        ("a number", "5"),
        ("a string", "\"[]\""),
        ("null", "null"),
    ] {
        rows.push(
            row(
                format!("batch: {what}"),
                post("/v1/pairs:batch", body),
                422,
                "invalid-field",
            )
            .at(""),
        );
    }
    for (what, body) in [
        ("empty", ""),
        ("blank", "  \n"),
        ("unclosed", r#"[{"user_id":"u","segment":"s"}"#),
        ("cut in a string", r#"[{"user_id":"u","segment":"s"#),
        ("a comma too many", r#"[{"user_id":"u","segment":"s"},]"#),
        ("no comma", r#"[{"user_id":"u","segment":"s"} {}]"#),
        ("text behind it", r#"[{"user_id":"u","segment":"s"}] x"#),
        ("a line of NDJSON", "[]\n[]"),
    ] {
        rows.push(row(
            format!("batch: {what}"),
            post("/v1/pairs:batch", body),
            400,
            "malformed-json",
        ));
    }
    rows
}

#[test]
fn what_is_no_json_is_refused_and_told_where() {
    let server = server();
    hold(&server, no_json());
    let answer = post("/v1/pairs", "{\n  \"user_id\": }").send(server.address()).unwrap();
    let place = answer.json();
    assert_eq!((&place["line"], &place["column"]), (&2.into(), &14.into()), "{place}");
}
