//! The log as the engine sees it: in files that one process writes and others read, or in the database of the store,
//! where several nodes keep it together.

use keyrail_audit::{
    AppendError, Enclosed, Fencing, Head, HeadWatch, Log, LogError, LogHealth, NoteReader, Position, Reader, Record,
    Remembered, Report, VerifierKey, verify_rows,
};
use keyrail_core::fence::Epoch;
use keyrail_core::id::RequestId;
use keyrail_crypto::mac::MacKey;
use keyrail_store::PgLog;

use crate::parallel::blocking;

/// How many records the log keeps in one file.
pub(crate) const BUNDLE_LEN: u64 = 256;

/// The log of an opened store.
pub enum Journal {
    /// This process writes it.
    Write(Log),
    /// Another process may write it; this one looks at what is published, changes nothing, and leaves no record. The
    /// key tells whether what is not published yet was altered.
    Read(Reader, MacKey),
    /// The same for a log in a database.
    Watch(Box<Watched>),
}

/// A log in a database that this process only looks at.
pub struct Watched {
    pub(crate) log: Log,
    pub(crate) guard: MacKey,
    /// A connection for who reads all of it.
    pub(crate) rows: PgLog,
}

impl Journal {
    /// What guards the records that are not published yet, for a reader of files.
    pub fn guard(&self) -> Option<&MacKey> {
        match self {
            Self::Write(_) | Self::Watch(_) => None,
            Self::Read(_, key) => Some(key),
        }
    }

    /// Verifies every row of a log in a database that this process only looks at; `None` where there is none.
    ///
    /// # Errors
    /// What [`verify_rows`] finds.
    pub fn verify_rows(&self, key: &VerifierKey, remembered: &[Remembered]) -> Option<Result<Report, LogError>> {
        let Self::Watch(watched) = self else { return None };
        let mut rows = watched.rows.another();
        // The database is asked on a thread of its own: this one may be in an async runtime.
        let verify = || verify_rows(&mut rows, &watched.guard, key, remembered);
        let verified = blocking(|| std::thread::scope(|scope| scope.spawn(verify).join()));
        Some(verified.unwrap_or(Err(LogError::Closed)))
    }

    /// Whether the log is in the database of the store, and other nodes may write it, too.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Write(log) => log.is_shared(),
            Self::Read(..) => false,
            Self::Watch(_) => true,
        }
    }

    /// A record that goes into the log with the change that it tells of; `None` where the log is in files, and it goes
    /// through the outbox.
    pub(crate) fn enclose(
        &self,
        body: Vec<u8>,
        request: RequestId,
        fencing: Fencing,
    ) -> Result<Option<Enclosed>, AppendError> {
        match self {
            Self::Write(log) => log.enclose(body, request, fencing),
            Self::Read(..) | Self::Watch(_) => Ok(None),
        }
    }

    /// What reads the signed head of a log in a database.
    pub(crate) fn note_reader(&self) -> Option<NoteReader> {
        match self {
            Self::Write(log) => log.note_reader(),
            Self::Read(..) => None,
            Self::Watch(watched) => watched.log.note_reader(),
        }
    }

    /// The newest epoch that the log is known to be of; files of another process have none.
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Write(log) => log.epoch(),
            Self::Read(..) => Epoch(0),
            Self::Watch(watched) => watched.log.epoch(),
        }
    }

    /// Records in the log as of now, whoever wrote them.
    ///
    /// # Errors
    /// [`LogError::Database`], [`LogError::NoAnswer`].
    pub(crate) fn size_now(&self) -> Result<u64, LogError> {
        match self {
            Self::Write(log) if !log.is_shared() => Ok(log.size()),
            Self::Write(log) => blocking(|| log.size_now()),
            Self::Read(reader, _) => Ok(reader.size()),
            Self::Watch(watched) => blocking(|| watched.log.size_now()),
        }
    }

    /// Makes a record durable, on condition that no change of state came in between. A process that only
    /// reads leaves no record. Gives the record's place in the log.
    pub(crate) async fn append(&self, body: Vec<u8>, epoch: Epoch) -> Result<Option<Position>, AppendError> {
        match self {
            Self::Write(log) => log.append(body, epoch).await.map(Some),
            Self::Read(..) | Self::Watch(_) => Ok(None),
        }
    }

    /// The same from a thread that does not tell when it rests: the record waits for no others.
    pub(crate) async fn append_at_once(&self, body: Vec<u8>, epoch: Epoch) -> Result<Option<Position>, AppendError> {
        match self {
            Self::Write(log) => log.append_at_once(body, epoch).await.map(Some),
            Self::Read(..) | Self::Watch(_) => Ok(None),
        }
    }

    /// [`Journal::append`] at once for a record that must get through: there is room for it when the queue is full for
    /// others.
    pub(crate) async fn append_reserved(&self, body: Vec<u8>, epoch: Epoch) -> Result<Option<Position>, AppendError> {
        match self {
            Self::Write(log) => log.append_reserved(body, epoch).await.map(Some),
            Self::Read(..) | Self::Watch(_) => Ok(None),
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
            Self::Watch(watched) => watched.log.published(),
        }
    }

    /// Looks at what is published from now on; a reader publishes nothing.
    pub(crate) fn watch(&self) -> Option<HeadWatch> {
        match self {
            Self::Write(log) => Some(log.watch()),
            Self::Read(..) | Self::Watch(_) => None,
        }
    }

    /// Records in the log.
    pub fn size(&self) -> u64 {
        match self {
            Self::Write(log) => log.size(),
            Self::Read(reader, _) => reader.size(),
            Self::Watch(watched) => watched.log.size(),
        }
    }

    /// Records from `first` on, at most `count`.
    ///
    /// # Errors
    /// [`LogError::File`], [`LogError::Database`].
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        match self {
            Self::Write(log) if !log.is_shared() => log.read(first, count),
            Self::Write(log) => blocking(|| read_rows(log, first, count)),
            Self::Read(reader, _) => reader.read(first, count),
            Self::Watch(watched) => blocking(|| read_rows(&watched.log, first, count)),
        }
    }

    /// As [`Journal::read`], to the end of a bundle at most, which is read as a whole anyway: records may be long.
    pub(crate) fn read_bundle(&self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        let left = BUNDLE_LEN - first % BUNDLE_LEN;
        self.read(first, count.min(usize::try_from(left).unwrap_or(count)))
    }

    /// How the log is.
    pub fn health(&self) -> LogHealth {
        match self {
            Self::Write(log) => log.health(),
            Self::Read(..) | Self::Watch(_) => LogHealth::default(),
        }
    }

    /// Lets the writer look whether what it wrote is still there, and whether there is room for more.
    pub(crate) fn look(&self) {
        if let Self::Write(log) = self {
            log.look();
        }
    }

    /// Whether there is room for no records but those that must get through.
    pub(crate) fn is_short(&self) -> bool {
        match self {
            Self::Write(log) => log.is_short(),
            Self::Read(..) | Self::Watch(_) => false,
        }
    }

    /// Puts everything durable into the audit files.
    ///
    /// # Errors
    /// [`LogError::Closed`] when that fails.
    pub async fn publish(&self) -> Result<(), LogError> {
        match self {
            Self::Write(log) => log.publish().await.map(drop),
            Self::Read(..) | Self::Watch(_) => Ok(()),
        }
    }

    /// Publishes everything and ends the writer.
    pub(crate) fn close(&self) -> Result<(), LogError> {
        match self {
            Self::Write(log) => blocking(|| log.close()).map(drop),
            Self::Read(..) | Self::Watch(_) => Ok(()),
        }
    }
}

/// A database gives fewer records than asked for if they are long.
fn read_rows(log: &Log, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
    let left = usize::try_from(log.size().saturating_sub(first)).unwrap_or(usize::MAX);
    let (count, mut records) = (count.min(left), Vec::new());
    while records.len() < count {
        let some = log.read(first + records.len() as u64, count - records.len())?;
        if some.is_empty() {
            return Err(LogError::RecordsMissing { first: first + records.len() as u64 });
        }
        records.extend(some);
    }
    Ok(records)
}
