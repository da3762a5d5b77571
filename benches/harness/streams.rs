//! Pairs, as NDJSON for the service and as batches for pgbench: the same pairs in the same order, cut in the same way.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use segment_counter::counting::Rules;
use segment_counter::ledger::Settings;
use segment_counter::service::ServiceConfig;
use serde_json::Value;

use super::ledger::empty;
use super::program::Program;

/// Segments that the pairs go to, one after another.
pub const SEGMENTS: usize = 100;
/// From how many of the newest pairs a repeat is drawn.
const RECENT: usize = 2_000;

/// One client's pairs.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// User and segment.
    list: Vec<(String, usize)>,
    /// How many of them are there for the first time.
    pub new: usize,
}

impl Pairs {
    /// No pair twice.
    pub fn unique(client: usize, count: usize) -> Self {
        let list = (0..count).map(|n| (format!("user-{client}-{n:07}"), (n * 7 + client) % SEGMENTS));
        Self {
            list: list.collect(),
            new: count,
        }
    }

    /// One new pair in ten; the others repeat one of the newest, as the events of a visit do.
    pub fn repeating(client: usize, count: usize) -> Self {
        let fresh = Self::unique(client, count.div_ceil(10)).list;
        // Any sequence will do that is the same in every run.
        let mut state = 0x9e37_79b9_u64 + client as u64;
        let list = (0..count).map(|n| {
            let newest = n / 10;
            if n % 10 == 0 {
                return fresh[newest].clone();
            }
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let back = (state >> 33) as usize % (newest + 1).min(RECENT);
            fresh[newest - back].clone()
        });
        Self {
            list: list.collect(),
            new: fresh.len(),
        }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn ndjson(&self) -> Bytes {
        let mut text = String::new();
        for (user, segment) in &self.list {
            writeln!(text, r#"{{"user_id": "{user}", "segment": "segment-{segment}"}}"#).unwrap();
        }
        text.into()
    }
}

pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

/// The pgbench script: every client prepares the statement once and executes it for one batch after another, as the service does.
pub fn script(statement: &str, ids: &[i64], clients: &[Pairs]) -> String {
    let settings = Settings::default();
    let rules = Rules::default();
    let (window, resolution) = (rules.window().seconds(), rules.resolution().seconds() * 1_000_000);
    let settle = settings.settle.as_micros() / 2;
    let longest = rules.max_ttl().seconds();
    let mut text = String::new();
    let types = "timestamptz, bigint[], text[], bigint[], bigint[], bigint, bigint, bigint, bigint";
    writeln!(text, "PREPARE record ({types}) AS {};", statement.trim()).unwrap();
    for (client, pairs) in clients.iter().enumerate() {
        writeln!(text, "\\if :client_id = {client}").unwrap();
        for batch in pairs.list.chunks(ServiceConfig::default().flush_pairs) {
            let segments: Vec<_> = batch.iter().map(|(_, segment)| ids[*segment].to_string()).collect();
            let users: Vec<_> = batch.iter().map(|(user, _)| user.as_str()).collect();
            let nulls = vec!["null"; batch.len()].join(",");
            let (segments, users) = (segments.join(","), users.join(","));
            writeln!(
                text,
                "EXECUTE record (null, '{{{segments}}}', '{{{users}}}', '{{{nulls}}}', '{{{nulls}}}', {window}, {resolution}, {settle}, {longest});"
            )
            .unwrap();
        }
        writeln!(text, "\\endif").unwrap();
    }
    text
}

/// A service that is new, and so remembers none of the pairs of the run before, but not cold; and no memberships.
pub async fn warm(database_url: &str) -> Program {
    let service = Program::service(database_url, None);
    let bodies: Vec<_> = (1_000..1_004)
        .map(|client| Pairs::unique(client, 2_000).ndjson())
        .collect();
    send(&service.url, &bodies, None, "created", 2_000).await;
    empty(database_url).await;
    service
}

/// Sends each body on a connection of its own, all at once; gives the seconds until the last answer, which must say that so many pairs were
/// `status`.
pub async fn send(url: &str, bodies: &[Bytes], encoding: Option<&'static str>, status: &str, pairs: usize) -> f64 {
    let client = reqwest::Client::new();
    let begun = Instant::now();
    let sent = bodies.iter().map(|body| {
        let mut request = client
            .post(format!("{url}/v1/pairs:batch"))
            .header("content-type", "application/x-ndjson")
            .body(body.clone());
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        async move {
            let response = request.send().await.expect("an answer");
            let code = response.status();
            let totals: Value = response.json().await.expect("totals");
            assert!(code.is_success() && totals[status] == pairs, "{code} {totals}");
        }
    });
    futures_util::future::join_all(sent).await;
    begun.elapsed().as_secs_f64()
}
