//! The audit log on real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod fence;
mod journal;
mod life;
mod memory;
mod rows;
mod suite;
mod support;
mod tail;
mod tamper;
mod vectors;
