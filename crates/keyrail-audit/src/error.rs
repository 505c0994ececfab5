//! What can go wrong with the log, for who writes and for who verifies.

use std::path::PathBuf;

use keyrail_core::fence::Epoch;
use keyrail_crypto::CryptoError;

use crate::note::NoteError;

/// The log cannot be opened, published or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Signing failed.
    #[error("a cryptographic operation failed")]
    Crypto(#[from] CryptoError),
    /// The log is there already.
    #[error("`{path}` holds a log already")]
    Exists {
        /// Its directory.
        path: PathBuf,
    },
    /// Something else lies where the log's files should go.
    #[error("`{path}` is no part of a log")]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The journal was altered: a frame before its last does not check.
    #[error("the journal `{path}` was altered at byte {offset}")]
    JournalAltered {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// The checkpoint on disk is not the one of this log.
    #[error("the checkpoint on disk does not match the journal")]
    Mismatch,
    /// The log is shorter than the head that is remembered of it.
    #[error("the log has {found} records, and had {remembered} before")]
    Older {
        /// Records in the log.
        found: u64,
        /// Records that are remembered.
        remembered: u64,
    },
    /// The signed head is older than the one that was stored before.
    #[error("the signed head is of {found} records, and was of {remembered} before")]
    NoteOlder {
        /// Records that it covers.
        found: u64,
        /// Records that were signed before.
        remembered: u64,
    },
    /// The log differs from the head that is remembered of it.
    #[error("the log differs from the one of {size} records that is remembered")]
    Fork {
        /// The size at which it was remembered.
        size: u64,
    },
    /// The log is shorter than what an anchor remembers of it.
    #[error("the log has {found} records, and the anchor at {place} remembers {remembered}")]
    BehindAnchor {
        /// Records in the log.
        found: u64,
        /// Records that are remembered.
        remembered: u64,
        /// Where the anchor is.
        place: String,
    },
    /// The log differs from what an anchor remembers of it.
    #[error("the log differs from the one of {size} records that the anchor at {place} remembers")]
    AnchorFork {
        /// The size at which it was remembered.
        size: u64,
        /// Where the anchor is.
        place: String,
    },
    /// The checkpoint cannot be read.
    #[error("the checkpoint is not usable")]
    Checkpoint(#[source] NoteError),
    /// The disk lost writes of the evidence. The journal has everything; the next start writes it anew.
    #[error("the disk lost writes below `{path}`")]
    LostWrites {
        /// The log's directory.
        path: PathBuf,
    },
    /// A file that the log writes was deleted, replaced or made shorter by somebody else.
    #[error("`{path}` is not as it was written: it was deleted, replaced or cut")]
    NotInPlace {
        /// The file.
        path: PathBuf,
    },
    /// There is no journal, so nothing tells where the log ends.
    #[error("`{path}` holds no journal")]
    NoJournal {
        /// Its directory.
        path: PathBuf,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The database of the log does not do its part.
    #[error("cannot {action} the log in its database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// What became of it.
        #[source]
        source: LogStoreError,
    },
    /// The database knows of no epoch as new as the one that something was decided under: it was taken back.
    #[error("the database is of epoch {}, and was of {} before", .found.0, .known.0)]
    EpochOlder {
        /// The epoch in the database.
        found: Epoch,
        /// The newest that is known.
        known: Epoch,
    },
    /// The database did not answer in time.
    #[error("the database of the log has not answered for {seconds} seconds")]
    NoAnswer {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The head row is none that a writer of this log left.
    #[error("the head of the log was altered")]
    HeadAltered,
    /// Records are not what a writer of this log wrote.
    #[error("of the log's records, {count} from {first} on were altered")]
    RecordsAltered {
        /// The first of them.
        first: u64,
        /// How many were written together.
        count: u64,
    },
    /// A record is not there, and later ones are, or the head says so.
    #[error("record {first} of the log is missing")]
    RecordsMissing {
        /// Its index.
        first: u64,
    },
}

impl LogError {
    /// Whether what is stored is not what a writer of the log left, rather than that it cannot be had.
    pub const fn is_altered(&self) -> bool {
        matches!(
            self,
            Self::JournalAltered { .. }
                | Self::Mismatch
                | Self::Older { .. }
                | Self::NoteOlder { .. }
                | Self::Fork { .. }
                | Self::Checkpoint(_)
                | Self::EpochOlder { .. }
                | Self::HeadAltered
                | Self::RecordsAltered { .. }
                | Self::RecordsMissing { .. }
        )
    }

    pub(crate) fn database(action: &'static str) -> impl FnOnce(LogStoreError) -> Self {
        move |source| Self::Database { action, source }
    }
}

/// What a database of the log fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogStoreError {
    /// Nothing was done.
    #[error("the database failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It may be done, or become so later: the answer was lost.
    #[error("it is not known whether the database did it")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row that no writer of the log left is where the next batch goes; nothing was done.
    #[error("a row that is none of the log's lies where its next records go")]
    Occupied,
    /// A row holds what cannot be there.
    #[error("a row of the log has no readable `{column}`")]
    Malformed {
        /// The column.
        column: &'static str,
    },
    /// There is no log.
    #[error("there is no log in the database")]
    NoLog,
}

/// A record cannot go along with its change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncloseError {
    /// The state changed since the change was decided.
    #[error("the change was decided under an older state")]
    Fenced,
    /// The log is not as it should be.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A record was not accepted, or it is not known whether it is durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The state changed since the operation was decided; nothing was recorded.
    #[error("the operation was decided under an older state")]
    Fenced,
    /// It is not known whether the record is durable: a write failed half-way, or no answer came in time.
    #[error("it is not known whether the record is durable")]
    Indeterminate,
    /// Too many records wait already; nothing was recorded.
    #[error("too many records wait to be written")]
    QueueFull,
    /// The record is longer than the log takes.
    #[error("a record may have {max} bytes at most")]
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// The disk or the database takes no records; nothing was recorded.
    #[error("the log cannot be written")]
    Unavailable,
}

/// The log does not verify: what is wrong, and where first.
#[derive(Debug, thiserror::Error)]
#[error("{problem}{}", place(.file, .record))]
pub struct VerifyFailure {
    /// What is wrong.
    pub problem: VerifyProblem,
    /// The first bad file, relative to the log's directory.
    pub file: Option<PathBuf>,
    /// The first bad record.
    pub record: Option<u64>,
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyProblem {
    /// A record's body is not the one that was logged.
    #[error("a record was altered")]
    Altered,
    /// A file does not hold what the records before it demand.
    #[error("a file was altered")]
    FileAltered,
    /// A file is missing.
    #[error("a file is missing")]
    Missing,
    /// There is a file that does not belong to the log.
    #[error("a file does not belong to the log")]
    Stray,
    /// The checkpoint is not a signed one of this log.
    #[error("the checkpoint is not valid: {0}")]
    Checkpoint(NoteError),
    /// The records are consistent, and are not the ones that were signed.
    #[error("the records are not the ones that the checkpoint signs")]
    Root,
    /// There is a file that the checkpoint does not cover: it was added, or a writer was stopped before it could
    /// sign or remove it. Starting the writer once settles the latter.
    #[error("a file is not covered by the checkpoint")]
    Uncovered,
    /// The log is shorter than somebody remembers.
    #[error("the log has {found} records, and had {remembered} before")]
    Older {
        /// Records in the log.
        found: u64,
        /// Records that are remembered.
        remembered: u64,
    },
    /// The log differs from what somebody remembers of it.
    #[error("the log differs from the one of {size} records that is remembered")]
    Fork {
        /// The size at which it was remembered.
        size: u64,
    },
    /// A frame of the journal was altered, and others follow it.
    #[error("the journal was altered at byte {offset}")]
    JournalAltered {
        /// Where.
        offset: u64,
    },
    /// The journal does not come through the checkpoint: one of them is of another log or another time.
    #[error("the journal does not match the checkpoint")]
    Mismatch,
    /// A file cannot be read.
    #[error("a file cannot be read")]
    Unreadable(#[source] std::io::Error),
}

impl VerifyFailure {
    /// The file and the frame of a journal that was altered.
    pub(crate) fn altered_frame(&self) -> Option<(PathBuf, u64)> {
        match self.problem {
            VerifyProblem::JournalAltered { offset } => Some((self.file.clone()?, offset)),
            _ => None,
        }
    }
}

impl VerifyProblem {
    /// Whether a writer that runs just now can look like this for a moment.
    pub(crate) fn may_be_a_running_writer(&self) -> bool {
        match self {
            Self::Older { .. } | Self::Uncovered | Self::Mismatch => true,
            // A journal file that was followed by another is removed.
            Self::Unreadable(error) => error.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

fn place(file: &Option<PathBuf>, record: &Option<u64>) -> String {
    let record = record.map(|index| format!(": record {index}")).unwrap_or_default();
    let file = file.as_ref().map(|file| format!(": {}", file.display())).unwrap_or_default();
    format!("{record}{file}")
}
