//! What integration tests share: places on the disk, child processes, PostgreSQL servers, a ledger for concurrent writers, the search
//! for secrets, and the scale and seed of a run.
//!
//! Nothing in here waits by sleeping: a child is waited for through its pipe or its process descriptor, always with
//! a limit.

mod child;
mod dir;
mod disk;
mod ledger;
pub mod postgres;
mod run;
mod search;
pub mod softhsm;

pub use child::{Child, Exit, READY_LIMIT, Server, keyrail_bin};
pub use dir::{TempDir, TempHome, free_port};
pub use disk::Disk;
pub use ledger::{Ledger, Mismatch, Ticket};
pub use run::{Rng, scale, seeded};
pub use search::{Encoding, Hit, NEEDLE_LEN_MIN, Search, planted_forms};
