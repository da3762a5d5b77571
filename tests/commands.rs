//! The commands of the binary, run as a person runs them: what they say on which stream, and their exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "commands/move_segment.rs"]
mod move_segment;
mod support;
