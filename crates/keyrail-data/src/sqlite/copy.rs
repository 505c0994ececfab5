//! A copy of a live database, its write-ahead log included.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::error::AssetError;
use crate::sqlite::classify;

/// How long another connection may keep the database to itself before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Copies a database with SQLite's backup API, as it is at one instant; `from` is only read.
///
/// # Errors
/// [`AssetError::Open`], [`AssetError::Busy`], and what else the databases fail with.
pub fn copy_database(from: &Path, to: &Path) -> Result<(), AssetError> {
    let source = open_to_read(from)?;
    let mut target = Connection::open(to).map_err(|error| AssetError::Open(error.into()))?;
    let backup = Backup::new(&source, &mut target).map_err(classify)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // All pages at once: a copy in pieces would begin anew whenever somebody writes.
        match backup.step(-1).map_err(classify)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ if Instant::now() >= deadline => {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(AssetError::Busy(rusqlite::Error::SqliteFailure(code, None).into()));
            }
            _ => std::thread::park_timeout(PAUSE),
        }
    }
}

/// Opens a database that is only read. A database in WAL mode wants files beside it even then; where none can be made,
/// and nothing beside the file belongs to its content, the file is taken as it is.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, AssetError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| AssetError::open(path, error))?;
    let tried = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    match tried {
        Ok(_) => Ok(connection),
        Err(error) if wants_files(&error) && !is_unfinished(path) => {
            let uri = format!("file:{}?immutable=1", escaped(path));
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(uri, flags).map_err(|error| AssetError::Open(error.into()))
        }
        Err(error) => Err(classify(error)),
    }
}

/// Whether SQLite failed because it could not make or open files beside the database. That it would have to roll a
/// transaction back or to recover a log is another matter: then the file alone holds half of a transaction.
fn wants_files(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CANTOPEN, SQLITE_READONLY_CANTINIT, SQLITE_READONLY_DIRECTORY};
    error.sqlite_error().is_some_and(|error| {
        matches!(error.extended_code, SQLITE_READONLY_CANTINIT | SQLITE_READONLY_DIRECTORY)
            || error.extended_code & 0xff == SQLITE_CANTOPEN
    })
}

/// Whether a write-ahead log or a rollback journal with something in it lies beside the database, or may.
fn is_unfinished(path: &Path) -> bool {
    ["-wal", "-journal"].into_iter().any(|suffix| {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        match std::fs::metadata(beside) {
            Ok(found) => found.len() > 0,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    })
}

/// A path as it stands in a URI.
fn escaped(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
