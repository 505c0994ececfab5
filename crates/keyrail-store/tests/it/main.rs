//! The store on real SQLite files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod changes;
mod files;
mod killed;
mod model;
mod rows;
mod tamper;
mod vectors;
