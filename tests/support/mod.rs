//! What several test binaries need: real servers that they start themselves. A binary uses some of it, never all.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs
)]

pub mod acknowledged;
pub mod citus;
pub mod known_stream;
pub mod postgres;
pub mod proxy;
pub mod redis;
pub mod server;
pub mod watchdog;
