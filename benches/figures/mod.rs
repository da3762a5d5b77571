//! One file a figure.

pub mod archive;
pub mod bytes;
pub mod cold;
pub mod counts;
pub mod lanes;
pub mod large;
pub mod ndjson;
pub mod overload;
pub mod pairs;
pub mod path;
pub mod refresh;
pub mod size;
