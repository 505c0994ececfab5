//! What SQLite's errors mean.

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::error::StoreError;

/// The meaning of an error outside a write.
pub(crate) fn classify(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(error),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error),
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly,
        _ => StoreError::Database(error),
    }
}

/// The meaning of an error while `table` was written.
pub(crate) fn classify_write(error: rusqlite::Error, table: &'static str) -> StoreError {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match extended {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => StoreError::Exists { table },
        _ if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            StoreError::Constraint { table, source: error }
        }
        _ => classify(error),
    }
}

/// The meaning of an error of COMMIT. Where nothing was written for sure it says so; all else is open.
pub(crate) fn classify_commit(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ReadOnly) => {
            classify(error)
        }
        Some(ErrorCode::ConstraintViolation) => StoreError::Constraint { table: "", source: error },
        _ => StoreError::Indeterminate { source: error },
    }
}
