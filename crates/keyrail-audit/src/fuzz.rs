//! Private parsers of outside bytes, for the fuzz targets. No part of the API.

use std::path::{Path, PathBuf};

use keyrail_crypto::mac::MacKey;

use crate::body::Record;
use crate::error::LogError;
use crate::journal;
use crate::publish::RightEdge;
use crate::tile::Tile;

/// Reads a tile's path and writes it again.
pub fn tile_path(path: &Path) -> Option<PathBuf> {
    Tile::at(path).map(|tile| tile.path())
}

/// Reads a right edge and writes it again.
pub fn right_edge(bytes: &[u8]) -> Option<Vec<u8>> {
    RightEdge::decode(bytes).map(|edge| edge.encode())
}

/// A journal file of these frames (kind, first index, payload), each with its MAC, which no fuzzer finds.
pub fn journal(frames: &[(u8, u64, &[u8])], sequence: u64, key: &MacKey) -> Vec<u8> {
    journal::assemble(frames, sequence, key)
}

/// Reads a journal file: its records, and how many bytes at its end are torn. `None` if nothing can be in it.
///
/// # Errors
/// [`LogError::JournalAltered`].
pub fn replay(bytes: &[u8], sequence: u64, key: &MacKey) -> Result<Option<(Vec<Record>, u64)>, LogError> {
    let replayed = journal::replay_bytes(bytes, Path::new("journal"), sequence, Some(key))?;
    Ok(replayed.map(|state| (state.records, state.torn_len)))
}
