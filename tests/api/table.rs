//! What a table of bad requests is held to, row by row: the promised status, problem and field; and afterwards a server that is as well
//! as before.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::server::Server;
use crate::wire::{Answer, Request, get, post};

/// What a debug build may ever hold, whatever is sent to it: the budget of all bodies (64 MiB), twice for a buffer that grows, and room.
pub const MOST_MIB: u64 = 256;

/// A bad request and what it must be answered with.
pub struct Row {
    what: String,
    request: Request,
    status: u16,
    kind: &'static str,
    field: Option<&'static str>,
}

/// A row whose problem names no field.
pub fn row(what: impl Into<String>, request: Request, status: u16, kind: &'static str) -> Row {
    Row {
        what: what.into(),
        request,
        status,
        kind,
        field: None,
    }
}

impl Row {
    /// The same with the field at fault; `""` stands for the whole body.
    pub fn at(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }
}

/// Sends every row and tells of all that were answered otherwise at once.
pub fn hold(server: &Server, rows: impl IntoIterator<Item = Row>) {
    let document = openapi(server);
    let mut wrong = String::new();
    let mut held = 0;
    for row in rows {
        let (method, path) = (row.request.method.clone(), row.request.path.clone());
        let answer = row.request.send(server.address());
        let verdict = match &answer {
            None => Err("the connection was closed without an answer".to_owned()),
            Some(answer) => judge(answer, row.status, row.kind, row.field)
                .and_then(|()| documented(&document, &method, &path, answer.status)),
        };
        if let Err(why) = verdict {
            let body = answer.map(|answer| format!("{} {}", answer.status, answer.text()));
            let _ = writeln!(wrong, "{} ({method} {path:.80}): {why}: {body:.600?}", row.what);
        }
        held += 1;
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(held > 0);
    is_well(server);
}

fn judge(answer: &Answer, status: u16, kind: &str, field: Option<&str>) -> Result<(), String> {
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    check(answer.status == status, &format!("{status} was promised"))?;
    check(
        answer.header("content-type") == Some("application/problem+json"),
        "it is no application/problem+json",
    )?;
    check(answer.kind().as_deref() == Some(kind), &format!("{kind} was promised"))?;
    let body = answer.json();
    check(body["status"] == status, "the body's status is another one")?;
    check(
        body.get("field").and_then(Value::as_str) == field,
        &format!("the field {field:?} was promised"),
    )?;
    let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
    check(
        !text("title").is_empty() && !text("detail").is_empty(),
        "it explains nothing",
    )?;
    check(text("detail").len() <= 1_300, "it repeats what was sent")?;
    check(answer.header("x-request-id").is_some(), "no request id")?;
    check(
        status != 503 || answer.header("retry-after").is_some(),
        "no Retry-After",
    )
}

/// That the served document tells of this status. What is no route, and a method that a route does not have, stands in none.
pub fn documented(document: &Value, method: &str, path: &str, status: u16) -> Result<(), String> {
    if matches!(status, 405) || (status == 404 && operation(document, method, path).is_none()) {
        return Ok(());
    }
    let Some(operation) = operation(document, method, path) else {
        return Err(format!("{method} {path} is not in the document"));
    };
    if operation["responses"].get(status.to_string()).is_some() {
        Ok(())
    } else {
        Err(format!("{status} is not documented"))
    }
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let wanted: Vec<&str> = template.split('/').collect();
        // The last part of a route's path is never empty.
        wanted.len() == parts.len()
            && parts.last() != Some(&"")
            && wanted
                .iter()
                .zip(&parts)
                .all(|(wanted, part)| wanted == part || wanted.starts_with('{'))
    };
    let paths = document["paths"].as_object()?;
    let (_, item) = paths.iter().find(|(template, _)| fits(template))?;
    item.get(method.to_ascii_lowercase())
}

pub fn openapi(server: &Server) -> Value {
    get("/openapi.json")
        .send(server.address())
        .expect("the document")
        .json()
}

/// Alive, recording and counting; nothing panicked, nothing was a defect, and memory stayed within bounds.
pub fn is_well(server: &Server) {
    let recorded = post("/v1/pairs", r#"{"user_id": "well", "segment": "is-well"}"#)
        .send(server.address())
        .expect("an answer");
    assert_eq!(recorded.status, 200, "{}", recorded.text());
    assert_eq!(count(server, "is-well"), 1);
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    let defects = log.lines().filter(|line| line.contains("status=500")).count();
    assert_eq!(defects, 0, "{log}");
    let peak = server.peak_mib();
    assert!(peak <= MOST_MIB, "{peak} MiB");
}

/// The ledger's own count.
pub fn count(server: &Server, segment: &str) -> i64 {
    let answer = get(&format!("/v1/segments/{segment}/count?max_staleness_ms=0"))
        .send(server.address())
        .expect("an answer");
    answer.json()["count"]
        .as_i64()
        .unwrap_or_else(|| panic!("{}", answer.text()))
}
