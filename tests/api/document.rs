//! What is written is what is served: the OpenAPI document, the problems and the examples of docs/api.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use segment_counter::api::{ProblemKind, openapi};
use serde_json::Value;

use crate::server;
use crate::table::is_well;
use crate::wire::{get, gzip};

const PAGE: &str = include_str!("../../docs/api.md");

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let document = serde_json::to_value(openapi()).unwrap();
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is not what the code says: run `make generated`"
    );
    let server = server();
    let served = get("/openapi.json").send(server.address()).unwrap();
    assert_eq!(served.header("content-type"), Some("application/json"));
    assert_eq!(served.json(), document);
    let page = get("/docs").send(server.address()).unwrap();
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(
            page.text().contains(&format!("<code>{path}</code>")),
            "/docs lacks {path}"
        );
    }
    is_well(&server);
}

#[test]
fn every_route_of_the_page_is_in_the_document_and_the_other_way_round() {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(scope) = operation["security"][0]["token"][0].as_str() else {
                continue;
            };
            documented.insert((format!("{} {path}", method.to_uppercase()), scope.to_owned()));
        }
    }
    let mut written = BTreeSet::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let Some(scope) = cells.get(1).map(|cell| cell.trim_matches('`')) else {
            continue;
        };
        for call in cells[0].trim_start_matches("| ").split(", ") {
            let call = call.trim_matches('`');
            if call.contains(" /v1/") {
                written.insert((call.to_owned(), scope.to_owned()));
            }
        }
    }
    assert_eq!(written, documented);
}

#[test]
fn every_operation_tells_of_what_may_refuse_it() {
    let document = serde_json::to_value(openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            let has = |status: &str| responses.contains_key(status);
            if path.starts_with("/v1") {
                assert!(["401", "403", "422", "500"].into_iter().all(has), "{what}");
            }
            if operation.get("requestBody").is_some() {
                assert!(["400", "408", "413", "415", "503"].into_iter().all(has), "{what}");
            }
            if path.contains('{') {
                assert!(has("400"), "{what}");
            }
            for (status, response) in responses {
                assert!(!response["description"].as_str().unwrap().is_empty());
                if status.starts_with(['4', '5']) {
                    let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{what} {status}");
                }
            }
        }
    }
}

#[test]
fn every_problem_of_the_page_is_one_of_the_code_and_the_other_way_round() {
    let section = PAGE.split("\n## Problems\n").nth(1).unwrap();
    let written: BTreeSet<(String, u16)> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some((cells.next()?.trim_matches('`').to_owned(), cells.next()?.parse().ok()?))
        })
        .collect();
    let known: BTreeSet<(String, u16)> = ProblemKind::ALL
        .iter()
        .map(|kind| {
            (
                kind.address().rsplit('/').next().unwrap().to_owned(),
                kind.status().as_u16(),
            )
        })
        .collect();
    assert_eq!(written, known);
    // And each of them is sent somewhere: a type that nothing sends is a promise about nothing.
    let mut sources = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api"), &mut sources);
    for kind in ProblemKind::ALL {
        assert!(sources.contains(&format!("Kind::{kind:?}")), "nothing sends {kind:?}");
    }
}

/// The sources but for the list of types itself.
fn read(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, into);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            // `Self::…` there, `Kind::…` where one is made.
            into.push_str(text.split("#[cfg(test)]").next().unwrap());
        }
    }
}

/// The commands of a page's `sh` blocks that call the API at its usual address.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    blocks
        .flat_map(str::lines)
        .filter(|line| line.contains("curl "))
        .collect()
}

#[test]
fn every_command_of_the_page_works_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let pairs =
        "{\"user_id\":\"u-2\",\"segment\":\"shop/checkout\"}\n{\"user_id\":\"u-3\",\"segment\":\"shop/checkout\"}\n";
    std::fs::write(folder.path().join("pairs.ndjson.gz"), gzip(pairs)).unwrap();
    std::fs::write(folder.path().join(".curlrc"), "fail-with-body\nsilent\nshow-error\n").unwrap();
    let readme = include_str!("../../README.md");
    let mut answers = Vec::new();
    let server = server();
    for command in commands(PAGE).into_iter().chain(commands(readme)) {
        let here = command
            .replace("127.0.0.1:8080", server.address())
            .replace("localhost:8080", server.address());
        assert_ne!(here, command, "a command that calls nobody: {command}");
        let output = Command::new("bash")
            .args(["-o", "pipefail", "-c", &here])
            .current_dir(folder.path())
            .env("CURL_HOME", folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{command}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        answers.push(serde_json::from_str::<Value>(&said).unwrap_or_else(|error| panic!("{command}: {error}: {said}")));
    }
    assert!(answers.len() >= 5, "{answers:?}");
    assert_eq!(
        (&answers[0]["status"], &answers[1]["count"], &answers[2]["created"]),
        (&"created".into(), &1.into(), &2.into())
    );
    is_well(&server);
}

#[test]
fn every_json_of_the_page_is_json() {
    let blocks: Vec<&str> = PAGE
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        serde_json::from_str::<Value>(block).unwrap_or_else(|error| panic!("{error}: {block}"));
    }
}
