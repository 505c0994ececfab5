//! Files that hold a secret: read by their owner alone, or not at all.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::SealError;

/// How long a request waits for whoever writes to a pipe, in seconds.
const PIPE_SECONDS_MAX: u64 = 10;

/// How long a pipe is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PipeWait {
    /// As long as its writer takes: nothing else waits for this process yet.
    Forever,
    /// As long as a request may keep others waiting.
    Limited,
}

/// What a path may lead to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A plain file, and no link to one.
    PlainFile,
    /// A plain file, also through a link, or a pipe that another program writes to.
    FileOrPipe(PipeWait),
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
    let flags = match kind {
        Kind::PlainFile => OFlags::NOFOLLOW | OFlags::NONBLOCK,
        Kind::FileOrPipe(PipeWait::Limited) => OFlags::NONBLOCK,
        Kind::FileOrPipe(PipeWait::Forever) | Kind::Handed => OFlags::empty(),
    };
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    require_private(&metadata, path, kind, what)?;
    let is_waited_for = kind == Kind::FileOrPipe(PipeWait::Limited) && metadata.file_type().is_fifo();
    let deadline = is_waited_for.then(|| Instant::now() + Duration::from_secs(PIPE_SECONDS_MAX));
    let mut len = 0;
    loop {
        if let Some(deadline) = deadline {
            await_writer(&file, deadline).map_err(failed)?;
        }
        match file.read(out.get_mut(len..).unwrap_or_default()) {
            Ok(0) => return Ok(out.get(..len).unwrap_or_default()),
            Ok(more) => len += more,
            Err(error) if deadline.is_some() && error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Waits until something was written to a pipe, or its writer has closed it.
fn await_writer(pipe: &File, deadline: Instant) -> std::io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(std::io::Error::new(ErrorKind::TimedOut, "nobody wrote to the pipe in time")),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file belongs to this user, and nobody else may read or write it. Whoever reads a pipe has been handed it.
fn require_private(metadata: &Metadata, path: &Path, kind: Kind, what: &'static str) -> Result<(), SealError> {
    if kind == Kind::Handed || (matches!(kind, Kind::FileOrPipe(_)) && metadata.file_type().is_fifo()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    /// What a request waits for ends: no writer at all, one that writes nothing, and one that never closes.
    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = pipe(dir.path());
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let open = || OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        let gives_up = |pipe: &File| {
            let error = await_writer(pipe, Instant::now() + Duration::from_millis(20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        };
        let reader = open();
        gives_up(&reader);
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        gives_up(&reader);
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        await_writer(&reader, Instant::now()).unwrap();
        (&reader).read_exact(&mut [0]).unwrap();
        gives_up(&reader);
        drop(writer);
        await_writer(&reader, Instant::now()).unwrap();
    }

    /// A writer that is slow, and writes in pieces, is read to its end.
    #[test]
    fn a_pipe_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = pipe(dir.path());
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
                for piece in ["in ", "pieces"] {
                    std::io::Write::write_all(&mut pipe, piece.as_bytes()).unwrap();
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            })
        };
        let mut out = [0; 32];
        assert_eq!(read(&path, Kind::FileOrPipe(PipeWait::Limited), &mut out, "thing").unwrap(), b"in pieces");
        writer.join().unwrap();
    }
}
