//! Room on the disk for the changes that must get through. The write-ahead log holds it, as blocks behind its end: nobody
//! else can take them, and a commit finds them where it writes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::error::StoreError;

/// So many bytes are kept behind the end of the write-ahead log, for changes that must get through when the disk is full.
const RESERVE_LEN: u64 = 4 * 1024 * 1024;

/// The reserve is made anew in steps of so many bytes.
const STEP_LEN: u64 = 1024 * 1024;

/// What `st_blocks` counts in, in bytes.
const BLOCK_LEN: u64 = 512;

pub(super) struct Reserve {
    log: PathBuf,
    is_short: AtomicBool,
}

impl Reserve {
    /// That of the database in this file.
    pub(super) fn of(database: &Path) -> Self {
        let mut log = OsString::from(database);
        log.push("-wal");
        Self { log: log.into(), is_short: AtomicBool::new(false) }
    }

    /// Makes sure that the reserve is there.
    ///
    /// # Errors
    /// [`StoreError::Full`]: usual changes have to wait for room.
    pub(super) fn keep(&self) -> Result<(), StoreError> {
        let kept = self.take();
        // Whatever else is wrong with the file, SQLite tells better.
        let full = kept.err().filter(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
        self.is_short.store(full.is_some(), Ordering::Relaxed);
        full.map_or(Ok(()), |error| Err(StoreError::Full(Box::new(error))))
    }

    /// Tells as long as the last usual change found no room, and there is none still.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub(super) fn still_short(&self) -> Result<(), StoreError> {
        if self.is_short.load(Ordering::Relaxed) { self.keep() } else { Ok(()) }
    }

    fn take(&self) -> std::io::Result<()> {
        let log = match OpenOptions::new().write(true).open(&self.log) {
            Ok(log) => log,
            // It comes with the first change.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let found = log.metadata()?;
        if found.blocks() * BLOCK_LEN >= found.len() + RESERVE_LEN {
            return Ok(());
        }
        allocate(&log, found.len() + RESERVE_LEN + STEP_LEN)
    }
}

/// Gives the file blocks up to a length that it does not get.
fn allocate(file: &File, len: u64) -> std::io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, len) {
        // A file system that cannot do that keeps nothing.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reserve is behind the end, and grows with it.
    #[test]
    fn the_reserve_is_behind_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(&dir.path().join("s"));
        reserve.keep().unwrap();
        assert!(!dir.path().join("s-wal").exists(), "there is no log that could hold it");
        for len in [0, 10_000, 3_000_000] {
            let file = File::create(&reserve.log).unwrap();
            file.set_len(len).unwrap();
            reserve.keep().unwrap();
            let found = file.metadata().unwrap();
            assert_eq!(found.len(), len);
            assert!(found.blocks() * BLOCK_LEN >= len + RESERVE_LEN, "{len}: {}", found.blocks());
        }
    }
}
