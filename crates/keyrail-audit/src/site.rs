//! What lies where a log is to be made: nothing, what a maker left that was killed, or something to keep.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::LogError;
use crate::files::failed;
use crate::journal::{self, JournalFile, TEMPORARY as BEGINNING};
use crate::log::replay::Replay;
use crate::note::Checkpoint;
use crate::publish::TEMPORARY as PUBLISHING;

/// The one file of a log without records.
const CHECKPOINT: &str = "checkpoint";

/// What lies in the two directories of a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Site {
    /// Nothing, or what [`crate::Log::create`] leaves when it is killed: nothing in it is evidence.
    Free,
    /// A log that holds or held records: evidence.
    Log,
    /// Something that no maker of a log leaves there.
    Foreign {
        /// Where it lies.
        path: PathBuf,
    },
}

/// Looks at the directories of a log; nothing is changed.
///
/// # Errors
/// [`LogError::File`] when one of them cannot be read.
pub fn site(audit_dir: &Path, journal_dir: &Path) -> Result<Site, LogError> {
    let path = audit_dir.join(CHECKPOINT);
    let mut foreign = other_than(audit_dir, std::slice::from_ref(&path))?;
    match std::fs::read(&path) {
        // A power cut kept the name and not the content.
        Ok(note) if note.iter().all(|byte| *byte == 0) => {}
        Ok(note) => match std::str::from_utf8(&note).ok().and_then(|note| Checkpoint::parse_unverified(note).ok()) {
            Some(checkpoint) if checkpoint.size > 0 => return Ok(Site::Log),
            Some(_) => {}
            None => foreign = foreign.or(Some(path)),
        },
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(_) => foreign = foreign.or(Some(path)),
    }
    if let Some(path) = foreign.or(other_than(journal_dir, &left_in(journal_dir))?) {
        return Ok(Site::Foreign { path });
    }
    // Records may be durable in the journal that no checkpoint covers yet.
    match Replay::read(journal_dir, None) {
        Ok(replay) if replay.edge.size() == 0 && replay.records.len() == 0 => Ok(Site::Free),
        Err(LogError::NoJournal { .. }) => Ok(Site::Free),
        Err(LogError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Site::Free),
        Err(error @ LogError::File { .. }) => Err(error),
        Err(LogError::JournalAltered { path, .. }) if journal::is_empty_beginning(&path)? => Ok(Site::Free),
        Ok(_) | Err(_) => Ok(Site::Log),
    }
}

/// Removes what a killed maker left in a [`Site::Free`], and nothing else.
///
/// # Errors
/// [`LogError::File`]; whatever else turned up in the meantime stays.
pub fn clear(audit_dir: &Path, journal_dir: &Path) -> Result<(), LogError> {
    for path in left_in(journal_dir).iter().chain(&[audit_dir.join(CHECKPOINT)]) {
        match std::fs::remove_file(path) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(failed("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a killed maker leaves in the journal's directory.
fn left_in(journal_dir: &Path) -> [PathBuf; 3] {
    [journal_dir.join(BEGINNING), journal_dir.join(PUBLISHING), JournalFile::path_in(journal_dir, 1)]
}

/// Something in `dir` that is none of these files: a directory or a link of that name is none, either.
fn other_than(dir: &Path, known: &[PathBuf]) -> Result<Option<PathBuf>, LogError> {
    match std::fs::symlink_metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", dir)(error)),
        Ok(found) if !found.is_dir() => return Ok(Some(dir.to_owned())),
        Ok(_) => {}
    }
    for entry in std::fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        let is_file = entry.file_type().map_err(failed("read", dir))?.is_file();
        if !is_file || !known.contains(&entry.path()) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}
