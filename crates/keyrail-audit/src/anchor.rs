//! A file on another volume that remembers the newest signed head: written as a whole, never made where none is.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::LogError;
use crate::files::{self, failed, read_optional};
use crate::note::{Checkpoint, NoteError, VerifierKey};

/// The longest anchor that is read, in bytes.
const ANCHOR_LEN_MAX: u64 = 4096;

/// What an anchor file holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Anchored {
    /// The head that it remembers.
    pub checkpoint: Checkpoint,
    /// When it was written, as its file system says.
    pub written: Option<SystemTime>,
}

/// An anchor in a file.
#[derive(Clone, Debug)]
pub struct AnchorFile(PathBuf);

impl AnchorFile {
    /// The anchor at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The head that it remembers; `None` where there is no such file.
    ///
    /// # Errors
    /// [`LogError::File`] when it cannot be read; [`LogError::Checkpoint`] when it holds no head of the log of `key`.
    pub fn read(&self, key: &VerifierKey) -> Result<Option<Anchored>, LogError> {
        let Some(bytes) = read_optional(&self.0, ANCHOR_LEN_MAX).map_err(failed("read", &self.0))? else {
            return Ok(None);
        };
        let note = std::str::from_utf8(&bytes).map_err(|_| LogError::Checkpoint(NoteError::Form))?;
        let checkpoint = Checkpoint::verify_cosigned(note, key).map_err(LogError::Checkpoint)?;
        let written = std::fs::metadata(&self.0).and_then(|found| found.modified()).ok();
        Ok(Some(Anchored { checkpoint, written }))
    }

    /// Makes the anchor.
    ///
    /// # Errors
    /// [`LogError::Exists`]; [`LogError::File`].
    pub fn create(&self, note: &str) -> Result<(), LogError> {
        match std::fs::symlink_metadata(&self.0) {
            Ok(_) => Err(LogError::Exists { path: self.0.clone() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.write(note),
            Err(error) => Err(failed("read", &self.0)(error)),
        }
    }

    /// Puts a newer head in the place of the one that it remembers, durably. Where the file is gone none is made: its
    /// volume may not be mounted, and a file in the directory beneath would remember nothing of what the anchor knew.
    ///
    /// # Errors
    /// [`LogError::File`].
    pub fn update(&self, note: &str) -> Result<(), LogError> {
        std::fs::symlink_metadata(&self.0).map_err(failed("write", &self.0))?;
        self.write(note)
    }

    fn write(&self, note: &str) -> Result<(), LogError> {
        write_in_place(&self.0, note.as_bytes())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Writes a small file as a whole, durably; its directory is made if it is not there.
///
/// # Errors
/// [`LogError::File`].
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), LogError> {
    if let Some(parent) = path.parent() {
        files::make_dir(parent)?;
    }
    write_in_place(path, content)
}

fn write_in_place(path: &Path, content: &[u8]) -> Result<(), LogError> {
    let temporary = path.with_added_extension("new");
    let written = files::replace_durably(&temporary, path, content);
    if written.is_err() {
        files::discard(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::files::Step;
    use crate::files::faults::{Fault, Faults, Plan};
    use keyrail_crypto::secret::SigningSeed;

    /// A full volume, one that lies, and one that breaks: at each step the file holds the old head or the new one.
    #[test]
    fn an_anchor_is_whole_whatever_step_fails() {
        let seed = SigningSeed::generate().unwrap();
        let key = VerifierKey::new("log", seed.public_key().unwrap()).unwrap();
        let note = |size| Checkpoint { origin: "log".to_owned(), size, root: [1; 32] }.sign(&seed, &key).unwrap();
        for kind in [Step::Write, Step::Sync, Step::Rename, Step::SyncDir] {
            for (fault, error) in [
                (Fault::NotStored, Errno::NOSPC),
                (Fault::HalfStored, Errno::NOSPC),
                (Fault::StoredButFailed, Errno::IO),
                (Fault::NotStored, Errno::ROFS),
            ] {
                let dir = tempfile::tempdir().unwrap();
                let anchor = AnchorFile::new(dir.path().join("anchor"));
                let size = || anchor.read(&key).unwrap().unwrap().checkpoint.size;
                anchor.create(&note(1)).unwrap();
                {
                    let planned = Faults::plan(dir.path(), Plan { kind, fault, skip: 0, count: 1, error });
                    assert!(anchor.update(&note(2)).is_err(), "{kind:?} {fault:?}");
                    assert_eq!(planned.hit(), 1);
                    assert!([1, 2].contains(&size()), "{kind:?} {fault:?}");
                }
                anchor.update(&note(3)).unwrap();
                assert_eq!(size(), 3, "{kind:?} {fault:?}: it works again");
                assert_eq!(
                    std::fs::read_dir(dir.path()).unwrap().count(),
                    1,
                    "{kind:?} {fault:?}: nothing is left over"
                );
            }
        }
    }

    #[test]
    fn an_anchor_that_is_not_there_is_not_made_by_an_update() {
        let dir = tempfile::tempdir().unwrap();
        let anchor = AnchorFile::new(dir.path().join("anchor"));
        assert!(anchor.update("note").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        anchor.create("note").unwrap();
        assert!(matches!(anchor.create("note"), Err(LogError::Exists { .. })));
    }
}
