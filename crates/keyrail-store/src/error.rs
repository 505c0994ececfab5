//! What a store can fail with.

use std::path::PathBuf;

use keyrail_audit::LogError;

use keyrail_core::system::{MapHead, MapNode};

use crate::postgres::PostgresUrlError;
use crate::row::Row;

/// What a database said, whichever it is: names of columns and conditions, no values.
pub type DatabaseError = Box<dyn std::error::Error + Send + Sync>;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A bug of Keyrail.
    Bug,
    /// The request does not go with what is stored.
    Caller,
    /// The disk or the database does not do its part.
    Dependency,
    /// What is stored is damaged or was altered.
    StoredData,
}

/// Why the store did not do it. No variant carries data of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A row with the same key or name is there already.
    #[error("a row of `{table}` with this key or name is there already")]
    Exists {
        /// The table.
        table: &'static str,
    },
    /// The row is not of the generation that the change was made for.
    #[error("a row of `{table}` has changed meanwhile")]
    Conflict {
        /// The table.
        table: &'static str,
    },
    /// The change breaks a rule of the schema.
    #[error("a change breaks a rule of table `{table}`")]
    Constraint {
        /// The table.
        table: &'static str,
        /// What the database said: names of columns, no values.
        #[source]
        source: DatabaseError,
    },
    /// The seal of a row is not the one it was written with.
    #[error("a row of `{table}` was altered outside Keyrail: {id}")]
    RowSeal {
        /// The table.
        table: &'static str,
        /// The row's key, in hex or words.
        id: String,
    },
    /// A row is whole, and not as it was last written.
    #[error("a row of `{table}` is not the one that was last written: {id}")]
    RowStale {
        /// The table.
        table: &'static str,
        /// The row's key, in hex or words.
        id: String,
    },
    /// A row is gone that nobody deleted.
    #[error("a row of `{table}` is missing: {id}")]
    RowMissing {
        /// The table.
        table: &'static str,
        /// The row's key, in hex or words.
        id: String,
    },
    /// A row is there that was deleted, or never made.
    #[error("a row of `{table}` should not be there: {id}")]
    RowUnexpected {
        /// The table.
        table: &'static str,
        /// The row's key, in hex or words.
        id: String,
    },
    /// A row holds a value that cannot be.
    #[error("a row of `{table}` has no readable `{column}`")]
    Malformed {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The file is not a store of Keyrail.
    #[error("`{path}` is not a store of Keyrail")]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// The file's schema is newer than this program.
    #[error("the store has schema {found}, and this program knows up to {known}")]
    UnknownSchema {
        /// The schema of the file.
        found: i64,
        /// The newest schema that is known.
        known: i64,
    },
    /// The file's schema is older, and it was opened for reading only.
    #[error("the store has schema {found} and must be brought to {known} first")]
    OldSchema {
        /// The schema of the file.
        found: i64,
        /// The newest schema.
        known: i64,
    },
    /// The state changed since a change was decided.
    #[error("the change was decided under an older state")]
    Fenced,
    /// The log beside the rows is not as it should be.
    #[error("the log in the database of the store is not usable")]
    Log(#[source] Box<LogError>),
    /// There is no log in the database of the store.
    #[error("there is no log in the database of the store")]
    NoLog,
    /// The store has no map of its rows yet, and it was opened for reading only.
    #[error("the store has no map of its rows yet")]
    NoMap,
    /// A list is longer than it may be.
    #[error("table `{table}` holds more than {max} matching rows")]
    TooMany {
        /// The table.
        table: &'static str,
        /// The limit.
        max: usize,
    },
    /// The disk is full.
    #[error("the disk of the store is full")]
    Full(#[source] DatabaseError),
    /// Another process holds the database, or holds it up.
    #[error("the store is locked by another process")]
    Busy(#[source] DatabaseError),
    /// The database does not answer, or the way to it is broken. Nothing was stored.
    #[error("the database of the store does not answer")]
    Unreachable(#[source] DatabaseError),
    /// The database refuses the user.
    #[error("the database of the store does not let this user do it")]
    Denied(#[source] DatabaseError),
    /// The server is older than what is supported.
    #[error("the server of the store is PostgreSQL {found}, and {min} is the oldest that is supported")]
    OldServer {
        /// Its version.
        found: u32,
        /// The oldest version.
        min: u32,
    },
    /// The server is set up so that a store cannot be trusted to it.
    #[error("the server of the store does not have `{setting}` set to `{wanted}`")]
    UnfitServer {
        /// The setting.
        setting: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Commits wait for no standby, and the store was not told that this will do.
    #[error("no standby confirms what is stored")]
    NoStandby,
    /// The URL of the store.
    #[error(transparent)]
    Url(#[from] PostgresUrlError),
    /// The database file is damaged.
    #[error("the file of the store is damaged")]
    Damaged(#[source] DatabaseError),
    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The commit failed in a way that leaves its fate open.
    #[error("it is not known whether the change was stored")]
    Indeterminate {
        /// What the database said.
        #[source]
        source: DatabaseError,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A file of the store.
    #[error("cannot use `{path}`")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The ciphers failed.
    #[error("a cryptographic operation failed")]
    Crypto(#[from] keyrail_crypto::CryptoError),
    /// Any other failure of the database.
    #[error("the database of the store failed")]
    Database(#[source] DatabaseError),
}

impl StoreError {
    /// Whether the map of the rows was moved meanwhile by a change of other rows: worked out anew, a change may be made.
    pub fn is_of_map(&self) -> bool {
        let of_map = [MapHead::TABLE.name, MapNode::TABLE.name];
        matches!(self, Self::Conflict { table } if of_map.contains(table))
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Exists { .. } | Self::Conflict { .. } | Self::Fenced | Self::Url(_) => Fault::Caller,
            Self::Log(error) if error.is_altered() => Fault::StoredData,
            Self::Constraint { .. } => Fault::Bug,
            Self::RowSeal { .. }
            | Self::RowStale { .. }
            | Self::RowMissing { .. }
            | Self::RowUnexpected { .. }
            | Self::Malformed { .. }
            | Self::NotAStore { .. }
            | Self::Damaged(_) => Fault::StoredData,
            _ => Fault::Dependency,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "choose another name, or use what is there",
            Self::Conflict { .. } | Self::Fenced => "read it again and repeat the change",
            Self::Constraint { .. } => "please report it",
            Self::RowSeal { .. }
            | Self::RowStale { .. }
            | Self::RowMissing { .. }
            | Self::RowUnexpected { .. }
            | Self::Malformed { .. } => {
                "`keyrail verify` lists every row that is not as it was written; restore the store from a backup"
            }
            Self::NotAStore { .. } => "name another --data-dir",
            Self::UnknownSchema { .. } => "use the release of Keyrail that wrote it, or a newer one",
            Self::OldSchema { .. } => "run a command that writes, or start the server once: it brings the schema up",
            Self::Log(_) => "`keyrail audit verify` tells what is wrong with it",
            Self::NoLog => {
                "it was made by an earlier release, or is another database: name the right one in `store-url`"
            }
            Self::NoMap => "run a command that writes, or start the server once: it makes the map",
            Self::TooMany { .. } => "ask for a page at a time",
            Self::Full(_) => "make room on the disk of the data directory; nothing was changed",
            Self::Busy(_) => "end the other process that holds the file, then try again",
            Self::Unreachable(_) => {
                "see whether the server runs and can be reached; it is tried again at every request"
            }
            Self::Denied(_) => "see the user, its password file and its grants; docs/operate/postgresql.md lists them",
            Self::OldServer { .. } => "name a newer server",
            Self::UnfitServer { .. } => "name the primary server, and set it up as docs/operate/postgresql.md says",
            Self::NoStandby => "name a standby in synchronous_standby_names, or `init` with --accept-async-loss",
            Self::Url(error) => error.hint(),
            Self::Damaged(_) => "check the disk, and restore the store from a backup",
            Self::ReadOnly => "run the command against the server, or with no other process on the data directory",
            Self::Indeterminate { .. } => "look at the present state before trying again",
            Self::Closed => "open it again",
            Self::File { .. } => "check that the data directory exists and belongs to this user",
            Self::Crypto(_) | Self::Database(_) => {
                "look at the cause below; the health endpoint tells whether it goes on"
            }
        }
    }
}
