//! The HTTP API through the real binary and a real socket: every bad input has its status, its problem and its field, and leaves a server
//! that is as well as before.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "api/bodies.rs"]
mod bodies;
#[path = "api/degraded.rs"]
mod degraded;
#[path = "api/document.rs"]
mod document;
#[path = "api/ending.rs"]
mod ending;
#[path = "api/fields.rs"]
mod fields;
#[path = "api/health.rs"]
mod health;
#[path = "api/hot.rs"]
mod hot;
#[path = "api/http.rs"]
mod http;
#[path = "api/keeping.rs"]
mod keeping;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/malformed.rs"]
mod malformed;
#[path = "api/names.rs"]
mod names;
#[path = "api/removals.rs"]
mod removals;
#[path = "api/sharing.rs"]
mod sharing;
mod support;
#[path = "api/table.rs"]
mod table;
#[path = "api/tokens.rs"]
mod tokens;
#[path = "api/wire.rs"]
mod wire;

use support::server::Server;

/// A server on a ledger in memory, without tokens.
fn server() -> Server {
    Server::start("sqlite::memory:", &[])
}
