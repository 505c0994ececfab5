//! The file operations of the log, in one place: the next step of hardening injects faults here.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::LogError;

/// Gives an IO error the path and the action that it lacks.
pub(crate) fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |source| LogError::File { action, path: path.to_owned(), source }
}

/// Makes a directory of the owner's alone, parents included.
pub(crate) fn make_dir(path: &Path) -> Result<(), LogError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

/// Writes a file under a temporary name outside the evidence, and moves it into place.
pub(crate) fn replace(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), LogError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(temporary).and_then(|mut file| file.write_all(content));
    written.map_err(failed("write", temporary))?;
    match std::fs::rename(temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dir(path.parent().unwrap_or(Path::new(".")))?;
            std::fs::rename(temporary, path).map_err(failed("write", path))
        }
        moved => moved.map_err(failed("write", path)),
    }
}

/// Makes everything written to the file system of `dir` durable, with one call instead of one per file.
pub(crate) fn sync_file_system(dir: &Path) -> Result<(), LogError> {
    let file = File::open(dir).map_err(failed("open", dir))?;
    rustix::fs::syncfs(&file).map_err(|error| failed("sync", dir)(error.into()))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(failed("sync", dir))
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), LogError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The content of a file that may be absent, if it is at most `len_max` bytes long.
pub(crate) fn read_optional(path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > len_max => {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is longer than any of its kind"))
        }
        Ok(_) => std::fs::read(path).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
