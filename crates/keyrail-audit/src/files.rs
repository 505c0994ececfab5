//! The file operations of the log, in one place: the tests put faults in here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::LogError;

/// Gives an IO error the path and the action that it lacks.
pub(crate) fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |source| LogError::File { action, path: path.to_owned(), source }
}

/// A kind of operation, for the fault table of the tests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Append,
    Create,
    MakeDir,
    Remove,
    Rename,
    Room,
    Sync,
    SyncDir,
    SyncFileSystem,
    Write,
}

/// Does a step. In tests it may fail instead of being done, or be done and reported as failed.
fn step<T>(kind: Step, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    return faults::around(kind, path, work);
    #[cfg(not(test))]
    {
        let _ = (kind, path);
        work()
    }
}

/// [`step`] for what writes bytes. In tests half of them may be written before it fails.
fn write_step(kind: Step, path: &Path, bytes: &[u8], work: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
    #[cfg(test)]
    return faults::around_write(kind, path, bytes, work);
    #[cfg(not(test))]
    {
        let _ = (kind, path);
        work(bytes)
    }
}

/// Makes a directory of the owner's alone, parents included.
pub(crate) fn make_dir(path: &Path) -> Result<(), LogError> {
    let make = || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    step(Step::MakeDir, path, make).map_err(failed("make", path))
}

/// Makes a file that gets its name later; what a former attempt left of it goes.
pub(crate) fn begin_at(temporary: &Path) -> Result<File, LogError> {
    step(Step::Create, temporary, || open_emptied(temporary)).map_err(failed("create", temporary))
}

/// Gives a file that was begun its name, which no other one has. It is durable only with its directory.
pub(crate) fn give_name(temporary: &Path, path: &Path) -> Result<(), LogError> {
    if std::fs::symlink_metadata(path).is_ok() {
        // To rename would replace it without a word.
        return Err(failed("create", path)(io::ErrorKind::AlreadyExists.into()));
    }
    step(Step::Rename, path, || std::fs::rename(temporary, path)).map_err(failed("create", path))
}

/// Frees the room of a file that was begun in vain; one that stays is overwritten by the next attempt.
pub(crate) fn discard(temporary: &Path) {
    let _stays = std::fs::remove_file(temporary);
}

/// Fills a part of a file with zeros, so that the disk has room for what is written there later. They are durable with
/// that.
pub(crate) fn fill(file: &File, path: &Path, part: std::ops::Range<u64>) -> Result<(), LogError> {
    let zeros = vec![0; usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(0)];
    let filled = write_step(Step::Room, path, &zeros, |zeros| file.write_all_at(zeros, part.start));
    filled.map_err(failed("make room in", path))
}

/// Writes at a place of a file and makes it durable.
pub(crate) fn write_at(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
    let written = write_step(Step::Append, path, bytes, |bytes| file.write_all_at(bytes, offset));
    written.map_err(failed("write", path))?;
    step(Step::Sync, path, || file.sync_data()).map_err(failed("write", path))
}

/// Makes sure that an open file is still the one at its path, and no shorter than `len`.
pub(crate) fn require_in_place(file: &File, path: &Path, len: u64) -> Result<(), LogError> {
    let open = file.metadata().map_err(failed("look at", path))?;
    let is_same = std::fs::symlink_metadata(path).is_ok_and(|at| (at.dev(), at.ino()) == (open.dev(), open.ino()));
    if is_same && open.len() >= len { Ok(()) } else { Err(LogError::NotInPlace { path: path.to_owned() }) }
}

/// Writes a file that nothing refers to yet; what a former attempt left of it is overwritten.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), LogError> {
    let write = || write_step(Step::Write, path, content, |bytes| open_emptied(path)?.write_all(bytes));
    match write() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dir(path.parent().unwrap_or(Path::new(".")))?;
            write().map_err(failed("write", path))
        }
        written => written.map_err(failed("write", path)),
    }
}

/// Writes a file under a temporary name outside the evidence, and moves it into place.
pub(crate) fn replace(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), LogError> {
    let write = |bytes: &[u8]| open_emptied(temporary)?.write_all(bytes);
    write_step(Step::Write, temporary, content, write).map_err(failed("write", temporary))?;
    let rename = || step(Step::Rename, path, || std::fs::rename(temporary, path));
    match rename() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dir(path.parent().unwrap_or(Path::new(".")))?;
            rename().map_err(failed("write", path))
        }
        moved => moved.map_err(failed("write", path)),
    }
}

/// [`replace`] that is durable when it returns, in a directory that must be there.
pub(crate) fn replace_durably(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), LogError> {
    let mut file = None;
    let write = |bytes: &[u8]| file.insert(open_emptied(temporary)?).write_all(bytes);
    write_step(Step::Write, temporary, content, write).map_err(failed("write", temporary))?;
    let sync = || file.map_or(Ok(()), |file| file.sync_all());
    step(Step::Sync, temporary, sync).map_err(failed("write", temporary))?;
    step(Step::Rename, path, || std::fs::rename(temporary, path)).map_err(failed("write", path))?;
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    sync_dir(parent)
}

/// Opens a plain file, emptied, and makes it if it is not there. What else lies there is removed: to write through a
/// link would change a file elsewhere, and a pipe takes nothing until somebody reads it.
fn open_emptied(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    // Nearly always there is none yet.
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    // Not emptied on opening: it is not known yet what is opened.
    match options.clone().create(true).truncate(false).open(path) {
        Ok(file) if file.metadata()?.is_file() => return file.set_len(0).map(|()| file),
        Ok(_) => {}
        Err(error) if std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) => return Err(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    std::fs::remove_file(path)?;
    options.create_new(true).open(path)
}

/// A handle to a file system, opened before anything is written: it is told of every write that fails later.
pub(crate) struct FileSystem {
    dir: File,
    path: std::path::PathBuf,
}

impl FileSystem {
    /// The file system that a directory is on.
    pub(crate) fn of(path: &Path) -> Result<Self, LogError> {
        Ok(Self { dir: File::open(path).map_err(failed("open", path))?, path: path.to_owned() })
    }

    /// Makes everything written to it durable, with one call instead of one per file.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        let sync = || rustix::fs::syncfs(&self.dir).map_err(io::Error::from);
        step(Step::SyncFileSystem, &self.path, sync).map_err(failed("sync", &self.path))
    }
}

/// Makes durable what another process wrote to a file and perhaps did not sync.
pub(crate) fn sync_file(path: &Path) -> Result<(), LogError> {
    let sync = || File::open(path).and_then(|file| file.sync_all());
    step(Step::Sync, path, sync).map_err(failed("sync", path))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    let sync = || File::open(dir).and_then(|dir| dir.sync_all());
    step(Step::SyncDir, dir, sync).map_err(failed("sync", dir))
}

/// Whether there is nothing at a path, for sure.
pub(crate) fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), LogError> {
    match step(Step::Remove, path, || std::fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The content of a file that may be absent. An error of kind `FileTooLarge` if it is longer than `len_max`
/// bytes, and of kind `InvalidInput` if it is not a plain file: a link could lead anywhere, a pipe never ends.
pub(crate) fn read_optional(path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a link"));
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    let mut content = Vec::new();
    file.take(len_max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > len_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is longer than any of its kind"));
    }
    Ok(Some(content))
}

#[cfg(test)]
pub(crate) mod faults;
