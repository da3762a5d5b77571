//! Two replicas under load, and one thing at a time that breaks: the API's process, PostgreSQL, Redis, or the way to one of
//! the three. Clients record and count, take users out and erase them, and the archive and the refresh run.
//!
//! `SEGMENT_COUNTER_TEST_ROUNDS` says how many rounds, `SEGMENT_COUNTER_TEST_SEED` in which order; both are printed. Without them each fault
//! comes once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

#[path = "crash/faults.rs"]
mod faults;
#[path = "crash/jobs.rs"]
mod jobs;
#[path = "crash/leaving.rs"]
mod leaving;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/rounds.rs"]
mod rounds;
mod support;
#[path = "crash/truth.rs"]
mod truth;
#[path = "crash/world.rs"]
mod world;
