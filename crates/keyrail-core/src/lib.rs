//! Domain types, key lifecycle, labels, rotation sweep and audit event types.
//!
//! The crate is sans-IO: time, randomness and loaded rows come in as arguments, decisions and new rows
//! go out. It knows no SQL, no HTTP and no async; see `ARCHITECTURE.md` for what may use it.

pub mod access;
pub mod asset;
pub mod campaign;
pub mod fence;
pub mod id;
pub mod key;
pub mod label;
pub mod lifecycle;
pub mod name;
pub mod record;
pub mod retirement;
pub mod rotation;
pub mod system;
mod text;
pub mod time;
pub mod token;
pub mod usage;
