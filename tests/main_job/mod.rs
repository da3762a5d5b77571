//! The scenarios, and what they stand on.

pub mod audit;
pub mod changes;
pub mod client;
#[path = "../../examples/demo/stream.rs"]
#[allow(dead_code)]
pub mod demo_stream;
pub mod faults;
pub mod figures;
pub mod idle;
pub mod kubectl;
pub mod rights;
pub mod stream;
pub mod stream_data;
pub mod world;
