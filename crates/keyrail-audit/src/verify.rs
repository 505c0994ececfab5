//! Offline verification: the files and a public key, nothing else.

use std::path::{Path, PathBuf};

use crate::body::{ENTRY_LEN, encode_entry, parse_bodies};
use crate::error::{VerifyFailure, VerifyProblem};
use crate::files::read_optional;
use crate::note::{Checkpoint, NoteError, VerifierKey};
use crate::publish::{BODY_FILE_LEN_MAX, walk};
use crate::tile::{Tile, TileKind};
use crate::tree::{Edge, FullTile, Hash, TILE_WIDTH, leaf_hash};

/// How often verification begins anew because the log grew meanwhile.
const ATTEMPTS_MAX: usize = 16;

/// The longest checkpoint file, in bytes.
const CHECKPOINT_LEN_MAX: u64 = 4096;

/// A head of the log that somebody remembers from before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// Records in the log then.
    pub size: u64,
    /// Root hash then.
    pub root: Hash,
}

impl From<&Checkpoint> for Remembered {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { size: checkpoint.size, root: checkpoint.root }
    }
}

/// What was verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// Records in the log.
    pub records: u64,
    /// Root hash.
    pub root: Hash,
}

/// Verifies a log: every byte of every file under `audit_dir`, against the checkpoint that `key` signed and
/// the heads that are remembered. Read-only. A log that grows meanwhile is verified at its newer size.
///
/// # Errors
/// [`VerifyFailure`] with the first bad record or file.
pub fn verify(audit_dir: &Path, key: &VerifierKey, remembered: &[Remembered]) -> Result<Report, VerifyFailure> {
    for _ in 1..ATTEMPTS_MAX {
        let note = read_checkpoint(audit_dir)?;
        let verified = verify_at(audit_dir, key, remembered, &note);
        if verified.is_ok() || read_checkpoint(audit_dir)? == note {
            return verified;
        }
    }
    verify_at(audit_dir, key, remembered, &read_checkpoint(audit_dir)?)
}

fn read_checkpoint(audit_dir: &Path) -> Result<Vec<u8>, VerifyFailure> {
    read(audit_dir, Path::new(CHECKPOINT), CHECKPOINT_LEN_MAX)
}

const CHECKPOINT: &str = "checkpoint";

fn verify_at(
    audit_dir: &Path,
    key: &VerifierKey,
    remembered: &[Remembered],
    note: &[u8],
) -> Result<Report, VerifyFailure> {
    let invalid = |error| VerifyFailure {
        problem: VerifyProblem::Checkpoint(error),
        file: Some(CHECKPOINT.into()),
        record: None,
    };
    let note = std::str::from_utf8(note).map_err(|_| invalid(NoteError::Form))?;
    let checkpoint = Checkpoint::verify(note, key).map_err(invalid)?;
    if let Some(newer) = remembered.iter().find(|head| head.size > checkpoint.size) {
        let problem = VerifyProblem::Older { found: checkpoint.size, remembered: newer.size };
        return Err(VerifyFailure { problem, file: None, record: None });
    }
    let mut walker = Walker { audit_dir, edge: Edge::default(), remembered };
    walker.check_remembered()?;
    let bundles = checkpoint.size.div_ceil(TILE_WIDTH as u64);
    for index in 0..bundles {
        let left = usize::try_from(checkpoint.size - index * TILE_WIDTH as u64).unwrap_or(TILE_WIDTH);
        walker.bundle(index, left.min(TILE_WIDTH))?;
    }
    walker.partial_tiles()?;
    if walker.edge.root() != checkpoint.root {
        return Err(VerifyFailure { problem: VerifyProblem::Root, file: Some(CHECKPOINT.into()), record: None });
    }
    walker.stray_files(checkpoint.size)?;
    Ok(Report { origin: checkpoint.origin, records: checkpoint.size, root: checkpoint.root })
}

struct Walker<'a> {
    audit_dir: &'a Path,
    edge: Edge,
    remembered: &'a [Remembered],
}

impl Walker<'_> {
    /// One bundle of records: bodies against entries, entries against hashes.
    fn bundle(&mut self, index: u64, width: usize) -> Result<(), VerifyFailure> {
        let first = index * TILE_WIDTH as u64;
        let path = Tile { kind: TileKind::Bodies, index, width }.path();
        let bodies = read(self.audit_dir, &path, BODY_FILE_LEN_MAX)?;
        let records = parse_bodies(&bodies).filter(|records| records.len() == width);
        let records = records.ok_or_else(|| failure(VerifyProblem::FileAltered, path.clone()))?;
        let entries_path = Tile { kind: TileKind::Entries, index, width }.path();
        let entries = read(self.audit_dir, &entries_path, (ENTRY_LEN * TILE_WIDTH) as u64)?;
        let mut expected = Vec::with_capacity(ENTRY_LEN * width);
        for (record, position) in records.iter().zip(first..) {
            let start = expected.len();
            encode_entry(&record.entry(), &mut expected);
            if entries.get(start..start + ENTRY_LEN) != expected.get(start..) {
                return Err(VerifyFailure {
                    problem: VerifyProblem::Altered,
                    file: Some(path),
                    record: Some(position),
                });
            }
            for full in self.edge.push(leaf_hash(&record.entry())) {
                self.full_tile(&full)?;
            }
            self.check_remembered()?;
        }
        if entries != expected { Err(failure(VerifyProblem::FileAltered, entries_path)) } else { Ok(()) }
    }

    fn full_tile(&self, full: &FullTile) -> Result<(), VerifyFailure> {
        self.hashes(Tile::full(TileKind::Hashes(full.level), full.index), &full.hashes)
    }

    fn partial_tiles(&self) -> Result<(), VerifyFailure> {
        for (level, hashes) in self.edge.levels().iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            let index = self.edge.size() >> (8 * (level + 1));
            self.hashes(Tile { kind: TileKind::Hashes(level), index, width: hashes.len() }, hashes)?;
        }
        Ok(())
    }

    fn hashes(&self, tile: Tile, hashes: &[Hash]) -> Result<(), VerifyFailure> {
        let path = tile.path();
        let found = read(self.audit_dir, &path, (32 * TILE_WIDTH) as u64)?;
        if found == hashes.concat() { Ok(()) } else { Err(failure(VerifyProblem::FileAltered, path)) }
    }

    fn check_remembered(&self) -> Result<(), VerifyFailure> {
        let size = self.edge.size();
        let forked = self.remembered.iter().any(|head| head.size == size && head.root != self.edge.root());
        if forked {
            Err(VerifyFailure { problem: VerifyProblem::Fork { size }, file: None, record: None })
        } else {
            Ok(())
        }
    }

    /// Every file must be one that the size demands, or an older partial tile that is a true prefix of one.
    fn stray_files(&self, size: u64) -> Result<(), VerifyFailure> {
        let mut files = Vec::new();
        let unreadable = |_| failure(VerifyProblem::Stray, PathBuf::new());
        walk(self.audit_dir, Path::new(""), &mut |path| files.push(path.to_owned())).map_err(unreadable)?;
        files.sort();
        for path in files.iter().filter(|path| path.as_path() != Path::new(CHECKPOINT)) {
            let tile = Tile::at(path).ok_or_else(|| failure(VerifyProblem::Stray, path.clone()))?;
            let width = width_at(&tile, size);
            if width == 0 || tile.width > width {
                return Err(failure(VerifyProblem::Stray, path.clone()));
            }
            if tile.width < width {
                self.prefix(&tile, width, path)?;
            }
        }
        Ok(())
    }

    fn prefix(&self, tile: &Tile, width: usize, path: &Path) -> Result<(), VerifyFailure> {
        let whole = read(self.audit_dir, &Tile { width, ..*tile }.path(), BODY_FILE_LEN_MAX)?;
        let part = read(self.audit_dir, path, BODY_FILE_LEN_MAX)?;
        let len = match tile.kind {
            TileKind::Hashes(_) => 32 * tile.width,
            TileKind::Entries => ENTRY_LEN * tile.width,
            TileKind::Bodies => parse_bodies(&whole)
                .unwrap_or_default()
                .iter()
                .take(tile.width)
                .map(|record| record.encoded_len())
                .sum(),
        };
        if whole.get(..len) == Some(part.as_slice()) {
            Ok(())
        } else {
            Err(failure(VerifyProblem::FileAltered, path.to_owned()))
        }
    }
}

/// How many elements the tile of this kind and index has in a log of this size.
fn width_at(tile: &Tile, size: u64) -> usize {
    let level = if let TileKind::Hashes(level) = tile.kind { level } else { 0 };
    let elements = if level < 8 { size >> (8 * level) } else { 0 };
    let before = tile.index.saturating_mul(TILE_WIDTH as u64);
    usize::try_from(elements.saturating_sub(before)).unwrap_or(TILE_WIDTH).min(TILE_WIDTH)
}

fn read(audit_dir: &Path, relative: &Path, len_max: u64) -> Result<Vec<u8>, VerifyFailure> {
    match read_optional(&audit_dir.join(relative), len_max) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(failure(VerifyProblem::Missing, relative.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            Err(failure(VerifyProblem::FileAltered, relative.to_owned()))
        }
        Err(error) => Err(failure(VerifyProblem::Unreadable(error), relative.to_owned())),
    }
}

fn failure(problem: VerifyProblem, file: PathBuf) -> VerifyFailure {
    VerifyFailure { problem, file: Some(file), record: None }
}
