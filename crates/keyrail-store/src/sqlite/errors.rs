//! What SQLite's errors mean.

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::error::StoreError;

/// The meaning of an error outside a write.
pub(crate) fn classify(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error.into()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(error.into()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error.into()),
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly,
        _ => StoreError::Database(error.into()),
    }
}

/// The meaning of an error while `table` was written.
pub(crate) fn classify_write(error: rusqlite::Error, table: &'static str) -> StoreError {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match extended {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => StoreError::Exists { table },
        _ if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            StoreError::Constraint { table, source: error.into() }
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
        Some(ErrorCode::ConstraintViolation) => StoreError::Constraint { table: "", source: error.into() },
        _ => StoreError::Indeterminate { source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only where nothing was written for sure does a commit say so; all else is open.
    #[test]
    fn what_is_not_known_is_called_indeterminate() {
        let failed = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        type Is = fn(&StoreError) -> bool;
        let rows: [(i32, Is); 9] = [
            (ffi::SQLITE_FULL, |error| matches!(error, StoreError::Full(_))),
            (ffi::SQLITE_BUSY, |error| matches!(error, StoreError::Busy(_))),
            (ffi::SQLITE_LOCKED, |error| matches!(error, StoreError::Busy(_))),
            (ffi::SQLITE_READONLY, |error| matches!(error, StoreError::ReadOnly)),
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, |error| matches!(error, StoreError::Constraint { .. })),
            (ffi::SQLITE_IOERR_FSYNC, |error| matches!(error, StoreError::Indeterminate { .. })),
            (ffi::SQLITE_IOERR_WRITE, |error| matches!(error, StoreError::Indeterminate { .. })),
            (ffi::SQLITE_CORRUPT, |error| matches!(error, StoreError::Indeterminate { .. })),
            (ffi::SQLITE_NOMEM, |error| matches!(error, StoreError::Indeterminate { .. })),
        ];
        for (code, is_right) in rows {
            let error = classify_commit(failed(code));
            assert!(is_right(&error), "{code}: {error}");
        }
        let before = classify(failed(ffi::SQLITE_IOERR_WRITE));
        assert!(matches!(before, StoreError::Database(_)), "{before}");
        let unique = classify_write(failed(ffi::SQLITE_CONSTRAINT_UNIQUE), "domain");
        assert!(matches!(unique, StoreError::Exists { table: "domain" }), "{unique}");
    }
}
