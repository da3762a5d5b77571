//! JSON whose fields cannot be: wrong types, unknown and missing ones, values out of bounds.

use serde_json::json;

use crate::server;
use crate::table::{Row, hold, is_well, row};
use crate::wire::{post, put};

fn pairs() -> Vec<Row> {
    let pair = |what: &str, body: &str, kind: &'static str, field: &'static str| {
        row(format!("pair: {what}"), post("/v1/pairs", body), 422, kind).at(field)
    };
    let with = |member: &str| format!(r#"{{"user_id":"u","segment":"s",{member}}}"#);
    let mut rows = vec![
        pair("nothing", "{}", "missing-field", "user_id"),
        pair("no segment", r#"{"user_id":"u"}"#, "missing-field", "segment"),
        pair("no user", r#"{"segment":"s"}"#, "missing-field", "user_id"),
        pair(
            "user null",
            r#"{"user_id":null,"segment":"s"}"#,
            "invalid-field",
            "user_id",
        ),
        pair(
            "user a number",
            r#"{"user_id":5,"segment":"s"}"#,
            "invalid-field",
            "user_id",
        ),
        pair(
            "user a list",
            r#"{"user_id":["u"],"segment":"s"}"#,
            "invalid-field",
            "user_id",
        ),
        pair(
            "segment an object",
            r#"{"user_id":"u","segment":{"a":1}}"#,
            "invalid-field",
            "segment",
        ),
        pair(
            "segment true",
            r#"{"user_id":"u","segment":true}"#,
            "invalid-field",
            "segment",
        ),
        pair("another spelling", &with(r#""userId":"u""#), "unknown-field", "userId"),
        pair(
            "another case",
            r#"{"User_id":"u","segment":"s"}"#,
            "unknown-field",
            "User_id",
        ),
        pair("an empty key", &with(r#""":1"#), "unknown-field", ""),
        pair("a key with quotes", &with(r#""a`b":1"#), "unknown-field", "a`b"),
        pair("a key with a dot", &with(r#""a.b":1"#), "unknown-field", "a.b"),
        pair("a prototype", &with(r#""__proto__":{}"#), "unknown-field", "__proto__"),
        pair("user twice", &with(r#""user_id":"v""#), "invalid-field", "user_id"),
        pair(
            "ttl twice",
            &with(r#""ttl_seconds":60,"ttl_seconds":60"#),
            "invalid-field",
            "ttl_seconds",
        ),
    ];
    let deep = format!(r#"{{"user_id":{}"u"{}}}"#, "[".repeat(1_900), "]".repeat(1_900));
    rows.push(pair("a user 1,900 levels down", &deep, "invalid-field", "user_id"));
    let deep = with(&format!(
        "\"deep\":{}{}",
        "{\"a\":".repeat(600),
        "1".to_owned() + &"}".repeat(600)
    ));
    rows.push(pair("an unknown field 600 levels deep", &deep, "unknown-field", "deep"));
    for ttl in [
        "0",
        "-1",
        "-9223372036854775808",
        "1000000001",
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999999",
        "1.5",
        "60.0",
        "1e3",
        "1e400",
        "-1e400",
        "\"60\"",
        "true",
        "[]",
        "{}",
    ] {
        rows.push(pair(
            &format!("ttl {ttl}"),
            &with(&format!("\"ttl_seconds\":{ttl}")),
            "invalid-field",
            "ttl_seconds",
        ));
    }
    // With the default resolution of a minute so long a window would weigh too much.
    rows.push(pair(
        "ttl of 19 years",
        &with("\"ttl_seconds\":600000060"),
        "invalid-field",
        "ttl_seconds",
    ));
    for at in [
        "\"\"",
        "\"now\"",
        "\"2026-01-31\"",
        "\"2026-01-31T12:00:00\"",
        "\"2026-13-01T00:00:00Z\"",
        "\"2026-02-30T00:00:00Z\"",
        "\"2026-01-31T25:00:00Z\"",
        "\"1767225600\"",
        "1767225600",
        "1767225600.5",
        "true",
        "[]",
        "{}",
        "\"9999-12-31T23:59:59Z\"",
        "\"10000-01-01T00:00:00Z\"",
        "\"+292278994-08-17T07:12:55Z\"",
        "\"-10000-01-01T00:00:00Z\"",
        "\"2026-01-31T12:00:00Z\\u0000\"",
        "\"3026-01-31T12:00:00Z\"",
        "\"9999-12-30T22:00:00.999999999Z\"",
    ] {
        rows.push(pair(
            &format!("observed {at}"),
            &with(&format!("\"observed_at\":{at}")),
            "invalid-field",
            "observed_at",
        ));
    }
    rows
}

fn settings() -> Vec<Row> {
    let put = |what: &str, body: &str, kind: &'static str, field: &'static str| {
        row(format!("put: {what}"), put("/v1/segments/s", body), 422, kind).at(field)
    };
    let mut rows = vec![
        put("an unknown field", r#"{"window":60}"#, "unknown-field", "window"),
        put("its name again", r#"{"segment":"s"}"#, "unknown-field", "segment"),
        put(
            "a window of text",
            r#"{"window_seconds":"60"}"#,
            "invalid-field",
            "window_seconds",
        ),
        put(
            "a window twice",
            r#"{"window_seconds":60,"window_seconds":60}"#,
            "invalid-field",
            "window_seconds",
        ),
        put(
            "a description that is a number",
            r#"{"description":5}"#,
            "invalid-field",
            "description",
        ),
        put(
            "a description with a bell",
            r#"{"description":"\u0007"}"#,
            "invalid-field",
            "description",
        ),
        put(
            "a description with a NUL",
            r#"{"description":"a\u0000"}"#,
            "invalid-field",
            "description",
        ),
    ];
    for window in ["0", "-60", "1000000001", "1e400", "60.5"] {
        rows.push(put(
            window,
            &format!(r#"{{"window_seconds":{window}}}"#),
            "invalid-field",
            "window_seconds",
        ));
    }
    let long = json!({"description": "é".repeat(513)}).to_string();
    rows.push(put(
        "a description of 1,026 bytes",
        &long,
        "invalid-field",
        "description",
    ));
    rows
}

fn counts() -> Vec<Row> {
    let counts = |what: &str, body: &str, kind: &'static str, field: &'static str| {
        row(format!("counts: {what}"), post("/v1/counts", body), 422, kind).at(field)
    };
    let mut rows = vec![
        counts("nothing", "{}", "missing-field", "segments"),
        counts("null", r#"{"segments":null}"#, "invalid-field", "segments"),
        counts("one name", r#"{"segments":"s"}"#, "invalid-field", "segments"),
        counts(
            "a number among them",
            r#"{"segments":["s",5]}"#,
            "invalid-field",
            "segments[1]",
        ),
        counts(
            "a list among them",
            r#"{"segments":["s","t",["u"]]}"#,
            "invalid-field",
            "segments[2]",
        ),
        counts(
            "an unknown field",
            r#"{"segments":[],"staleness":0}"#,
            "unknown-field",
            "staleness",
        ),
        counts(
            "segments twice",
            r#"{"segments":[],"segments":[]}"#,
            "invalid-field",
            "segments",
        ),
    ];
    for staleness in ["-1", "60001", "1.5", "1e400", "\"0\"", "18446744073709551616"] {
        let body = format!(r#"{{"segments":["s"],"max_staleness_ms":{staleness}}}"#);
        rows.push(counts(staleness, &body, "invalid-field", "max_staleness_ms"));
    }
    let many = json!({"segments": vec!["s"; 1_001]}).to_string();
    rows.push(row("counts: 1,001", post("/v1/counts", many), 413, "too-many-items").at("segments"));
    rows
}

#[test]
fn what_no_field_may_hold_is_refused_by_name() {
    let rows = pairs().into_iter().chain(settings()).chain(counts());
    hold(&server(), rows);
}

#[test]
fn what_looks_wrong_and_is_right_is_taken() {
    let server = server();
    let long = json!({"segments": vec!["is-well"; 1_000]}).to_string();
    is_well(&server);
    for (request, status) in [
        (
            post("/v1/pairs", " \r\n{\"segment\" : \"s\" , \"user_id\":\"u\"}\n "),
            200,
        ),
        (post("/v1/pairs", r#"{"user_id":"\ud83e\udd80","segment":"s"}"#), 200),
        (
            post(
                "/v1/pairs",
                r#"{"user_id":"u","segment":"s","observed_at":null,"ttl_seconds":null}"#,
            ),
            200,
        ),
        (
            post("/v1/pairs", r#"{"user_id":"u","segment":"s","ttl_seconds":1}"#),
            200,
        ),
        (
            post("/v1/pairs", r#"{"user_id":"u","segment":"s","ttl_seconds":31536000}"#),
            200,
        ),
        (
            post(
                "/v1/pairs",
                r#"{"user_id":"u","segment":"s","observed_at":"1969-12-31T23:59:59.999999999Z"}"#,
            ),
            200,
        ),
        (
            post(
                "/v1/pairs",
                r#"{"user_id":"u","segment":"s","observed_at":"0000-01-01T00:00:00+14:00"}"#,
            ),
            200,
        ),
        (
            post("/v1/pairs", "{\"user_id\":\"u\",\"segment\":\"s\"}").header("X-Request-Id", "mine"),
            200,
        ),
        (post("/v1/pairs:batch", "[]"), 200),
        (post("/v1/counts", r#"{"segments":[]}"#), 200),
        (post("/v1/counts", long), 200),
        (put("/v1/segments/s", "{}"), 200),
        (
            put("/v1/segments/t", r#"{"window_seconds":60,"description":"a\nb\tc"}"#),
            201,
        ),
    ] {
        let (method, path) = (request.method.clone(), request.path.clone());
        let answer = request.send(server.address()).unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    is_well(&server);
}
