//! Several replicas, each the real binary, on one PostgreSQL and one Redis: what one of them acknowledged the others count, within the bound.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

#[path = "replicas/cold.rs"]
mod cold;
#[path = "replicas/edge.rs"]
mod edge;
#[path = "replicas/removals.rs"]
mod removals;
#[path = "replicas/staleness.rs"]
mod staleness;
mod support;
#[path = "replicas/world.rs"]
mod world;
