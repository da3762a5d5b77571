//! Runs `SegmentCounter` objects.

fn main() {}
