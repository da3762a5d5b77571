//! A real stream of pairs: who committed to which folder of eight public projects, and how long before the last commit of all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Deserialize;

const STREAM: &[u8] = include_bytes!("../../tests/data/commits.ndjson.gz");

/// One pair of the stream.
#[derive(Debug, Deserialize)]
pub struct Seen {
    /// Who.
    pub user_id: String,
    /// Where.
    pub segment: String,
    /// How long before the last pair.
    pub age_seconds: i64,
}

/// Every pair, in the order of time.
///
/// # Errors
/// The file is not what it was.
pub fn pairs() -> io::Result<Vec<Seen>> {
    BufReader::new(GzDecoder::new(STREAM))
        .lines()
        .map(|line| serde_json::from_str(&line?).map_err(io::Error::other))
        .collect()
}

/// The pairs as a client sends them whose last one was seen at `now` (seconds since the epoch): NDJSON, compressed by gzip.
///
/// # Errors
/// An instant that no timestamp holds.
pub fn ndjson(pairs: &[Seen], now: i64) -> io::Result<Vec<u8>> {
    let mut body = GzEncoder::new(Vec::new(), Compression::fast());
    for pair in pairs {
        let at = jiff::Timestamp::from_second(now - pair.age_seconds).map_err(io::Error::other)?;
        let line = serde_json::json!({"user_id": pair.user_id, "segment": pair.segment, "observed_at": at.to_string()});
        writeln!(body, "{line}")?;
    }
    body.finish()
}

/// By the definition and apart from any counter: the distinct users of each segment whose last pair is younger than the segment's window.
/// (No membership of the stream ends within an hour of the windows of two weeks, 90 days and ten years, so sending may take its time.)
#[must_use]
pub fn members(pairs: &[Seen], window: impl Fn(&str) -> i64) -> BTreeMap<&str, usize> {
    let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pair in pairs {
        let segment = users.entry(&pair.segment).or_default();
        if pair.age_seconds < window(&pair.segment) {
            segment.insert(&pair.user_id);
        }
    }
    users
        .into_iter()
        .map(|(segment, users)| (segment, users.len()))
        .collect()
}
