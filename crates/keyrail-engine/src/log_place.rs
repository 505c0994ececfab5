//! Making and opening the log of a store: in its database, or in files beside it.

use std::time::Duration;

use keyrail_audit::{Head, Keys, Log, LogError, LogOptions, Reader, RowsOptions, VerifierKey};
use keyrail_core::system::LogHeadRow;
use keyrail_crypto::mac::MacKey;
use keyrail_store::PgLog;

use crate::anchor::{AnchorSet, LogSite};
use crate::bootstrap::Access;
use crate::error::EngineError;
use crate::journal::{Journal, Watched};
use crate::parallel::blocking;
use crate::paths::Paths;

/// Makes the log of a new store: in its database, or else in files.
pub(crate) fn create(paths: &Paths, origin: &str, keys: Keys, rows: Option<PgLog>) -> Result<VerifierKey, EngineError> {
    match rows {
        Some(mut rows) => {
            // The database is asked on a thread of its own: this one may be in an async runtime.
            let create = || Log::create_rows(origin, &keys, &mut rows);
            let created = blocking(|| std::thread::scope(|scope| scope.spawn(create).join()));
            Ok(created.unwrap_or(Err(LogError::Closed))?)
        }
        None => {
            keyrail_audit::clear(&paths.audit(), &paths.journal())?;
            Ok(Log::create(&LogOptions::new(paths.audit(), paths.journal(), origin.to_owned()), &keys)?)
        }
    }
}

/// What a log is opened with.
pub(crate) struct Opening<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) access: Access,
    pub(crate) origin: String,
    pub(crate) keys: Keys,
    /// The key that guards it, once more.
    pub(crate) guard: MacKey,
    /// The head that the store remembers.
    pub(crate) remembered: Option<LogHeadRow>,
}

impl Opening<'_> {
    /// Opens the log, in `rows` of the store's database or else in files, and compares it with what anchors remember.
    pub(crate) fn open(
        self,
        rows: Option<PgLog>,
        anchors: &AnchorSet,
        site: &mut LogSite,
    ) -> Result<Journal, EngineError> {
        let Self { paths, access, origin, keys, guard, remembered } = self;
        let remembered = remembered.map(|head| Head { size: head.size, root: head.root });
        match (access, rows) {
            (Access::Write, None) => {
                let mut options = LogOptions::new(paths.audit(), paths.journal(), origin);
                (options.remembered, options.anchored) = (remembered, anchors.known(site)?);
                Ok(Journal::Write(open_files(options, keys, anchors, site)?))
            }
            (Access::Read, None) => {
                let reader = Reader::open(&paths.audit())?;
                anchors.look(site, reader.size());
                Ok(Journal::Read(reader, guard))
            }
            (_, Some(rows)) => {
                let mut options = rows_options(origin);
                options.remembered = remembered;
                if access == Access::Write {
                    options.anchored = anchors.known(site)?;
                }
                let log = open_rows(&options, keys, rows, access, guard)?;
                site.rows = log.note_reader();
                match access {
                    Access::Write => anchors.confirm(site)?,
                    Access::Read => anchors.look(site, log.size()),
                }
                Ok(log)
            }
        }
    }
}

/// Opens the log, and shows it to the witnesses before anything is appended.
fn open_files(options: LogOptions, keys: Keys, anchors: &AnchorSet, site: &LogSite) -> Result<Log, EngineError> {
    let (log, _) = Log::open(options, keys).map_err(not_opened)?;
    anchors.confirm(site)?;
    Ok(log)
}

/// How a log in a database is opened.
fn rows_options(origin: String) -> RowsOptions {
    let mut options = RowsOptions::new(origin);
    options.limits.append_wait_max = ROWS_WAIT_MAX;
    options
}

/// How long a request waits for a log in a database; after that the fate of its record is open.
const ROWS_WAIT_MAX: Duration = Duration::from_secs(12);

/// Opens a log in the database of the store.
fn open_rows(
    options: &RowsOptions,
    keys: Keys,
    rows: PgLog,
    access: Access,
    guard: MacKey,
) -> Result<Journal, EngineError> {
    let reader = Box::new(rows.another());
    match access {
        Access::Write => {
            let opened = blocking(|| Log::open_rows(options, keys, Box::new(rows), reader));
            opened.map(Journal::Write).map_err(not_opened)
        }
        Access::Read => {
            let log = blocking(|| Log::watch_rows(options, keys, reader)).map_err(not_opened)?;
            Ok(Journal::Watch(Box::new(Watched { log, guard, rows })))
        }
    }
}

fn not_opened(error: LogError) -> EngineError {
    match error {
        LogError::Older { found, remembered } => EngineError::LogOlder { found, remembered },
        LogError::BehindAnchor { found, remembered, place } => EngineError::AnchorAhead { found, remembered, place },
        LogError::AnchorFork { size, place } => EngineError::AnchorFork { size, place },
        other => other.into(),
    }
}
