//! A path and its query: what names a segment is what its encoding says.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzz/api.rs"]
mod api;
#[path = "../../tests/fuzz/judge.rs"]
mod judge;

use std::sync::LazyLock;

static API: LazyLock<api::Api> = LazyLock::new(api::Api::new);

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    let path = [b"/v1/segments/", raw].concat();
    let Some(answer) = API.send("GET", &path, &[], vec![]) else {
        return;
    };
    if raw.iter().any(|byte| b"/?#".contains(byte)) || raw.is_empty() {
        return;
    }
    match judge::decoded(raw, false) {
        None => assert_eq!(answer.kind(), Some("malformed-path"), "{}", answer.json),
        Some(name) if judge::is_name(&name) => assert_eq!(answer.kind(), Some("segment-not-found"), "{}", answer.json),
        Some(_) => assert_eq!(answer.kind(), Some("invalid-field"), "{}", answer.json),
    }
});
