//! What comes in, as bytes that nobody meant: raw ones, and good ones with a few mistakes, which reach deeper. Nothing panics, nothing is
//! answered with a 5xx, memory stays bounded, and what is taken is exactly what the written rules take.
//!
//! A failure prints the smallest input that shows it. `PROPTEST_CASES=100000 cargo test --test fuzz` looks longer.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "fuzz/api.rs"]
mod api;
#[path = "fuzz/configuration.rs"]
mod configuration;
#[path = "fuzz/credentials.rs"]
mod credentials;
#[path = "fuzz/files.rs"]
mod files;
#[path = "fuzz/judge.rs"]
mod judge;
#[path = "fuzz/memory.rs"]
mod memory;
#[path = "fuzz/names.rs"]
mod names;
#[path = "fuzz/pairs.rs"]
mod pairs;
#[path = "fuzz/removals.rs"]
mod removals;
#[path = "fuzz/shapes.rs"]
mod shapes;
mod support;

/// So many cases, or as many as `PROPTEST_CASES` says.
fn cases(usual: u32) -> proptest::test_runner::Config {
    let mut config = proptest::test_runner::Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = usual;
    }
    config.failure_persistence = None;
    config
}

/// As many rounds of cases that are tried at once, since what is asked takes its time; fewer where `PROPTEST_CASES` says a number of cases.
fn rounds(usual: u32, at_once: u32) -> proptest::test_runner::Config {
    let mut config = cases(usual);
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config.cases = config.cases.div_ceil(at_once);
    }
    config
}
