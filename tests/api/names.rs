//! Names of users and segments, in bodies, paths and queries.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::server;
use crate::table::{Row, count, hold, row};
use crate::wire::{get, post, put, request};

const SEGMENT_ROUTES: [(&str, &str); 3] = [("GET", "/count"), ("GET", ""), ("PUT", "")];

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// Names that no user and no segment may have, each with why.
fn bad() -> Vec<(&'static str, String)> {
    vec![
        ("129 bytes", "x".repeat(129)),
        ("65 characters of two bytes", "é".repeat(65)),
        ("33 characters of four bytes", "🦀".repeat(33)),
        ("NUL", "a\0b".to_owned()),
        ("a line end", "a\nb".to_owned()),
        ("a carriage return at the end", "a\r".to_owned()),
        ("an escape", "\u{1b}[31m".to_owned()),
        ("DEL", "a\u{7f}".to_owned()),
        ("a C1 control", "a\u{85}b".to_owned()),
    ]
}

/// Names that anybody may have.
fn good() -> Vec<String> {
    vec![
        "x".repeat(128),
        "é".repeat(64),
        "🦀".repeat(32),
        "owner/repo:dir".to_owned(),
        "owner/repo:.".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        " ".to_owned(),
        "a b+c%20d&e=f?g#h".to_owned(),
        "%".to_owned(),
        "\"'\\`;--".to_owned(),
        "日本語 ü \u{200f}\u{feff}\u{ffff}\u{10ffff}".to_owned(),
        "[1]".to_owned(),
        "null".to_owned(),
        "count".to_owned(),
    ]
}

#[test]
fn a_name_that_cannot_be_is_refused_wherever_it_stands() {
    let mut rows: Vec<Row> = Vec::new();
    for (why, name) in bad().into_iter().chain([("empty", String::new())]) {
        let body = |user: &str, segment: &str| json!({"user_id": user, "segment": segment}).to_string();
        rows.push(
            row(
                format!("user: {why}"),
                post("/v1/pairs", body(&name, "s")),
                422,
                "invalid-field",
            )
            .at("user_id"),
        );
        rows.push(
            row(
                format!("segment: {why}"),
                post("/v1/pairs", body("u", &name)),
                422,
                "invalid-field",
            )
            .at("segment"),
        );
        let many = json!({"segments": ["s", name]}).to_string();
        rows.push(row(format!("counts: {why}"), post("/v1/counts", many), 422, "invalid-field").at("segments[1]"));
        let after = format!("/v1/segments?after={}", encoded(&name));
        rows.push(row(format!("after: {why}"), get(&after), 422, "invalid-field").at("after"));
        for (method, tail) in SEGMENT_ROUTES {
            let path = format!("/v1/segments/{}{tail}", encoded(&name));
            let asked = if method == "PUT" { put(&path, "{}") } else { get(&path) };
            let what = format!("{method} {tail}: {why}");
            rows.push(if name.is_empty() && tail.is_empty() {
                row(what, asked, 404, "not-found")
            } else {
                row(what, asked, 422, "invalid-field").at("segment")
            });
        }
    }
    for (what, text) in [("no UTF-8", "%ff"), ("cut short", "a%c3"), ("a surrogate", "%ed%a0%80")] {
        for (method, tail) in SEGMENT_ROUTES {
            let asked =
                request(method, &format!("/v1/segments/{text}{tail}")).header("Content-Type", "application/json");
            rows.push(
                row(
                    format!("{method} {tail}: {what}"),
                    asked.body("{}"),
                    400,
                    "malformed-path",
                )
                .at("segment"),
            );
        }
        let after = format!("/v1/segments?after={text}");
        rows.push(row(format!("after: {what}"), get(&after), 422, "invalid-field").at("after"));
    }
    // Taken literally they would name the same segment as their proper encoding: two paths for one thing, one of them a mistake.
    for text in ["%", "a%", "%4", "%zz", "a%2", "%u0041"] {
        let what = format!("broken encoding {text}");
        rows.push(
            row(
                &*what,
                get(&format!("/v1/segments/{text}/count")),
                400,
                "malformed-path",
            )
            .at("segment"),
        );
        rows.push(row(&*what, get(&format!("/v1/segments?after={text}")), 422, "invalid-field").at("after"));
    }
    hold(&server(), rows);
}

#[test]
fn any_printable_name_of_128_bytes_is_taken_and_found_again() {
    let server = server();
    for (index, name) in good().iter().enumerate() {
        let path = format!("/v1/segments/{}", encoded(name));
        let unknown = get(&format!("{path}/count")).send(server.address()).unwrap();
        assert_eq!(unknown.kind().as_deref(), Some("segment-not-found"), "{name:?}");
        let body = json!({"user_id": name, "segment": name}).to_string();
        let answer = post("/v1/pairs", body).send(server.address()).unwrap();
        assert_eq!(answer.status, 200, "{name:?}: {}", answer.text());
        assert_eq!(count(&server, &encoded(name)), 1, "{name:?}");
        let answer = put(&path, "{}").send(server.address()).unwrap();
        assert_eq!(answer.json()["segment"], **name, "{}", answer.text());
        let answer = get(&path).send(server.address()).unwrap();
        assert_eq!(answer.json()["segment"], **name);
        // After the one before it in the order of bytes it comes first.
        let mut before: Vec<&String> = good_before(name, index);
        before.sort();
        let page = get(&format!(
            "/v1/segments?limit=1{}",
            before
                .last()
                .map_or(String::new(), |last| format!("&after={}", encoded(last)))
        ));
        let page = page.send(server.address()).unwrap().json();
        assert_eq!(page["segments"][0]["segment"], **name, "{page}");
    }
    let asked = json!({"segments": good(), "max_staleness_ms": 0}).to_string();
    let counts = post("/v1/counts", asked).send(server.address()).unwrap().json();
    assert_eq!(counts["counts"].as_array().unwrap().len(), good().len(), "{counts}");
    assert_eq!(counts["missing"], json!([]));
}

/// Of the names made so far those that sort before `name`.
fn good_before(name: &str, made: usize) -> Vec<&'static String> {
    static GOOD: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    GOOD.get_or_init(good)[..made]
        .iter()
        .filter(|other| other.as_str() < name)
        .collect()
}

#[test]
fn a_raw_name_in_a_path_needs_no_encoding_where_it_is_plain() {
    let server = server();
    for (raw, name) in [
        ("owner:dir", "owner:dir"),
        ("a+b", "a+b"),
        ("a;b=c", "a;b=c"),
        ("~.-_", "~.-_"),
    ] {
        let body = json!({"user_id": "u", "segment": name}).to_string();
        assert_eq!(post("/v1/pairs", body).send(server.address()).unwrap().status, 200);
        assert_eq!(count(&server, raw), 1, "{raw}");
    }
}
