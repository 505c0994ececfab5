//! The operations, one module per resource.

pub mod app;
pub mod audit;
pub mod backup;
pub mod data;
pub mod domain;
pub mod evidence;
pub mod key;
pub mod label;
pub mod master;
pub mod retire;
pub mod root;
pub mod system;
pub mod token;

use keyrail_core::key::KeyChange;
use keyrail_store::Change;

use crate::error::EngineError;

/// The most items of one page of a list.
pub const PAGE_LEN_MAX: usize = 1_000;

/// How many labels there may be: every sweep reads them all.
pub const LABELS_MAX: u64 = 256;

/// How many domains there may be.
pub const DOMAINS_MAX: u64 = 10_000;

/// How many apps there may be, in all domains.
pub const APPS_MAX: u64 = 50_000;

/// How many tokens there may be, those that are over included until they are forgotten.
pub const TOKENS_MAX: u64 = 50_000;

/// Refuses one more of what there are enough of.
pub(crate) fn room_for(count: u64, what: &'static str, max: u64) -> Result<(), EngineError> {
    if count < max { Ok(()) } else { Err(EngineError::TooMany { what, max }) }
}

/// Puts the rows of a keyring's change into a transaction.
pub fn put_key_change(change: &mut Change, rows: &KeyChange) {
    change.update(&rows.key);
    // The former active version goes first: at no moment are there two.
    let (active, others): (Vec<_>, Vec<_>) = rows.changed.iter().partition(|row| row.state.encrypts());
    for row in others.into_iter().chain(active) {
        change.update(row);
    }
    if let Some(row) = &rows.added {
        change.insert(row);
    }
}
