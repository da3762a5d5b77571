//! Pairs in all three ways of sending them, against the judge.

use std::cell::Cell;

use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::api::{Answer, Api};
use crate::cases;
use crate::judge::{self, MAX_PAIR_BYTES, Verdict};
use crate::shapes::{broken, item, pair, pieces};

/// How a single one is answered: taken, refused by the rules, or good and refused by the ledger.
fn single(answer: &Answer) -> Verdict {
    match (answer.status.as_u16(), answer.kind()) {
        (200, None) => Verdict::Taken,
        // Observed in the future; one segment too many.
        (422, Some("invalid-field")) if answer.json["detail"].as_str().unwrap().contains("ahead") => Verdict::Taken,
        (409, Some("segment-limit")) => Verdict::Taken,
        (400 | 413 | 422, Some(_)) => Verdict::Refused,
        other => panic!("{other:?}: {}", answer.json),
    }
}

#[test]
fn a_pair_is_taken_exactly_where_the_rules_take_it() {
    let (api, taken, refused) = (Api::new(), Cell::new(0_u32), Cell::new(0_u32));
    proptest!(cases(1_500), |(body in item(), padding in prop_oneof![9 => Just(0_usize), 1 => 3_900..4_200_usize])| {
        let mut body = body;
        body.resize(body.len() + padding, b' ');
        let answer = api.json("POST", "/v1/pairs", &body);
        let verdict = if body.len() > MAX_PAIR_BYTES { Verdict::Refused } else { judge::pair(&body) };
        if verdict != Verdict::Open {
            prop_assert_eq!(single(&answer), verdict, "{}: {}", String::from_utf8_lossy(&body), answer.json);
            let seen = if verdict == Verdict::Taken { &taken } else { &refused };
            seen.set(seen.get() + 1);
        }
    });
    // Noise alone would be refused at its first byte, and show nothing.
    let (taken, refused) = (taken.get(), refused.get());
    assert!(
        taken > refused / 10 && refused > taken / 10,
        "{taken} taken, {refused} refused"
    );
}

/// What the totals of a batch must be.
struct Expected {
    received: u64,
    invalid: std::ops::RangeInclusive<u64>,
    places: Vec<u64>,
    open: bool,
}

fn expect(items: &[(u64, Verdict)]) -> Expected {
    let count = |wanted| items.iter().filter(|(_, verdict)| *verdict == wanted).count() as u64;
    let (refused, open) = (count(Verdict::Refused), count(Verdict::Open));
    Expected {
        received: items.len() as u64,
        invalid: refused..=refused + open,
        places: items
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Refused)
            .map(|(place, _)| *place)
            .collect(),
        open: open > 0,
    }
}

fn check(totals: &Value, place: &str, expected: &Expected) -> Result<(), TestCaseError> {
    let number = |name: &str| totals[name].as_u64().unwrap();
    prop_assert_eq!(number("received"), expected.received, "{}", totals);
    prop_assert!(
        expected.invalid.contains(&number("invalid")),
        "{:?}: {}",
        expected.invalid,
        totals
    );
    let good: u64 = ["created", "renewed", "unchanged", "ignored", "refused"]
        .iter()
        .map(|name| number(name))
        .sum();
    prop_assert_eq!(good + number("invalid"), expected.received, "{}", totals);
    let errors = totals["errors"].as_array().unwrap();
    prop_assert!(errors.len() <= 100);
    if number("refused") == 0 && !expected.open {
        let places: Vec<u64> = errors.iter().map(|error| error[place].as_u64().unwrap()).collect();
        let first: Vec<u64> = expected.places.iter().copied().take(100).collect();
        prop_assert_eq!(places, first, "{}", totals);
    }
    Ok(())
}

/// The lines of a body as the rules count them: blank ones have a number and are no pairs.
fn judged_lines(body: &[u8]) -> Vec<(u64, Verdict)> {
    (1..)
        .zip(body.split(|byte| *byte == b'\n'))
        .filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace) || line.len() > MAX_PAIR_BYTES)
        .map(|(number, line)| match line.len() {
            0..=MAX_PAIR_BYTES => (number, judge::pair(line)),
            _ => (number, Verdict::Refused),
        })
        .collect()
}

/// A line, or something that is longer than one may be.
fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => item(),
        1 => Just(Vec::new()),
        1 => Just(b" \t\r".to_vec()),
        1 => (4_000..9_000_usize, select(b"x \"{".to_vec())).prop_map(|(length, byte)| vec![byte; length]),
        1 => (pair(), 3_800..4_300_usize).prop_map(|(text, length)| format!("{text:<length$}").into_bytes()),
    ]
}

fn lines() -> impl Strategy<Value = Vec<u8>> {
    (vec(line(), 0..12), any::<bool>(), any::<bool>()).prop_map(|(lines, returns, ended)| {
        let end: &[u8] = if returns { b"\r\n" } else { b"\n" };
        let mut body = lines.join(end);
        if ended {
            body.extend_from_slice(end);
        }
        body
    })
}

fn encoded(body: &[u8], encoding: &str) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut bytes = Vec::new();
    runtime
        .block_on(async {
            match encoding {
                "gzip" => GzipEncoder::new(body).read_to_end(&mut bytes).await,
                "zstd" => ZstdEncoder::new(body).read_to_end(&mut bytes).await,
                _ => {
                    bytes.extend_from_slice(body);
                    Ok(0)
                }
            }
        })
        .unwrap();
    bytes
}

fn send_lines(api: &Api, encoding: &str, pieces: Vec<Bytes>) -> Answer {
    let headers = [("content-type", "application/x-ndjson"), ("content-encoding", encoding)];
    api.send("POST", b"/v1/pairs:batch", &headers, pieces).unwrap()
}

#[test]
fn lines_are_taken_one_by_one_however_they_are_cut_and_packed() {
    let api = Api::new();
    proptest!(cases(600), |(body in lines(), encoding in select(vec!["identity", "gzip", "zstd"]), cuts in vec(any::<Index>(), 0..8))| {
        let packed = encoded(&body, encoding);
        let answer = send_lines(&api, encoding, pieces(&packed, &cuts));
        prop_assert_eq!(answer.status.as_u16(), 200, "{}", answer.json);
        check(&answer.json, "line", &expect(&judged_lines(&body)))?;
    });
}

#[test]
fn a_stream_whose_packing_is_broken_counts_what_came_out_of_it() {
    let api = Api::new();
    let packed = (lines(), select(vec!["gzip", "zstd"]));
    let slips = vec((any::<Index>(), any::<u8>()), 0..3);
    proptest!(cases(400), |((body, encoding) in packed, slips in slips, cut in any::<Index>(), noise in vec(any::<u8>(), 0..20), raw in any::<bool>())| {
        let mut bytes = if raw { noise.clone() } else { encoded(&body, encoding) };
        for (place, byte) in slips {
            if !bytes.is_empty() {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if !raw {
            bytes.extend(&noise);
        }
        let answer = send_lines(&api, encoding, vec![bytes.into()]);
        let totals = match answer.status.as_u16() {
            200 => &answer.json,
            400 => {
                prop_assert_eq!(answer.kind(), Some("malformed-body"));
                &answer.json["totals"]
            }
            other => return Err(TestCaseError::fail(format!("{other}: {}", answer.json))),
        };
        let sum: u64 = ["created", "renewed", "unchanged", "ignored", "refused", "invalid"].iter().map(|name| totals[*name].as_u64().unwrap()).sum();
        prop_assert_eq!(totals["received"].as_u64(), Some(sum), "{}", totals);
    });
}

#[test]
fn an_array_is_judged_as_a_whole_and_then_pair_by_pair() {
    let api = Api::new();
    // Items that are JSON make an array whatever they say; one that is none makes none of it one.
    proptest!(cases(600), |(items in vec(item(), 0..8), slip in broken(Just("[,]".to_owned())), broken in prop_oneof![9 => Just(false), 1 => Just(true)], cuts in vec(any::<Index>(), 0..6))| {
        let mut body = [&b"["[..], &items.join(&b","[..]), b"]"].concat();
        if broken {
            body.extend(slip);
        }
        let headers = [("content-type", "application/json")];
        let answer = api.send("POST", b"/v1/pairs:batch", &headers, pieces(&body, &cuts)).unwrap();
        let array: Option<Vec<&serde_json::value::RawValue>> = serde_json::from_slice(&body).ok();
        match array {
            None => prop_assert_eq!(answer.status.as_u16(), 400, "{}: {}", String::from_utf8_lossy(&body), answer.json),
            Some(items) => {
                prop_assert_eq!(answer.status.as_u16(), 200, "{}", answer.json);
                let judged: Vec<_> = (0..).zip(items).map(|(index, item)| (index, judge::pair(item.get().as_bytes()))).collect();
                check(&answer.json, "index", &expect(&judged))?;
            }
        }
    });
}

#[test]
fn noise_is_refused_by_every_route_that_reads_a_body() {
    let api = Api::new();
    let routes = select(vec![
        ("POST", "/v1/pairs"),
        ("POST", "/v1/pairs:batch"),
        ("POST", "/v1/pairs:remove"),
        ("POST", "/v1/counts"),
        ("PUT", "/v1/segments/s"),
    ]);
    let nearly = select(vec![
        r#"{"segments":["a","b"],"max_staleness_ms":10}"#,
        r#"{"window_seconds":60}"#,
        r#"[{"user_id":"a","segment":"b"}]"#,
    ]);
    let body = prop_oneof![1 => vec(any::<u8>(), 0..200), 3 => broken(nearly.prop_map(str::to_owned))];
    proptest!(cases(600), |((method, path) in routes, body in body)| {
        let answer = api.json(method, path, &body);
        let whole: Result<Value, _> = serde_json::from_slice(&body);
        if whole.is_err() {
            prop_assert!(matches!(answer.status.as_u16(), 400 | 422), "{}: {}", answer.status, answer.json);
        }
    });
}
