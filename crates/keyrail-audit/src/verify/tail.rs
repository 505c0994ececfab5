//! What is durable and not signed yet: the journal, and the files that a writer had begun for the next checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keyrail_crypto::mac::MacKey;

use super::{Remembered, VerifyFailure, failure, read_tile};
use crate::body::{ENTRY_LEN, parse_bodies};
use crate::error::{LogError, VerifyProblem};
use crate::log::replay::Replay;
use crate::note::Checkpoint;
use crate::publish::Found;
use crate::tile::{Tile, TileKind};
use crate::tree::{Edge, TILE_WIDTH};

/// Where the journal lies, and what guards it.
#[derive(Clone, Copy)]
pub struct JournalPlace<'a> {
    /// The directory.
    pub dir: &'a Path,
    /// The journal key. Without it the records in the journal are compared with the checkpoint as far as that goes, and
    /// those behind it are taken as they are.
    pub key: Option<&'a MacKey>,
}

/// What the journal says beyond the checkpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tail {
    /// Records that are durable and that no checkpoint signs yet.
    pub records: u64,
    /// Bytes at the end of the journal that are no whole record: one that was not finished, and never acknowledged.
    pub torn_len: u64,
    /// Whether the journal key was there to tell an altered record.
    pub guarded: bool,
}

/// A file that no checkpoint covers, as it was found.
pub(super) type Leftover = (PathBuf, Found, Option<(Tile, Vec<u8>)>);

/// Reads the files that the checkpoint does not cover; one that is gone by now was a running writer's.
pub(super) fn read_leftovers(audit_dir: &Path, open: &[(PathBuf, Found)]) -> Result<Vec<Leftover>, VerifyFailure> {
    let mut leftovers = Vec::new();
    for (path, found) in open {
        let content = match Tile::at(path).filter(|_| *found == Found::File) {
            Some(tile) => match read_tile(audit_dir, &tile) {
                Ok(content) => Some((tile, content)),
                Err(failure) if matches!(failure.problem, VerifyProblem::Missing) => continue,
                Err(failure) => return Err(failure),
            },
            None => None,
        };
        leftovers.push((path.clone(), *found, content));
    }
    Ok(leftovers)
}

/// Compares the journal with the checkpoint, and what the checkpoint does not cover with the journal. Gives what
/// follows the checkpoint, and the tree with it.
pub(super) fn check(
    place: &JournalPlace<'_>,
    checkpoint: &Checkpoint,
    leftovers: &[Leftover],
    remembered: &[Remembered],
) -> Result<(Tail, Edge), VerifyFailure> {
    let replay = Replay::read(place.dir, place.key).map_err(journal_failure)?;
    let tree = follow(&replay, checkpoint, remembered)?;
    let recovered = replay.recovered();
    // A log that was closed properly has nothing that is not signed.
    if recovered.clean && tree.size() != checkpoint.size {
        return Err(failure(VerifyProblem::Mismatch, replay.path));
    }
    if !leftovers.is_empty() {
        let last = if recovered.clean { BTreeMap::new() } else { unsigned_files(&replay) };
        check_leftovers(leftovers, &last, checkpoint.size)?;
    }
    let records = tree.size() - checkpoint.size;
    Ok((Tail { records, torn_len: recovered.torn_len, guarded: place.key.is_some() }, tree))
}

/// The tree with the journal's records, which must come through the checkpoint and through every remembered head.
fn follow(replay: &Replay, checkpoint: &Checkpoint, remembered: &[Remembered]) -> Result<Edge, VerifyFailure> {
    let size = replay.edge.size() + replay.records.len() as u64;
    if replay.edge.size() > checkpoint.size || size < checkpoint.size {
        return Err(failure(VerifyProblem::Mismatch, replay.path.clone()));
    }
    if let Some(newer) = remembered.iter().find(|head| head.size > size) {
        let problem = VerifyProblem::Older { found: size, remembered: newer.size };
        return Err(VerifyFailure { problem, file: None, record: None });
    }
    let mut tree = replay.edge.tree().clone();
    for leaf in replay.records.iter().map(|logged| Some(logged.hashes.leaf)).chain([None]) {
        if tree.size() == checkpoint.size && tree.root() != checkpoint.root {
            return Err(failure(VerifyProblem::Mismatch, replay.path.clone()));
        }
        if remembered.iter().any(|head| head.size == tree.size() && head.root != tree.root()) {
            let problem = VerifyProblem::Fork { size: tree.size() };
            return Err(VerifyFailure { problem, file: None, record: None });
        }
        leaf.into_iter().for_each(|leaf| drop(tree.push(leaf)));
    }
    Ok(tree)
}

/// The widest form of each file that a writer may have written since the journal's edge.
fn unsigned_files(replay: &Replay) -> BTreeMap<(TileKind, u64), (usize, Vec<u8>)> {
    let mut edge = replay.edge.clone();
    let mut files: Vec<_> = replay.records.iter().flat_map(|logged| edge.push(logged)).collect();
    files.extend(edge.partial());
    files.into_iter().map(|(tile, content)| ((tile.kind, tile.index), (tile.width, content))).collect()
}

/// Every leftover must hold what the journal says. One of them, the file that a writer was in the middle of, may end
/// early: the system writes whole pages.
fn check_leftovers(
    leftovers: &[Leftover],
    files: &BTreeMap<(TileKind, u64), (usize, Vec<u8>)>,
    size: u64,
) -> Result<(), VerifyFailure> {
    let mut torn = 0;
    for (path, found, content) in leftovers {
        let uncovered = || failure(VerifyProblem::Uncovered, path.clone());
        let Some((tile, content)) = content else {
            if *found == Found::EmptyDir && files.keys().any(|(kind, index)| holds(path, *kind, *index)) {
                continue;
            }
            return Err(uncovered());
        };
        let expected = files.get(&(tile.kind, tile.index)).and_then(|(width, whole)| prefix(tile, *width, whole));
        let expected = expected.ok_or_else(uncovered)?;
        if content == expected {
            continue;
        }
        let early = expected.starts_with(content) && content.len().is_multiple_of(PAGE_LEN);
        if !early || tile.width <= tile.width_at(size) {
            return Err(failure(VerifyProblem::FileAltered, path.clone()));
        }
        torn += 1;
        if torn > 1 {
            return Err(uncovered());
        }
    }
    Ok(())
}

/// Whether a file of this tile, full or not, lies below a directory.
fn holds(dir: &Path, kind: TileKind, index: u64) -> bool {
    [1, TILE_WIDTH].iter().any(|width| Tile { kind, index, width: *width }.path().starts_with(dir))
}

/// What a file of fewer elements holds of one with more.
fn prefix<'a>(tile: &Tile, width: usize, whole: &'a [u8]) -> Option<&'a [u8]> {
    if tile.width > width {
        return None;
    }
    let len = match tile.kind {
        TileKind::Bodies => parse_bodies(whole)?.iter().take(tile.width).map(crate::body::Record::encoded_len).sum(),
        TileKind::Entries => ENTRY_LEN * tile.width,
        TileKind::Hashes(_) => 32 * tile.width,
    };
    whole.get(..len)
}

fn journal_failure(error: LogError) -> VerifyFailure {
    match error {
        LogError::JournalAltered { path, offset } => failure(VerifyProblem::JournalAltered { offset }, path),
        LogError::NoJournal { path } => failure(VerifyProblem::Missing, path),
        LogError::File { path, source, .. } => failure(VerifyProblem::Unreadable(source), path),
        other => failure(VerifyProblem::Unreadable(std::io::Error::other(other)), PathBuf::new()),
    }
}

/// A write that is stopped ends at such a multiple, in bytes.
const PAGE_LEN: usize = 4096;
