//! Lines, cut in two where the first byte says, packed as the second says: as many are invalid as the rules refuse.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzz/api.rs"]
mod api;
#[path = "../../tests/fuzz/judge.rs"]
mod judge;

use std::sync::LazyLock;

use bytes::Bytes;
use judge::{MAX_PAIR_BYTES, Verdict};

static API: LazyLock<api::Api> = LazyLock::new(api::Api::new);

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [cut, packing, body @ ..] = input else { return };
    let encoding = ["identity", "gzip", "zstd"][usize::from(packing % 3)];
    let (one, other) = body.split_at(usize::from(*cut) * body.len() / 255);
    let pieces = [one, other].map(Bytes::copy_from_slice).to_vec();
    let headers = [("content-type", "application/x-ndjson"), ("content-encoding", encoding)];
    let Some(answer) = API.send("POST", b"/v1/pairs:batch", &headers, pieces) else {
        return;
    };
    if encoding != "identity" || answer.status != 200 {
        assert!(encoding != "identity", "{}", answer.json);
        return;
    }
    let lines = body.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace) || line.len() > MAX_PAIR_BYTES);
    let judged: Vec<Verdict> = lines
        .map(|line| {
            if line.len() > MAX_PAIR_BYTES {
                Verdict::Refused
            } else {
                judge::pair(line)
            }
        })
        .collect();
    let count = |wanted| judged.iter().filter(|verdict| **verdict == wanted).count() as u64;
    let invalid = answer.json["invalid"].as_u64().unwrap();
    assert_eq!(answer.json["received"], judged.len(), "{}", answer.json);
    let (least, most) = (count(Verdict::Refused), count(Verdict::Refused) + count(Verdict::Open));
    assert!((least..=most).contains(&invalid), "{}", answer.json);
});
