//! The log as the engine sees it: written by the one process that holds the data directory, read by others.

use keyrail_audit::{AppendError, Head, HeadWatch, Log, LogError, LogHealth, Position, Reader, Record};
use keyrail_core::fence::Epoch;
use keyrail_crypto::mac::MacKey;

/// How many records the log keeps in one file.
pub(crate) const BUNDLE_LEN: u64 = 256;

/// The log of an opened store.
pub enum Journal {
    /// This process writes it.
    Write(Log),
    /// Another process may write it; this one looks at what is published, changes nothing, and leaves no record. The
    /// key tells whether what is not published yet was altered.
    Read(Reader, MacKey),
}

impl Journal {
    /// What guards the records that are not published yet, for a reader.
    pub fn guard(&self) -> Option<&MacKey> {
        match self {
            Self::Write(_) => None,
            Self::Read(_, key) => Some(key),
        }
    }

    /// Makes a record durable, on condition that no change of state came in between. A process that only
    /// reads leaves no record. Gives the record's place in the log.
    pub(crate) async fn append(&self, body: Vec<u8>, epoch: Epoch) -> Result<Option<Position>, AppendError> {
        match self {
            Self::Write(log) => log.append(body, epoch).await.map(Some),
            Self::Read(..) => Ok(None),
        }
    }

    /// The same from a thread that does not tell when it rests: the record waits for no others.
    pub(crate) async fn append_at_once(&self, body: Vec<u8>, epoch: Epoch) -> Result<Option<Position>, AppendError> {
        match self {
            Self::Write(log) => log.append_at_once(body, epoch).await.map(Some),
            Self::Read(..) => Ok(None),
        }
    }

    /// [`Journal::append`] at once for a record that must get through: there is room for it when the queue is full for
    /// others.
    pub(crate) async fn append_reserved(&self, body: Vec<u8>, epoch: Epoch) -> Result<Option<Position>, AppendError> {
        match self {
            Self::Write(log) => log.append_reserved(body, epoch).await.map(Some),
            Self::Read(..) => Ok(None),
        }
    }

    /// A thread that makes records has nothing to do.
    pub(crate) fn rest(&self) {
        if let Self::Write(log) = self {
            log.rest();
        }
    }

    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        if let Self::Write(log) = self {
            log.set_epoch(epoch);
        }
    }

    /// The head that the audit files show; for a reader only its size is known.
    pub(crate) fn published(&self) -> Head {
        match self {
            Self::Write(log) => log.published(),
            Self::Read(reader, _) => Head { size: reader.size(), root: [0; 32] },
        }
    }

    /// Looks at what is published from now on; a reader publishes nothing.
    pub(crate) fn watch(&self) -> Option<HeadWatch> {
        match self {
            Self::Write(log) => Some(log.watch()),
            Self::Read(..) => None,
        }
    }

    /// Records in the log.
    pub fn size(&self) -> u64 {
        match self {
            Self::Write(log) => log.size(),
            Self::Read(reader, _) => reader.size(),
        }
    }

    /// Records from `first` on, at most `count`.
    ///
    /// # Errors
    /// [`LogError::File`].
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        match self {
            Self::Write(log) => log.read(first, count),
            Self::Read(reader, _) => reader.read(first, count),
        }
    }

    /// As [`Journal::read`], to the end of a bundle at most, which is read as a whole anyway: records may be long.
    pub(crate) fn read_bundle(&self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        let left = BUNDLE_LEN - first % BUNDLE_LEN;
        self.read(first, count.min(usize::try_from(left).unwrap_or(count)))
    }

    /// How the log is.
    pub(crate) fn health(&self) -> LogHealth {
        match self {
            Self::Write(log) => log.health(),
            Self::Read(..) => LogHealth::default(),
        }
    }

    /// Puts everything durable into the audit files.
    ///
    /// # Errors
    /// [`LogError::Closed`] when that fails.
    pub async fn publish(&self) -> Result<(), LogError> {
        match self {
            Self::Write(log) => log.publish().await.map(drop),
            Self::Read(..) => Ok(()),
        }
    }

    /// Publishes everything and ends the writer.
    pub(crate) fn close(&self) -> Result<(), LogError> {
        match self {
            Self::Write(log) => log.close().map(drop),
            Self::Read(..) => Ok(()),
        }
    }
}
