//! The keyrail binary.
fn main() {}
