//! The operations, one module per resource.

pub mod app;
pub mod audit;
pub mod data;
pub mod domain;
pub mod key;
pub mod label;
pub mod master;
pub mod retire;
pub mod system;
pub mod token;

use keyrail_core::key::KeyChange;
use keyrail_store::Change;

/// The most items of one page of a list.
pub const PAGE_LEN_MAX: usize = 1_000;

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
