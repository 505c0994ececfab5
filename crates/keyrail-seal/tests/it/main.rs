//! Roots of trust on real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod key_file;
mod links;
mod passphrase;
mod pkcs11;
mod place;
mod shares;
mod slot;
mod state;
mod tries;
mod vectors;
