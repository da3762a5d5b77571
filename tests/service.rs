//! The service on a ledger and a cache that the tests can slow, hold, break and watch; then on real ones.
//!
//! Where no real server takes part, time is paused: waits cost nothing and are exact.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

#[path = "service/away.rs"]
mod away;
#[path = "service/bound.rs"]
mod bound;
#[path = "service/counting.rs"]
mod counting;
#[path = "service/crowd.rs"]
mod crowd;
#[path = "service/jobs.rs"]
mod jobs;
#[path = "service/model.rs"]
mod model;
#[path = "service/notices.rs"]
mod notices;
#[path = "service/proxied.rs"]
mod proxied;
#[path = "service/real.rs"]
mod real;
#[path = "service/recording.rs"]
mod recording;
#[path = "service/removals.rs"]
mod removals;
#[path = "service/repeats.rs"]
mod repeats;
mod support;
#[path = "service/watched.rs"]
mod watched;
