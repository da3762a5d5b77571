//! One bad pair loses no good one, on either ledger: not in a stream, not in an array, and not in a flush that it shares with others.

use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::support::postgres;
use crate::support::server::{Server, migrated};
use crate::table::{count, is_well};
use crate::wire::{Answer, get, gzip, post, stream};

/// Runs a test over a ledger in memory and over a real PostgreSQL.
fn on_both_ledgers(test: impl Fn(&Server)) {
    test(&Server::start("sqlite::memory:", &[]));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = runtime.block_on(migrated(postgres::server()));
    test(&Server::start(&url, &[]));
}

fn good(user: &str) -> String {
    json!({"user_id": user, "segment": "kept"}).to_string()
}

/// Bad lines with the problem and the field of each.
fn bad() -> Vec<(Vec<u8>, &'static str, Option<&'static str>)> {
    vec![
        (b"{\"user_id\":\"x\"".to_vec(), "malformed-json", None),
        (b"garbage".to_vec(), "malformed-json", None),
        (
            b"{\"user_id\":\"\xff\",\"segment\":\"kept\"}".to_vec(),
            "malformed-json",
            None,
        ),
        (b"[]".to_vec(), "invalid-field", Some("")),
        (b"null".to_vec(), "invalid-field", Some("")),
        (b"{\"user_id\":\"x\"}".to_vec(), "missing-field", Some("segment")),
        (
            b"{\"user_id\":\"x\",\"segment\":\"kept\",\"at\":1}".to_vec(),
            "unknown-field",
            Some("at"),
        ),
        (
            b"{\"user_id\":\"a\\u0000b\",\"segment\":\"kept\"}".to_vec(),
            "invalid-field",
            Some("user_id"),
        ),
        (
            b"{\"user_id\":\"x\",\"segment\":\"kept\",\"ttl_seconds\":1e400}".to_vec(),
            "invalid-field",
            Some("ttl_seconds"),
        ),
        (
            b"{\"user_id\":\"x\",\"segment\":\"kept\",\"observed_at\":\"3026-01-01T00:00:00Z\"}".to_vec(),
            "invalid-field",
            Some("observed_at"),
        ),
        (
            b"{\"user_id\":\"x\",\"segment\":\"kept\",\"observed_at\":\"9999-12-30T22:00:00.999999999Z\"}".to_vec(),
            "invalid-field",
            Some("observed_at"),
        ),
        (
            [b"{\"user_id\":\"", &[b'x'; 5_000][..], b"\",\"segment\":\"kept\"}"].concat(),
            "body-too-large",
            None,
        ),
    ]
}

/// A good line before, between and behind every bad one.
fn mixed() -> (Vec<u8>, usize) {
    let mut text = Vec::new();
    let bad = bad();
    for (number, (line, _, _)) in bad.iter().enumerate() {
        text.extend_from_slice(good(&format!("u{number}")).as_bytes());
        text.push(b'\n');
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(good(&format!("u{}", bad.len())).as_bytes());
    (text, bad.len() + 1)
}

fn members(server: &Server) -> usize {
    usize::try_from(count(server, "kept")).unwrap()
}

fn judge(answer: &Answer, place: &str, of: impl Fn(usize) -> usize) {
    let totals = answer.json();
    assert_eq!(answer.status, 200, "{totals}");
    let bad = bad();
    let errors = totals["errors"].as_array().unwrap();
    assert_eq!(errors.len(), bad.len(), "{totals}");
    for (number, (error, (line, kind, field))) in errors.iter().zip(&bad).enumerate() {
        let line = String::from_utf8_lossy(line);
        assert_eq!(error[place], of(number), "{line:.100}: {error}");
        assert_eq!(
            error["type"],
            format!("https://segmentcounter.io/problems/{kind}"),
            "{line:.100}: {error}"
        );
        assert_eq!(
            error.get("field").and_then(Value::as_str),
            *field,
            "{line:.100}: {error}"
        );
    }
    // Two of them were read, and refused by the ledger's clock.
    assert_eq!(totals["refused"], 2, "{totals}");
    assert_eq!(totals["invalid"], bad.len() - 2, "{totals}");
}

#[test]
fn good_lines_around_a_bad_one_are_kept() {
    on_both_ledgers(|server| {
        let (text, kept) = mixed();
        let first = stream(&text).send(server.address()).unwrap();
        judge(&first, "line", |number| 2 * number + 2);
        assert_eq!(first.json()["created"], kept, "{}", first.text());
        assert_eq!(members(server), kept);
        // The same however it is cut, ended and compressed.
        let windows = text
            .split(|byte| *byte == b'\n')
            .flat_map(|line| [line, b"\r\n"].concat());
        let windows = stream(windows.collect::<Vec<u8>>()).send(server.address()).unwrap();
        judge(&windows, "line", |number| 2 * number + 2);
        assert_eq!(windows.json()["unchanged"], kept, "{}", windows.text());
        let pieces: Vec<Vec<u8>> = text.chunks(7).map(<[u8]>::to_vec).collect();
        let cut = stream("").chunks(pieces.into_iter()).send(server.address()).unwrap();
        judge(&cut, "line", |number| 2 * number + 2);
        assert_eq!(cut.json()["unchanged"], kept, "{}", cut.text());
        let members: Vec<u8> = text.chunks(1_000).flat_map(gzip).collect();
        let zipped = stream(members).gzip().send(server.address()).unwrap();
        judge(&zipped, "line", |number| 2 * number + 2);
        assert_eq!(self::members(server), kept);
        is_well(server);
    });
}

#[test]
fn good_items_around_a_bad_one_are_kept() {
    on_both_ledgers(|server| {
        // What is no JSON at all breaks the whole array, so only the other lines take part.
        let items: Vec<(Vec<u8>, &str, Option<&str>)> = bad()
            .into_iter()
            .filter(|(_, kind, _)| !matches!(*kind, "malformed-json" | "body-too-large"))
            .collect();
        let mut texts = Vec::new();
        for (number, (item, _, _)) in items.iter().enumerate() {
            texts.push(good(&format!("u{number}")));
            texts.push(String::from_utf8(item.clone()).unwrap());
        }
        texts.push(good("last"));
        let answer = post("/v1/pairs:batch", format!("[{}]", texts.join(",")))
            .send(server.address())
            .unwrap();
        let totals = answer.json();
        assert_eq!(answer.status, 200, "{totals}");
        assert_eq!(totals["created"], items.len() + 1, "{totals}");
        let errors = totals["errors"].as_array().unwrap();
        assert_eq!(errors.len(), items.len());
        for (number, (error, (_, _, field))) in errors.iter().zip(&items).enumerate() {
            assert_eq!(error["index"], 2 * number + 1, "{error}");
            assert_eq!(error.get("field").and_then(Value::as_str), *field, "{error}");
        }
        assert_eq!(members(server), items.len() + 1);
        let broken = format!("[{},{{]", good("never"));
        assert_eq!(
            post("/v1/pairs:batch", broken).send(server.address()).unwrap().status,
            400
        );
        assert_eq!(members(server), items.len() + 1, "a broken array records nothing");
        is_well(server);
    });
}

#[test]
fn a_stream_that_breaks_off_keeps_what_it_brought_and_says_how_much() {
    on_both_ledgers(|server| {
        let text: String = (0..3_000).map(|user| good(&format!("u{user:04}")) + "\n").collect();
        let zipped = gzip(&text);
        for (request, what) in [
            (stream(&zipped[..zipped.len() / 2]).gzip(), "truncated"),
            (
                stream([&zipped[..zipped.len() / 3], &[0xff; 400]].concat()).gzip(),
                "broken in the middle",
            ),
            (stream("").breaks_off(&text[..text.len() / 3]), "broken off"),
        ] {
            let answer = request.send(server.address()).unwrap();
            let problem = answer.json();
            assert_eq!(answer.kind().as_deref(), Some("malformed-body"), "{what}: {problem}");
            let totals = &problem["totals"];
            let good = ["created", "unchanged", "renewed"]
                .map(|one| totals[one].as_u64().unwrap())
                .iter()
                .sum::<u64>();
            assert!(good > 100, "{what}: {problem}");
            let bad = totals["invalid"].as_u64().unwrap();
            assert_eq!(totals["received"], good + bad, "{what}: {problem}");
            assert!(members(server) as u64 >= good);
        }
        let before = members(server);
        assert!(before < 3_000);
        let answer = stream(&zipped).gzip().send(server.address()).unwrap();
        let totals = answer.json();
        assert_eq!(
            totals["created"],
            3_000 - before,
            "all that was said to be in was in: {totals}"
        );
        assert_eq!(members(server), 3_000);
        is_well(server);
    });
}

/// Pairs that are right and odd: the edges of what a name and an instant may be.
fn odd() -> Vec<Value> {
    let mut odd: Vec<Value> = [
        "\u{1}".repeat(0) + "🦀",
        "\u{feff}\u{ffff}\u{10ffff}\u{e000}\u{fdd0}".to_owned(),
        "\u{202e}\u{200b}\u{0301}".to_owned(),
        "é".repeat(64),
        "'; DROP TABLE membership; --".to_owned(),
        "{1,2}\\N\"\\\"".to_owned(),
        "\\u0000 %00 \\x00".to_owned(),
        "NULL".to_owned(),
        "[\"a\",1]".to_owned(),
        "1e309".to_owned(),
    ]
    .iter()
    .flat_map(|name| {
        [
            json!({"user_id": name, "segment": "odd"}),
            json!({"user_id": "u", "segment": name}),
        ]
    })
    .collect();
    for at in [
        "0000-01-01T00:00:00+23:59",
        "0000-01-01T00:00:00.000000001+14:00",
        "0000-01-01T00:00:00Z",
        "1582-10-10T00:00:00Z",
        "1969-12-31T23:59:59.9999999Z",
        "2000-01-01T00:00:00+14:00",
    ] {
        for ttl in [1, 31_536_000] {
            odd.push(json!({"user_id": at, "segment": "odd", "observed_at": at, "ttl_seconds": ttl}));
        }
        odd.push(json!({"user_id": at, "segment": "odd", "observed_at": at}));
    }
    odd
}

#[test]
fn whatever_the_api_takes_the_ledger_takes_and_no_neighbour_suffers() {
    on_both_ledgers(|server| {
        let odd = odd();
        // As an array and as lines.
        let answer = post("/v1/pairs:batch", Value::from(odd.clone()).to_string())
            .send(server.address())
            .unwrap();
        let totals = answer.json();
        assert_eq!((answer.status, &totals["errors"]), (200, &json!([])), "{totals}");
        assert_eq!(totals["received"], odd.len());
        let lines: String = odd.iter().map(|pair| format!("{pair}\n")).collect();
        let again = stream(lines).send(server.address()).unwrap().json();
        assert_eq!(
            (&again["created"], &again["errors"]),
            (&json!(0), &json!([])),
            "{again}"
        );
        // One by one from many connections, so that they share flushes with good ones.
        let odd = Arc::new(odd);
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (address, odd) = (server.address().to_owned(), Arc::clone(&odd));
                thread::spawn(move || {
                    for (number, pair) in odd.iter().enumerate() {
                        let body = if (number + client) % 2 == 0 {
                            pair.to_string()
                        } else {
                            good(&format!("{client}-{number}"))
                        };
                        let answer = post("/v1/pairs", body).send(&address).unwrap();
                        assert_eq!(answer.status, 200, "{pair}: {}", answer.text());
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        assert_eq!(members(server), 8 * odd.len() / 2);
        let page = get("/v1/segments?limit=1000").send(server.address()).unwrap();
        assert_eq!(page.status, 200, "{}", page.text());
        is_well(server);
    });
}
