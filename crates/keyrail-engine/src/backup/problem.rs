//! What can be wrong with a backup, by name.

use std::path::Path;

use keyrail_store::ImageError;

use crate::error::{EngineError, Fault};

/// Why a backup is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupProblem {
    /// The file does not begin like one.
    #[error("it is no backup of Keyrail")]
    NotABackup,
    /// It is of a format that this program does not know.
    #[error("it has format {found}, and this program knows 1")]
    UnknownFormat {
        /// The format.
        found: u8,
    },
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// A part of it does not open.
    #[error("it was altered: part {part} does not open")]
    Altered {
        /// Which part; the first is 0, and a header that was altered shows there.
        part: u32,
    },
    /// Its parts are not in their order.
    #[error("its parts are not in their order: part {found} stands where part {expected} belongs")]
    Reordered {
        /// The part that is there.
        found: u32,
        /// The part that belongs there.
        expected: u32,
    },
    /// Something stands behind its last part.
    #[error("something stands behind its end")]
    Trailing,
    /// It is of another store than the one in the data directory.
    #[error("it is of another store than the one in the data directory")]
    Foreign,
    /// It holds other rows than it says.
    #[error("it does not hold the rows that it tells of")]
    Incomplete,
    /// Its rows are not readable.
    #[error("its rows are not readable")]
    Rows(#[source] ImageError),
}

impl From<ImageError> for BackupProblem {
    fn from(error: ImageError) -> Self {
        Self::Rows(error)
    }
}

impl BackupProblem {
    /// The error about the file.
    pub(crate) fn at(self, path: &Path) -> EngineError {
        match self {
            // The store that the rows were put into failed, and not the backup.
            Self::Rows(ImageError::Store(error)) if error.fault() != keyrail_store::Fault::StoredData => error.into(),
            problem => EngineError::Backup { path: path.display().to_string(), problem },
        }
    }

    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NotABackup => "not_a_backup",
            Self::UnknownFormat { .. } | Self::Rows(ImageError::Newer { .. }) => "backup_newer",
            Self::Truncated => "backup_truncated",
            Self::Altered { .. } | Self::Trailing | Self::Incomplete | Self::Rows(_) => "backup_altered",
            Self::Reordered { .. } => "backup_reordered",
            Self::Foreign => "backup_foreign",
        }
    }

    pub(crate) const fn fault(&self) -> Fault {
        match self {
            Self::NotABackup | Self::Foreign | Self::UnknownFormat { .. } => Fault::Caller,
            _ => Fault::StoredData,
        }
    }

    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::NotABackup => "name a file that `keyrail backup` made, or the directory that holds it",
            Self::UnknownFormat { .. } | Self::Rows(ImageError::Newer { .. }) => {
                "use the release of Keyrail that made it, or a newer one"
            }
            Self::Foreign => "name a backup of this store, or another --data-dir to restore into",
            _ => "use another backup; `keyrail verify --backup` tells which are whole",
        }
    }
}
