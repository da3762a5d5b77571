//! Names in paths, and parameters: whole, encoded in part, and broken.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::api::Api;
use crate::cases;
use crate::judge::{decoded, is_name};

/// A part of a path or a query, as a client may write it.
fn raw() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        6 => "[a-z0-9:;=@!$'()*,~._-]{1,6}".prop_map(String::into_bytes),
        4 => "\\PC{1,4}".prop_map(|text| text.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect()),
        2 => any::<u8>().prop_map(|byte| format!("%{byte:02x}").into_bytes()),
        1 => select(vec!["%", "%2", "%zz", "%%", "%u0041", "+", "%2B", "%2F", "%00", "%c3%28", "..", ".", "é"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => Just("%41".repeat(60).into_bytes()),
    ];
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

#[test]
fn a_name_in_a_path_is_what_its_encoding_says_or_is_refused() {
    let api = Api::new();
    proptest!(cases(1_500), |(raw in raw())| {
        // Another segment of the path, a query or a fragment: not this name any more.
        prop_assume!(!raw.iter().any(|byte| b"/?#".contains(byte)));
        let path = [b"/v1/segments/", &raw[..]].concat();
        let headers = [("content-type", "application/json")];
        let Some(put) = api.send("PUT", &path, &headers, vec!["{}".into()]) else { return Ok(()) };
        let name = decoded(&raw, false);
        match name {
            _ if raw.is_empty() => prop_assert_eq!(put.status.as_u16(), 404),
            None => prop_assert_eq!(put.kind(), Some("malformed-path"), "{}", put.json),
            Some(name) if is_name(&name) => {
                prop_assert!(put.status.is_success(), "{name:?}: {}", put.json);
                prop_assert_eq!(put.json["segment"].as_str(), Some(name.as_str()));
                let count = api.send("GET", &[&path, &b"/count"[..]].concat(), &[], vec![]).unwrap();
                prop_assert_eq!(count.json["segment"].as_str(), Some(name.as_str()), "{}", count.json);
            }
            Some(name) => prop_assert_eq!(put.kind(), Some("invalid-field"), "{:?}: {}", name, put.json),
        }
    });
}

#[test]
fn parameters_are_known_given_once_and_in_bounds_or_are_refused() {
    let api = Api::new();
    api.json("PUT", "/v1/segments/s", b"{}");
    let known = select(vec![
        "max_staleness_ms",
        "max_staleness_ms",
        "limit",
        "Max_staleness_ms",
        "",
    ]);
    let value = prop_oneof![
        4 => (0..70_000_u32).prop_map(|number| number.to_string().into_bytes()),
        1 => select(vec!["-1", "1e3", "+5", "%35", "0x10", "60000", "60001", "18446744073709551616"]).prop_map(|text| text.as_bytes().to_vec()),
        2 => raw(),
    ];
    proptest!(cases(1_000), |(parameters in vec((known, value), 0..3))| {
        prop_assume!(!parameters.iter().any(|(_, value)| value.iter().any(|byte| b"&#=".contains(byte))));
        let parts: Vec<Vec<u8>> = parameters.iter().map(|(name, value)| [name.as_bytes(), b"=", value].concat()).collect();
        let path = [b"/v1/segments/s/count?", &parts.join(&b"&"[..])[..]].concat();
        let Some(answer) = api.send("GET", &path, &[], vec![]) else { return Ok(()) };
        let good = |(name, value): &(&str, Vec<u8>)| {
            let number = decoded(value, true).and_then(|text| text.parse::<u64>().ok());
            *name == "max_staleness_ms" && number.is_some_and(|number| number <= 60_000)
        };
        let taken = parameters.len() <= 1 && parameters.iter().all(good);
        prop_assert_eq!(answer.status.is_success(), taken, "{:?}: {}", String::from_utf8_lossy(&path), answer.json);
        let page = api.send("GET", &[b"/v1/segments?", &parts.join(&b"&"[..])[..]].concat(), &[], vec![]);
        prop_assert!(page.is_none_or(|page| page.status.is_success() || page.status.as_u16() == 422));
    });
}
