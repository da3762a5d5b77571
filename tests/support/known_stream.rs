//! The stream as an application sends it, and its true counts, reckoned by awk.

use std::{collections::BTreeMap, process::Command};

#[path = "../../examples/demo/stream.rs"]
pub mod demo;

/// Ten years, in seconds: nearly all of the stream is inside.
pub const TEN_YEARS: i64 = 315_360_000;
/// Two weeks: the default.
pub const TWO_WEEKS: i64 = 1_209_600;

/// The stream as of now, compressed.
#[allow(clippy::disallowed_methods, reason = "a client has no other clock than its own")]
pub fn gzip() -> Vec<u8> {
    demo::ndjson(&demo::pairs().unwrap(), jiff::Timestamp::now().as_second()).unwrap()
}

/// What the counts must be, made apart from our code: tests/data/expected.awk over the file.
pub fn expected(window: i64) -> BTreeMap<String, i64> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let command = format!("gzip -dc {data}/commits.ndjson.gz | awk -v window={window} -f {data}/expected.awk");
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let counts = lines.lines().map(|line| {
        let (segment, members) = line.split_once('\t').unwrap();
        (segment.to_owned(), members.parse().unwrap())
    });
    counts.collect()
}
