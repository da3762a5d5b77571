//! Removals, many in a body: only what the rules accept takes anybody out, and it takes out exactly them.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::value::RawValue;

use crate::api::{Answer, Api};
use crate::judge;
use crate::rounds;
use crate::shapes::{broken, item, pair, pieces, removal, value};

/// The segments that exist; the others that are named do not, and nobody is taken out of them.
const SEGMENTS: [&str; 3] = ["a", "b", "ab"];
/// Bodies that are sent at once: an answer takes a tenth of a second, however many wait for one.
const AT_ONCE: u32 = 24;

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"["[..], &items.join(&b","[..]), b"]"].concat()
}

/// An array, mostly of removals; some whose items are no JSON, some that are broken, some that are no arrays.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![
        10 => removal(),
        1 => pair(),
        1 => value().prop_filter("JSON", |text| serde_json::from_str::<&RawValue>(text).is_ok()),
    ];
    let good = vec(json, 0..8)
        .prop_map(|items| format!("[{}]", items.join(",")))
        .boxed();
    prop_oneof![
        6 => good.clone().prop_map(String::into_bytes),
        3 => broken(good),
        2 => vec(prop_oneof![removal().prop_map(String::into_bytes), item()], 0..4).prop_map(|items| array(&items)),
        1 => removal().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..200),
    ]
}

/// Every user that a good name usually is: one or two of three letters.
fn users() -> BTreeSet<String> {
    let letters = ["a", "b", "c"];
    let two = letters
        .iter()
        .flat_map(|one| ["", "a", "b", "c"].map(|other| format!("{one}{other}")));
    two.collect()
}

/// Who was taken out by a body, as (segment, user), where its answer is what the rules say.
fn judged(body: &[u8], answer: &Answer) -> Result<Vec<(String, String)>, TestCaseError> {
    let shown = String::from_utf8_lossy(body);
    let array: Option<Vec<&RawValue>> = serde_json::from_slice(body).ok();
    let Some(items) = array else {
        // What begins like an array is broken JSON; anything else is no array.
        let wanted = match body.trim_ascii_start().first() {
            None | Some(b'[') => (400, "malformed-json"),
            Some(_) => (422, "invalid-field"),
        };
        let got = (answer.status.as_u16(), answer.kind().unwrap_or_default());
        prop_assert_eq!(got, wanted, "{}: {}", shown, answer.json);
        return Ok(vec![]);
    };
    prop_assert_eq!(answer.status.as_u16(), 200, "{}: {}", shown, answer.json);
    let removals: Vec<_> = items.iter().map(|item| judge::removal(item.get().as_bytes())).collect();
    let known = |segment: &str| SEGMENTS.contains(&segment);
    let good = removals.iter().flatten().filter(|(_, segment)| known(segment)).count();
    let invalid = removals.iter().filter(|removal| removal.is_none()).count();
    let number = |name: &str| usize::try_from(answer.json[name].as_u64().unwrap()).unwrap();
    prop_assert_eq!(number("received"), items.len(), "{}: {}", shown, answer.json);
    prop_assert_eq!(number("invalid"), invalid, "{}: {}", shown, answer.json);
    prop_assert_eq!(
        number("refused"),
        items.len() - invalid - good,
        "{}: {}",
        shown,
        answer.json
    );
    prop_assert_eq!(
        number("removed") + number("not_member"),
        good,
        "{}: {}",
        shown,
        answer.json
    );
    let told: Vec<_> = answer.json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["index"].as_u64().unwrap())
        .collect();
    let bad: Vec<u64> = (0..)
        .zip(&removals)
        .filter(|(_, removal)| !removal.as_ref().is_some_and(|(_, segment)| known(segment)))
        .map(|(index, _)| index)
        .collect();
    prop_assert_eq!(told, bad, "{}: {}", shown, answer.json);
    let all = removals.into_iter().flatten().map(|(user, segment)| (segment, user));
    Ok(all.collect())
}

#[test]
fn a_removal_takes_out_whom_it_names_exactly_where_the_rules_take_it() {
    let (api, users) = (Api::new(), users());
    for segment in SEGMENTS {
        assert!(
            api.json("PUT", &format!("/v1/segments/{segment}"), b"{}")
                .status
                .is_success()
        );
    }
    let members: Vec<_> = SEGMENTS
        .iter()
        .flat_map(|segment| users.iter().map(move |user| (*segment, user)))
        .map(|(segment, user)| serde_json::json!({"user_id": user, "segment": segment}))
        .collect();
    let members = serde_json::to_vec(&members).unwrap();
    let (arrays, refused, out) = (Cell::new(0), Cell::new(0), Cell::new(0));
    proptest!(rounds(25, AT_ONCE), |(bodies in vec((body(), vec(any::<Index>(), 0..4)), AT_ONCE as usize))| {
        let back = api.json("POST", "/v1/pairs:batch", &members);
        prop_assert_eq!(back.json["ignored"].as_u64(), Some(0), "{}", back.json);
        let headers = [("content-type", "application/json")];
        let requests = bodies.iter().map(|(body, cuts)| {
            api.request("POST", b"/v1/pairs:remove", &headers, pieces(body, cuts)).unwrap()
        });
        let answers = api.send_all(requests.collect());
        let mut gone: BTreeSet<(String, String)> = BTreeSet::new();
        let mut removed = 0;
        for ((body, _), answer) in bodies.iter().zip(&answers) {
            let seen = if answer.status.is_success() { &arrays } else { &refused };
            seen.set(seen.get() + 1);
            removed += answer.json["removed"].as_u64().unwrap_or(0);
            gone.extend(judged(body, answer)?);
        }
        // A name of another segment or of nobody takes nobody out.
        gone.retain(|(segment, user)| SEGMENTS.contains(&segment.as_str()) && users.contains(user));
        for segment in SEGMENTS {
            let left = users.len() - gone.iter().filter(|(of, _)| of == segment).count();
            prop_assert_eq!(api.count(segment), Some(left as u64), "of {}: {:?}", segment, gone);
        }
        prop_assert!(removed >= gone.len() as u64, "{} removed, and these are out: {:?}", removed, gone);
        out.set(out.get() + gone.len());
    });
    // Noise alone would be refused at its first byte, and take nobody out.
    let (arrays, refused, out) = (arrays.get(), refused.get(), out.get());
    assert!(
        arrays > refused / 10 && refused > arrays / 10 && out > arrays / 10,
        "{arrays} taken, {refused} refused, {out} users taken out"
    );
}
