//! Names in paths, and parameters: whole, encoded in part, and broken.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::api::{Answer, Api};
use crate::judge::{decoded, is_name};
use crate::{cases, rounds};

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

/// A whole name in a path: as above, at the bounds of its length and far beyond, empty, or bytes that are no UTF-8.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        8 => raw(),
        1 => Just(vec![]),
        1 => (126..131_usize).prop_map(|length| vec![b'x'; length]),
        1 => (42..44_usize).prop_map(|count| "%E2%82%AC".repeat(count).into_bytes()),
        1 => (200..20_000_usize).prop_map(|length| vec![b'y'; length]),
        2 => select(vec!["%FF", "%C0%80", "%ED%A0%80", "%F4%90%80%80", "%E2%82", "a%80b"]).prop_map(|text| text.as_bytes().to_vec()),
    ];
    // Those would end the name: another part of the path, a query or a fragment.
    text.prop_map(|text| text.into_iter().filter(|byte| !b"/?#".contains(byte)).collect())
}

/// One of these names, its bytes escaped where they must be or wherever the mask says.
fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    (select(names), any::<u8>()).prop_map(|(name, mask)| {
        let bytes = name.bytes().enumerate().flat_map(|(place, byte)| {
            if byte.is_ascii_alphanumeric() && (mask >> (place % 8)) & 1 == 0 {
                vec![byte]
            } else {
                format!("%{byte:02x}").into_bytes()
            }
        });
        bytes.collect()
    })
}

/// Why a name in a path must be refused: the kind of the problem. `None` where it is good. A path whose last name is empty is no path of ours.
fn fault(raw: &[u8], last: bool) -> Option<&'static str> {
    match decoded(raw, false) {
        _ if raw.is_empty() && last => Some("not-found"),
        None => Some("malformed-path"),
        Some(name) if is_name(&name) => None,
        Some(_) => Some("invalid-field"),
    }
}

/// What a route with names in its path may answer.
const KINDS: &[&str] = &[
    "taken",
    "segment-not-found",
    "invalid-field",
    "malformed-path",
    "not-found",
];

/// How many answers of each kind there were, so that none is missing.
#[derive(Default)]
struct Seen(RefCell<BTreeMap<String, u32>>);

impl Seen {
    fn add(&self, answer: &Answer) {
        let kind = answer.kind().unwrap_or("taken").to_owned();
        *self.0.borrow_mut().entry(kind).or_default() += 1;
    }

    fn has(&self, kinds: &[&str]) {
        let seen = self.0.borrow();
        for kind in kinds {
            assert!(seen.get(*kind).is_some_and(|times| *times > 10), "{kind}: {seen:?}");
        }
    }
}

/// The requests of these methods and paths that can be written down, each with its answer and what belongs to it.
fn sent<T>(api: &Api, calls: Vec<(&str, Vec<u8>, T)>) -> Vec<(T, Answer)> {
    let (mut requests, mut with) = (Vec::new(), Vec::new());
    for (method, path, of) in calls {
        let headers = [("content-type", "application/json")];
        if let Some(request) = api.request(method, &path, &headers, vec!["{}".into()]) {
            requests.push(request);
            with.push(of);
        }
    }
    with.into_iter().zip(api.send_all(requests)).collect()
}

#[test]
fn every_route_that_has_a_name_in_its_path_reads_it_alike() {
    let (api, seen) = (Api::administered(), Seen::default());
    let routes = select(vec![
        ("GET", "/v1/segments/", "", "segment"),
        ("GET", "/v1/segments/", "/count", "segment"),
        ("DELETE", "/v1/segments/", "", "segment"),
        ("DELETE", "/v1/users/", "", "user"),
    ]);
    // At once, since an erasure takes its tenth of a second.
    proptest!(rounds(30, 24), |(calls in vec((routes, name()), 24))| {
        let calls = calls.into_iter().map(|(route, raw)| {
            let (method, before, after, _) = route;
            (method, [before.as_bytes(), &raw, after.as_bytes()].concat(), (route, raw))
        });
        for (((method, _, after, field), raw), answer) in sent(&api, calls.collect()) {
            seen.add(&answer);
            let shown = String::from_utf8_lossy(&raw);
            match fault(&raw, after.is_empty()) {
                Some(kind) => {
                    prop_assert_eq!(answer.kind(), Some(kind), "{} {} {}: {}", method, field, shown, answer.json);
                    prop_assert!(kind == "not-found" || answer.json["field"] == field, "{}: {}", shown, answer.json);
                }
                // Nobody made these segments; a user is erased whether known or not.
                None if field == "segment" => prop_assert_eq!(answer.kind(), Some("segment-not-found"), "{}: {}", shown, answer.json),
                None => {
                    prop_assert_eq!(answer.status.as_u16(), 200, "{}: {}", shown, answer.json);
                    prop_assert!(answer.json["receipt"].is_string(), "{}", answer.json);
                }
            }
        }
    });
    seen.has(KINDS);
}

/// Segments that exist, and who is in each of them.
const SEGMENTS: &[&str] = &["s", "a/b", "100%"];
const USERS: &[&str] = &["u", "v/w", "é", "..", "%41", "a b"];

#[test]
fn two_names_in_a_path_take_out_whom_they_name_and_nobody_else() {
    let (api, seen) = (Api::new(), Seen::default());
    let pair = |segment: &&str, user: &&str| serde_json::json!({"user_id": user, "segment": segment});
    let pairs = SEGMENTS
        .iter()
        .flat_map(|segment| USERS.iter().map(move |user| pair(segment, user)));
    let pairs = serde_json::to_vec(&pairs.collect::<Vec<_>>()).unwrap();
    let segment = prop_oneof![3 => one_of(SEGMENTS), 1 => name()];
    let user = prop_oneof![3 => one_of(USERS), 1 => name()];
    proptest!(rounds(30, 16), |(calls in vec((segment, user), 16))| {
        prop_assert!(api.json("POST", "/v1/pairs:batch", &pairs).status.is_success());
        let calls = calls.into_iter().map(|(segment, user)| {
            let path = [b"/v1/segments/", &segment[..], b"/users/", &user].concat();
            ("DELETE", path, (segment, user))
        });
        let mut gone = BTreeSet::new();
        for ((segment, user), answer) in sent(&api, calls.collect()) {
            seen.add(&answer);
            let shown = format!("{} of {}", String::from_utf8_lossy(&user), String::from_utf8_lossy(&segment));
            let faults = [fault(&segment, false), fault(&user, true)];
            // The path is found first, then decoded, then its names are proven one after the other.
            let first = ["not-found", "malformed-path", "invalid-field"].into_iter().find(|kind| faults.contains(&Some(kind)));
            if let Some(kind) = first {
                prop_assert_eq!(answer.kind(), Some(kind), "{}: {}", shown, answer.json);
                let field = if faults[0] == Some(kind) { "segment" } else { "user" };
                prop_assert!(kind == "not-found" || answer.json["field"] == field, "{}: {}", shown, answer.json);
                continue;
            }
            let (segment, user) = (decoded(&segment, false).unwrap(), decoded(&user, false).unwrap());
            if SEGMENTS.contains(&segment.as_str()) {
                let status = answer.json["status"].as_str();
                prop_assert!(matches!(status, Some("removed" | "not_member")), "{}: {}", shown, answer.json);
                prop_assert!(status != Some("removed") || USERS.contains(&user.as_str()), "{}: {}", shown, answer.json);
                gone.insert((segment, user));
            } else {
                prop_assert_eq!(answer.kind(), Some("segment-not-found"), "{}: {}", shown, answer.json);
            }
        }
        gone.retain(|(_, user)| USERS.contains(&user.as_str()));
        for (segment, path) in SEGMENTS.iter().zip(["s", "a%2Fb", "100%25"]) {
            let left = USERS.len() - gone.iter().filter(|(of, _)| of == segment).count();
            prop_assert_eq!(api.count(path), Some(left as u64), "of {}: {:?}", segment, gone);
        }
    });
    seen.has(KINDS);
}

#[test]
fn a_name_in_a_path_is_what_its_encoding_says_or_is_refused() {
    let (api, seen) = (Api::new(), Seen::default());
    let path = |raw: &[u8], after: &str| [b"/v1/segments/", raw, after.as_bytes()].concat();
    // At once, since what is set is answered after a tenth of a second.
    proptest!(rounds(60, 24), |(names in vec(name(), 24))| {
        let calls = names.iter().map(|raw| ("PUT", path(raw, ""), raw));
        let mut made = Vec::new();
        for (raw, put) in sent(&api, calls.collect()) {
            seen.add(&put);
            match fault(raw, true) {
                Some(kind) => prop_assert_eq!(put.kind(), Some(kind), "{}: {}", String::from_utf8_lossy(raw), put.json),
                None => {
                    let name = decoded(raw, false);
                    prop_assert!(put.status.is_success(), "{:?}: {}", name, put.json);
                    prop_assert_eq!(put.json["segment"].as_str(), name.as_deref());
                    made.push(("GET", path(raw, "/count"), name));
                }
            }
        }
        for (name, count) in sent(&api, made) {
            prop_assert_eq!(count.json["segment"].as_str(), name.as_deref(), "{}", count.json);
        }
    });
    seen.has(&["taken", "invalid-field", "malformed-path", "not-found"]);
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
