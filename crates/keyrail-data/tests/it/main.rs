//! Assets and campaigns on real SQLite files and PostgreSQL servers, with a real store and log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod client;
mod conformance;
mod damage;
mod fit;
mod job;
mod model;
mod postgres;
mod retire;
mod rows;
mod scrub;
mod support;
mod trouble;
mod vectors;
mod writers;
