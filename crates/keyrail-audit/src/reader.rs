//! Reading records from the evidence, without keys and without trust.

use std::path::{Path, PathBuf};

use crate::body::{Record, parse_bodies};
use crate::error::LogError;
use crate::files::{failed, read_optional};
use crate::note::Checkpoint;
use crate::publish::BODY_FILE_LEN_MAX;
use crate::tile::{Tile, TileKind};
use crate::tree::TILE_WIDTH;

/// Reads the records of a log on disk, as far as its checkpoint says; nothing is verified here.
pub struct Reader {
    audit_dir: PathBuf,
    size: u64,
}

impl Reader {
    /// The log at `audit_dir`.
    ///
    /// # Errors
    /// [`LogError::File`], [`LogError::Checkpoint`].
    pub fn open(audit_dir: &Path) -> Result<Self, LogError> {
        let path = audit_dir.join("checkpoint");
        Self::of(audit_dir, &std::fs::read_to_string(&path).map_err(failed("read", &path))?)
    }

    /// The log at `audit_dir`, as far as this checkpoint of it says.
    ///
    /// # Errors
    /// [`LogError::Checkpoint`].
    pub fn of(audit_dir: &Path, note: &str) -> Result<Self, LogError> {
        let checkpoint = Checkpoint::parse_unverified(note).map_err(LogError::Checkpoint)?;
        Ok(Self::at(audit_dir, checkpoint.size))
    }

    pub(crate) fn at(audit_dir: &Path, size: u64) -> Self {
        Self { audit_dir: audit_dir.to_owned(), size }
    }

    /// Records in the log.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Records from `first` on, at most `count`.
    ///
    /// # Errors
    /// [`LogError::File`] when a body file is missing or not of the expected form.
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        let end = first.saturating_add(count as u64).min(self.size);
        let mut records = Vec::new();
        let mut next = first;
        while next < end {
            let bundle = next / TILE_WIDTH as u64;
            let skip = (next % TILE_WIDTH as u64) as usize;
            let take = usize::try_from(end - next).unwrap_or(TILE_WIDTH).min(TILE_WIDTH - skip);
            records.extend(self.bundle(bundle)?.into_iter().skip(skip).take(take));
            next += take as u64;
        }
        Ok(records)
    }

    /// A bundle of records. A running log replaces partial bundles by longer ones: each is a prefix of the
    /// next, so a longer one serves as well.
    fn bundle(&self, index: u64) -> Result<Vec<Record>, LogError> {
        let left = self.size - index * TILE_WIDTH as u64;
        let width = usize::try_from(left).unwrap_or(TILE_WIDTH).min(TILE_WIDTH);
        for width in width..=TILE_WIDTH {
            let path = self.audit_dir.join(Tile { kind: TileKind::Bodies, index, width }.path());
            let Some(bytes) = read_optional(&path, BODY_FILE_LEN_MAX).map_err(failed("read", &path))? else { continue };
            let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "it does not hold records");
            return parse_bodies(&bytes)
                .filter(|records| records.len() == width)
                .ok_or_else(|| failed("read", &path)(malformed()));
        }
        let path = self.audit_dir.join(Tile { kind: TileKind::Bodies, index, width }.path());
        Err(failed("read", &path)(std::io::ErrorKind::NotFound.into()))
    }
}
