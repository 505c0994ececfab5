//! Assets and campaigns on real SQLite files, with a real store and log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod job;
mod support;
mod writers;
