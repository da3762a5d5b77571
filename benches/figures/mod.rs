//! One file a figure.

pub mod counts;
pub mod large;
pub mod ndjson;
pub mod pairs;
pub mod size;
