//! One pair: taken exactly where the rules take it.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzz/api.rs"]
mod api;
#[path = "../../tests/fuzz/judge.rs"]
mod judge;

use std::sync::LazyLock;

use judge::Verdict;

static API: LazyLock<api::Api> = LazyLock::new(api::Api::new);

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let answer = API.json("POST", "/v1/pairs", body);
    let good = if body.len() > judge::MAX_PAIR_BYTES {
        Verdict::Refused
    } else {
        judge::pair(body)
    };
    match good {
        Verdict::Open => {}
        Verdict::Refused => assert!(answer.status.is_client_error(), "{}", answer.json),
        // A good pair may still be of the future, or in one new segment too many: the ledger says so.
        Verdict::Taken if answer.status.is_client_error() => {
            let detail = answer.json["detail"].as_str().unwrap_or_default();
            assert!(
                answer.kind() == Some("segment-limit") || detail.contains("ahead"),
                "{}",
                answer.json
            );
        }
        Verdict::Taken => {}
    }
});
