//! The scenarios, and what they stand on.

pub mod audit;
pub mod changes;
pub mod client;
pub mod faults;
pub mod figures;
pub mod idle;
#[path = "../support/known_stream.rs"]
#[allow(dead_code)]
pub mod known_stream;
pub mod kubectl;
pub mod rights;
pub mod stream;
pub mod world;
