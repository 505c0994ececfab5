//! The keyrail binary as its users run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod anchor;
mod api;
mod asset_value;
mod audit;
mod campaign;
mod cli;
mod client;
mod disk;
mod flood;
mod help;
mod hsm;
mod init;
mod interop;
mod kills;
mod leaks;
mod lines;
mod nodes;
mod place;
mod postgres;
mod quickstart;
mod recovery;
mod restored;
mod sealed;
mod shutdown;
mod terminal;
mod tls;
mod trace;
mod unopenable;
mod unsealing;
mod verbs;
mod witness;
