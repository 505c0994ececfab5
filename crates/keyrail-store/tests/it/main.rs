//! The stores on real SQLite files and real PostgreSQL servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod attacked;
mod changes;
mod conformance;
mod files;
mod hostile;
mod killed;
mod log;
mod model;
mod postgres;
mod rows;
mod stores;
#[path = "../../../keyrail-audit/tests/it/suite.rs"]
mod suite;
#[allow(dead_code, reason = "the log's own tests use the rest")]
#[path = "../../../keyrail-audit/tests/it/support.rs"]
mod support;
mod tamper;
mod vectors;
