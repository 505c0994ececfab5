//! The keyrail binary as its users run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod api;
mod campaign;
mod cli;
mod client;
mod kills;
mod leaks;
mod place;
mod quickstart;
