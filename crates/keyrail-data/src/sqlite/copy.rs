//! A copy of a live database, its write-ahead log included.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use crate::error::AssetError;
use crate::sqlite::classify;

/// How many pages are copied before others get their turn.
const STEP_PAGES: i32 = 1_000;

/// Copies a database with SQLite's backup API; `from` is only read.
///
/// # Errors
/// [`AssetError::Open`], and what the databases fail with.
pub fn copy_database(from: &Path, to: &Path) -> Result<(), AssetError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(AssetError::Open)?;
    let mut target = Connection::open(to).map_err(AssetError::Open)?;
    let backup = Backup::new(&source, &mut target).map_err(classify)?;
    backup.run_to_completion(STEP_PAGES, Duration::from_millis(1), None).map_err(classify)
}
