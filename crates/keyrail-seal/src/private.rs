//! Files that hold a secret: read by their owner alone, or not at all.

use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::SealError;

/// What a path may lead to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A plain file, and no link to one.
    PlainFile,
    /// A plain file, also through a link, or a pipe that another program writes to.
    FileOrPipe,
    /// What this process was started with, be it a terminal.
    Handed,
}

/// Reads as much as `out` holds; what fills it whole was longer than it may be. `what` names the thing in errors.
///
/// # Errors
/// [`SealError::File`], [`SealError::Permissions`] when others than its owner may read or write it,
/// [`SealError::Malformed`] when it is something else than a file.
pub(crate) fn read<'a>(path: &Path, kind: Kind, out: &'a mut [u8], what: &'static str) -> Result<&'a [u8], SealError> {
    let failed = |source| SealError::File { action: "read", path: path.to_owned(), source };
    let flags = if kind == Kind::PlainFile { OFlags::NOFOLLOW | OFlags::NONBLOCK } else { OFlags::empty() };
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    require_private(&metadata, path, kind, what)?;
    let mut len = 0;
    loop {
        match file.read(out.get_mut(len..).unwrap_or_default()).map_err(failed)? {
            0 => return Ok(out.get(..len).unwrap_or_default()),
            more => len += more,
        }
    }
}

/// A file belongs to this user, and nobody else may read or write it. Whoever reads a pipe has been handed it.
fn require_private(metadata: &Metadata, path: &Path, kind: Kind, what: &'static str) -> Result<(), SealError> {
    if kind == Kind::Handed || (kind == Kind::FileOrPipe && metadata.file_type().is_fifo()) {
        return Ok(());
    }
    if !metadata.is_file() {
        return Err(SealError::Malformed { path: path.to_owned(), what });
    }
    let mode = metadata.mode() & 0o7777;
    let user = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 || (metadata.uid() != user && user != 0) {
        return Err(SealError::Permissions { path: path.to_owned(), mode });
    }
    Ok(())
}
