//! A JSON array: JSON as a whole or nothing of it is taken; then each item as the rules say.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzz/api.rs"]
mod api;
#[path = "../../tests/fuzz/judge.rs"]
mod judge;

use std::sync::LazyLock;

use judge::Verdict;
use serde_json::value::RawValue;

static API: LazyLock<api::Api> = LazyLock::new(api::Api::new);

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let answer = API.json("POST", "/v1/pairs:batch", body);
    let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(body) else {
        assert!(answer.status.is_client_error(), "{}", answer.json);
        return;
    };
    if items.len() > 10_000 {
        assert_eq!(answer.kind(), Some("too-many-items"));
        return;
    }
    let judged: Vec<Verdict> = items.iter().map(|item| judge::pair(item.get().as_bytes())).collect();
    let count = |wanted| judged.iter().filter(|verdict| **verdict == wanted).count() as u64;
    let (least, most) = (count(Verdict::Refused), count(Verdict::Refused) + count(Verdict::Open));
    assert!(
        (least..=most).contains(&answer.json["invalid"].as_u64().unwrap()),
        "{}",
        answer.json
    );
});
