//! The one entry point.
fn main() {}
