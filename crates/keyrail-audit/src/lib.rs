//! The audit log: C2SP tlog-tiles files that anybody can verify, and a group commit that makes records durable.
//!
//! The crate knows bytes, not what records mean. `D/audit` holds only evidence; records that are durable and
//! not there yet lie in `D/journal`. `spec/audit-log.md` has the layout.

#[cfg(test)]
extern crate self as keyrail_audit;

mod anchor;
mod body;
mod committer;
mod cosign;
mod database;
mod enclosed;
mod error;
mod export;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod journal;
mod log;
mod note;
mod patrol;
mod peaks;
mod proof;
mod publish;
mod reader;
mod sequencer;
mod site;
mod steward;
#[cfg(test)]
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../tests/it/support.rs"]
mod support;
mod tile;
mod tree;
mod verify;

pub use anchor::{AnchorFile, Anchored, write_whole};
pub use body::{BODY_LEN_MAX, Record, parse_bodies, parse_entries};
pub use cosign::{COSIGNATURES_LEN_MAX, Cosignature, WitnessKey, add_checkpoint, known_size};
pub use database::{Appended, Batch, LogStore, StoredHead, Turn};
pub use enclosed::{Appending, Enclosed, Fencing};
pub use error::{AppendError, EncloseError, LogError, LogStoreError, VerifyFailure, VerifyProblem};
pub use export::{Exported, export, export_rows};
pub use journal::parse_frame;
pub use log::rows::RowsOptions;
pub use log::{
    Head, HeadWatch, Keys, KnownElsewhere, Limits, Log, LogHealth, LogOptions, NoteReader, Position, Recovered,
};
pub use note::{Checkpoint, NoteError, VerifierKey};
pub use peaks::Peaks;
pub use proof::{PROOF_LEN_MAX, Tiles, is_consistent};
pub use reader::Reader;
pub use site::{Site, clear, site};
pub use tree::Hash;
pub use verify::{JournalPlace, Remembered, Report, Tail, verify, verify_rows, verify_with_journal};
