//! The log as files in another place, from wherever it is kept: for who verifies it without its database or its disk.

use std::path::{Path, PathBuf};

use crate::body::{Record, Records};
use crate::database::{LogStore, read_unproven};
use crate::error::LogError;
use crate::files::{self, FileSystem, failed, read_optional};
use crate::note::{Checkpoint, VerifierKey};
use crate::publish::{BODY_FILE_LEN_MAX, Found, Publisher, RightEdge, TEMPORARY, walk};
use crate::tile::{Tile, TileKind, partial_tiles};
use crate::tree::{Edge, Hash, LEVELS_MAX, TILE_WIDTH};
use crate::verify::{CHECKPOINT, CHECKPOINT_LEN_MAX};

/// What an export did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exported {
    /// Records in the files now.
    pub size: u64,
    /// Those among them that were not there before.
    pub added: u64,
}

/// Writes the files of the log that the checkpoint `note` signs into `dir`, with records as `read` gives them: from an index
/// on, at most so many. An earlier export in `dir` is brought up; one that was broken off is ended.
///
/// # Errors
/// [`LogError::Checkpoint`]; [`LogError::Occupied`] if something else is in `dir`; [`LogError::Older`] if more is there
/// than `note` signs; [`LogError::Mismatch`] if the records, after those in `dir`, are not the ones that it signs; what
/// `read` fails with, and [`LogError::File`].
pub fn export(
    dir: &Path,
    note: &str,
    key: &VerifierKey,
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<Record>, LogError>,
) -> Result<Exported, LogError> {
    let checkpoint = Checkpoint::verify(note, key).map_err(LogError::Checkpoint)?;
    files::make_dir(dir)?;
    require_export(dir)?;
    files::remove(&dir.join(TEMPORARY))?;
    let edge = former_edge(dir, key)?;
    let before = edge.size();
    if before > checkpoint.size {
        return Err(LogError::Older { found: checkpoint.size, remembered: before });
    }
    let file_system = FileSystem::of(dir)?;
    let mut publisher = Publisher::new(dir.to_owned(), dir, edge);
    while publisher.edge().size() < checkpoint.size {
        let next = publisher.edge().size();
        // To the end of a bundle: so much is in memory at a time.
        let left = TILE_WIDTH as u64 - next % TILE_WIDTH as u64;
        let count = usize::try_from(left.min(checkpoint.size - next)).unwrap_or(TILE_WIDTH);
        let records: Records = read(next, count)?.into_iter().take(count).collect();
        if records.len() == 0 {
            return Err(LogError::RecordsMissing { first: next });
        }
        publisher.add(records.iter())?;
    }
    if publisher.edge().root() != checkpoint.root {
        return Err(LogError::Mismatch);
    }
    if before < checkpoint.size || before == 0 {
        publisher.write_partials()?;
        // The head says that all before it is there.
        file_system.sync()?;
        publisher.place(note)?;
    }
    publisher.sweep_stale()?;
    file_system.sync()?;
    Ok(Exported { size: checkpoint.size, added: checkpoint.size - before })
}

/// [`export`] of a log in a database. It needs no key: what the rows come to is compared with what is signed.
///
/// # Errors
/// As [`export`]; [`LogError::Database`], [`LogError::RecordsAltered`] for records that cannot be read.
pub fn export_rows(dir: &Path, key: &VerifierKey, store: &mut dyn LogStore) -> Result<Exported, LogError> {
    let note = store.checkpoint().map_err(LogError::database("read"))?;
    export(dir, &note, key, &mut |first, count| read_unproven(store, first, count))
}

/// Refuses a directory with anything but the files of a log.
fn require_export(dir: &Path) -> Result<(), LogError> {
    let mut foreign: Option<PathBuf> = None;
    let known = |path: &Path, found| match found {
        Found::Dir | Found::EmptyDir => true,
        Found::File => path == Path::new(CHECKPOINT) || path == Path::new(TEMPORARY) || Tile::at(path).is_some(),
        Found::Other => false,
    };
    walk(dir, Path::new(""), &mut |path, found| {
        if !known(path, found) {
            foreign.get_or_insert_with(|| dir.join(path));
        }
    })
    .map_err(|(path, error)| failed("list", &dir.join(path))(error))?;
    foreign.map_or(Ok(()), |path| Err(LogError::Occupied { path }))
}

/// The right edge of the export that is there, from its files; they must be what its checkpoint signs.
fn former_edge(dir: &Path, key: &VerifierKey) -> Result<RightEdge, LogError> {
    let path = dir.join(CHECKPOINT);
    let Some(note) = read_optional(&path, CHECKPOINT_LEN_MAX).map_err(failed("read", &path))? else {
        return Ok(RightEdge::default());
    };
    let note = String::from_utf8(note).map_err(|_| LogError::Checkpoint(crate::note::NoteError::Form))?;
    let checkpoint = Checkpoint::verify(&note, key).map_err(LogError::Checkpoint)?;
    let mut levels: Vec<Vec<Hash>> = vec![Vec::new(); LEVELS_MAX];
    let mut bodies = Vec::new();
    for tile in partial_tiles(checkpoint.size) {
        let path = dir.join(tile.path());
        let content = read_optional(&path, BODY_FILE_LEN_MAX).map_err(failed("read", &path))?;
        let content = content.ok_or_else(|| failed("read", &path)(std::io::ErrorKind::NotFound.into()))?;
        match tile.kind {
            TileKind::Bodies => bodies = content,
            TileKind::Entries => {}
            TileKind::Hashes(level) => {
                if let Some(hashes) = levels.get_mut(level) {
                    *hashes = content.as_chunks::<32>().0.to_vec();
                }
            }
        }
    }
    let edge = Edge::from_levels(checkpoint.size, levels).and_then(|tree| RightEdge::of(tree, bodies));
    edge.filter(|edge| edge.root() == checkpoint.root).ok_or(LogError::Mismatch)
}

#[cfg(test)]
mod tests;
