//! The ciphers as other crates use them: vectors, properties, secret types and protected memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod envelope_vectors;
mod exposure;
mod memory;
mod properties;
mod secrets;
mod spec;
mod suites;
mod testdata;
