//! Serves exact counts of the users in a segment.

fn main() {}
