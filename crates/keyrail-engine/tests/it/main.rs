//! The engine on a real store and a real log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail loudly, and a table of cases may be long"
)]

mod backup;
mod caches;
mod crowd;
mod defaults;
mod fence;
mod gone;
mod history;
mod idempotency;
mod life;
mod restore;
mod retire;
mod rotate;
mod sealed;
mod support;
mod tokens;
