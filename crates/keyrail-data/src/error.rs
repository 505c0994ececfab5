//! What an asset can fail with. No message carries a value of the asset.

use keyrail_engine::error::{EngineError, Fault};

/// What the driver of a database said. It names tables and columns, and no value.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DriverError(Box<dyn std::error::Error + Send + Sync>);

impl DriverError {
    pub(crate) fn of(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl From<rusqlite::Error> for DriverError {
    fn from(error: rusqlite::Error) -> Self {
        Self(Box::new(error))
    }
}

/// Why an asset could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssetError {
    /// The URL names no database that Keyrail knows.
    #[error("`{url}` is not a database that Keyrail knows")]
    Url {
        /// What was given.
        url: String,
    },
    /// The URL is not well formed, or holds what it may not. Nothing of it is repeated.
    #[error("the URL cannot be taken: {problem}")]
    BadUrl {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The database cannot be opened.
    #[error("the database cannot be opened")]
    Open(#[source] DriverError),
    /// The server does not answer, or ended the connection.
    #[error("the database server cannot be reached")]
    Unreachable(#[source] DriverError),
    /// The server does not let us in.
    #[error("the database server refuses the connection")]
    Login(#[source] DriverError),
    /// The role may not do what the work needs.
    #[error("the role may not read or write the table")]
    Denied(#[source] DriverError),
    /// Another transaction was in the way of ours, which was taken back.
    #[error("another transaction was in the way")]
    Collided(#[source] DriverError),
    /// There is no such file.
    #[error("there is no file `{path}`")]
    NoFile {
        /// Where it was looked for.
        path: String,
    },
    /// There is no such table, or no such column in it.
    #[error("there is no {what} `{name}`")]
    Absent {
        /// Table or column.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The table cannot be protected as it is.
    #[error("{problem}")]
    Unfit {
        /// What does not fit.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The table changed in a way that the asset does not allow.
    #[error("the table has changed: {problem}")]
    Changed {
        /// What is different.
        problem: String,
    },
    /// The schema changed, or the server went away, between reading and writing: the rows are read again.
    #[error("the schema of the database was changed, or its server went away, while a page was being written")]
    Moved,
    /// A trigger or the like changed what had just been written; nothing was kept.
    #[error("the database changed the value of row {row} right after it was written")]
    Altered {
        /// The row's identity.
        row: String,
    },
    /// Somebody holds a lock on the database.
    #[error("the database is locked by another connection")]
    Busy(#[source] DriverError),
    /// The disk is full.
    #[error("the disk of the database is full")]
    Full(#[source] DriverError),
    /// The database may only be read.
    #[error("the database is read-only")]
    ReadOnly(#[source] DriverError),
    /// A process was killed inside a transaction, and here the database cannot be brought back to where it was before.
    #[error("the database was left in the middle of a transaction")]
    Unfinished(#[source] DriverError),
    /// The database file is damaged.
    #[error("the database file is damaged")]
    Damaged(#[source] DriverError),
    /// A constraint of the table refuses the protected value.
    #[error("a constraint of the table refuses the value of row {row}")]
    Constraint {
        /// The row's identity.
        row: String,
        /// What the database said.
        #[source]
        source: DriverError,
    },
    /// The database failed in another way.
    #[error("the database failed")]
    Database(#[source] DriverError),
    /// A JSON path is not well formed.
    #[error("`{path}` is not a path like $.a.b[0]")]
    JsonPath {
        /// What was given.
        path: String,
    },
    /// A value is longer than an envelope takes.
    #[error("a value of row {row} is longer than {max} bytes")]
    TooLong {
        /// The row's identity.
        row: String,
        /// The limit in bytes.
        max: usize,
    },
    /// The ciphers failed.
    #[error("a cryptographic operation failed")]
    Crypto(#[from] keyrail_crypto::CryptoError),
    /// A value was sealed and did not open again; nothing was written.
    #[error("a value of row {row} did not open again after it was sealed")]
    NotVerified {
        /// The row's identity.
        row: String,
    },
    /// A protected value does not open.
    #[error("a value of row {row} does not open")]
    Unopened {
        /// The row's identity.
        row: String,
    },
    /// What was asked of the engine failed, such as the record before a commit; nothing was written.
    #[error(transparent)]
    Before(Box<EngineError>),
}

impl AssetError {
    /// The refusal of a file that Keyrail keeps its own things in.
    pub(crate) fn own_file() -> Self {
        Self::Unfit {
            problem: "the database belongs to Keyrail itself".to_owned(),
            hint: "name the database of the application".to_owned(),
        }
    }

    /// That a database does not open: it is not there, or something else is wrong with it.
    pub(crate) fn open(path: &std::path::Path, error: rusqlite::Error) -> Self {
        match std::fs::metadata(path) {
            Err(found) if found.kind() == std::io::ErrorKind::NotFound => {
                Self::NoFile { path: path.display().to_string() }
            }
            _ => Self::Open(error.into()),
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } | Self::BadUrl { .. } => "asset_url",
            Self::Open(_) => "asset_open",
            Self::Unreachable(_) => "asset_unreachable",
            Self::Login(_) => "asset_login",
            Self::Denied(_) => "asset_denied",
            Self::NoFile { .. } => "asset_file_absent",
            Self::Absent { .. } => "asset_absent",
            Self::Unfit { .. } => "asset_unfit",
            Self::Changed { .. } | Self::Moved => "asset_changed",
            Self::Altered { .. } => "asset_altered",
            Self::Busy(_) | Self::Collided(_) => "asset_busy",
            Self::Full(_) => "asset_full",
            Self::ReadOnly(_) => "asset_read_only",
            Self::Unfinished(_) => "asset_unfinished",
            Self::Damaged(_) => "asset_damaged",
            Self::Constraint { .. } => "asset_constraint",
            Self::Database(_) => "asset_failed",
            Self::JsonPath { .. } => "json_path",
            Self::TooLong { .. } => "value_too_long",
            Self::Crypto(_) => "crypto_failed",
            Self::NotVerified { .. } => "not_verified",
            Self::Unopened { .. } => "unopenable",
            Self::Before(error) => error.code(),
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Url { .. }
            | Self::BadUrl { .. }
            | Self::JsonPath { .. }
            | Self::TooLong { .. }
            | Self::Unfit { .. } => Fault::Caller,
            Self::Absent { .. } | Self::NoFile { .. } => Fault::Absent,
            Self::Damaged(_) | Self::Unopened { .. } => Fault::StoredData,
            Self::NotVerified { .. } => Fault::Bug,
            Self::Before(error) => error.fault(),
            _ => Fault::Dependency,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let hint = match self {
            Self::Unfit { hint, .. } | Self::BadUrl { hint, .. } => return hint.clone(),
            Self::Before(error) => return error.hint().unwrap_or_default(),
            Self::Url { .. } => "write it like sqlite:/srv/app/data.sqlite or postgres://user@host/database",
            Self::Open(_) => "check that the file is a SQLite database, and may be read and written",
            Self::Unreachable(_) => {
                "check that the server runs and can be reached, and its certificate if it has one, then resume the campaign"
            }
            Self::Login(_) => {
                "check the database, the user, its line in the password file, which must name the host, and the server's pg_hba.conf"
            }
            Self::Denied(_) => "GRANT SELECT and UPDATE on the table to the role, or let its owner's role do the work",
            Self::Collided(_) => "resume the campaign: nothing was written",
            Self::NoFile { .. } => "check the path, and that the disk with it is there",
            Self::Absent { .. } => "check the name; `keyrail asset update` follows a renamed table or column",
            Self::Changed { .. } => {
                "look at the table, correct the asset with `keyrail asset update`, then resume the campaign"
            }
            Self::Moved => "wait until the schema stays as it is, then resume the campaign",
            Self::Altered { .. } => "look at the triggers of the table: none may change a protected column",
            Self::Busy(_) => "end the long transaction of the other connection, then resume the campaign",
            Self::Full(_) => "make room, then resume the campaign: a page is written whole or not at all",
            Self::ReadOnly(_) => {
                "check the rights of the file and its directory, or that the server is no standby, then resume the campaign"
            }
            Self::Unfinished(_) => {
                "open the database once with the right to write, with its application or with `sqlite3`, and try again"
            }
            Self::Damaged(_) => "check the disk and restore the database from a backup",
            Self::Constraint { .. } => {
                "change the constraint so that it takes a text that begins with kr1., then resume the campaign"
            }
            Self::JsonPath { .. } => "begin with $, then .name or [index], at most 16 steps",
            Self::TooLong { .. } => "leave the column out, or split the value",
            Self::Database(_) | Self::Crypto(_) => "look at the cause, then resume the campaign",
            Self::Unopened { .. } => "look at the damaged values with `keyrail asset census`",
            Self::NotVerified { .. } => "please report it; nothing was written",
        };
        hint.to_owned()
    }

    /// The same for callers of the engine.
    pub fn into_engine(self, asset: &str) -> EngineError {
        match self {
            Self::Before(error) => *error,
            other => EngineError::Asset {
                asset: asset.to_owned(),
                fault: other.fault(),
                code: other.code(),
                problem: describe(&other),
                hint: other.hint(),
            },
        }
    }
}

/// The message with its cause, which names tables and columns and no values.
fn describe(error: &AssetError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// What is known of a stopped campaign by its code alone, which is what is stored of it.
#[derive(Clone, Copy, Debug)]
pub struct StoppedBy {
    /// What happened.
    pub title: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// What to do about it.
    pub hint: &'static str,
}

/// What the code of an error says that stopped a campaign. A campaign that runs in a server stops there: who asks for it later
/// gets no more than the code, and is to learn from it as much as who was there. A code that is not known here is a
/// dependency's fault, and the server's log names it.
pub fn stopped_by(code: &str) -> Option<StoppedBy> {
    of_database(code)
        .or_else(|| of_server(code))
        .or_else(|| of_value(code))
        .or_else(|| of_engine(code))
        .map(|(title, fault, hint)| StoppedBy { title, fault, hint })
}

/// Title, fault and hint.
type Words = (&'static str, Fault, &'static str);

/// What a code of [`EngineError`] says.
fn of_engine(code: &str) -> Option<Words> {
    Some(match code {
        "bug" => ("this is a bug", Fault::Bug, "please report it, with what the server's log says"),
        "key_disabled" => {
            ("the key is disabled", Fault::Policy, "resume its suspended version with `keyrail key resume`")
        }
        "key_state" => (
            "the state of the key does not allow it",
            Fault::Policy,
            "`keyrail key show` tells the state of each version",
        ),
        "not_found" => {
            ("its asset or its key is not there any more", Fault::Absent, "the server's log tells which of them")
        }
        "store_damaged" => {
            ("what is stored is damaged or was altered", Fault::StoredData, "`keyrail verify` lists every altered row")
        }
        "version_unusable" => (
            "a key version is in a state that does not allow the use",
            Fault::Policy,
            "`keyrail key show` tells the state of each version",
        ),
        _ => return None,
    })
}

/// What a code of [`AssetError`] says of values.
fn of_value(code: &str) -> Option<Words> {
    Some(match code {
        "json_path" => ("the path of a column is not well formed", Fault::Caller, "look at the asset's columns"),
        "value_too_long" => (
            "a value is longer than an envelope takes",
            Fault::Caller,
            "leave the column out, or split the value; the server's log names the row",
        ),
        "unopenable" => {
            ("a value does not open", Fault::StoredData, "look at the damaged values with `keyrail asset census`")
        }
        "not_verified" => (
            "a value did not open again after it was sealed; nothing of its page was written",
            Fault::Bug,
            "please report it",
        ),
        _ => return None,
    })
}

/// What a code of [`AssetError`] says of a database server.
fn of_server(code: &str) -> Option<Words> {
    Some(match code {
        "asset_unreachable" => (
            "the database server cannot be reached",
            Fault::Dependency,
            "check that the server runs and can be reached, and its certificate if it has one",
        ),
        "asset_login" => (
            "the database server refuses the connection",
            Fault::Dependency,
            "check the database, the user, its line in the password file, which must name the host, and the server's pg_hba.conf",
        ),
        "asset_denied" => (
            "the role may not read or write the table",
            Fault::Dependency,
            "GRANT SELECT and UPDATE on the table to the role, or let its owner's role do the work",
        ),
        _ => return None,
    })
}

/// What a code of [`AssetError`] says of the database.
fn of_database(code: &str) -> Option<Words> {
    Some(match code {
        "asset_open" => (
            "the database cannot be opened",
            Fault::Dependency,
            "check that the file is a SQLite database, and may be read and written",
        ),
        "asset_file_absent" => (
            "the file of the database is not there",
            Fault::Absent,
            "check the path, and that the disk with it is there; `keyrail asset update` follows a file that was moved",
        ),
        "asset_absent" => (
            "a table or a column is not there any more",
            Fault::Absent,
            "`keyrail asset update` follows a renamed table or column",
        ),
        "asset_url" => (
            "the URL of the asset is not one that Keyrail knows",
            Fault::Caller,
            "correct it with `keyrail asset update`",
        ),
        "asset_unfit" => ("the table cannot be protected as it is", Fault::Caller, "look at why with `--dry-run`"),
        "asset_changed" => (
            "the table has changed",
            Fault::Dependency,
            "look at the table, and correct the asset with `keyrail asset update`",
        ),
        "asset_altered" => (
            "the database changed a value right after it was written",
            Fault::Dependency,
            "look at the triggers of the table: none may change a protected column",
        ),
        "asset_busy" => (
            "the database is locked by another connection",
            Fault::Dependency,
            "end the long transaction of the other connection",
        ),
        "asset_full" => {
            ("the disk of the database is full", Fault::Dependency, "make room: a page is written whole or not at all")
        }
        "asset_read_only" => {
            ("the database is read-only", Fault::Dependency, "check the rights of the file and its directory")
        }
        "asset_unfinished" => (
            "the database was left in the middle of a transaction",
            Fault::Dependency,
            "open the database once with the right to write, with its application or with `sqlite3`",
        ),
        "asset_damaged" => {
            ("the database file is damaged", Fault::StoredData, "check the disk and restore the database from a backup")
        }
        "asset_constraint" => (
            "a constraint of the table refuses a protected value",
            Fault::Dependency,
            "change the constraint so that it takes a text that begins with kr1.; the server's log names the row",
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_tells_whose_fault_it_was() {
        let driver = || DriverError::from(rusqlite::Error::InvalidQuery);
        let (row, problem) = (String::new, String::new);
        for error in [
            AssetError::Url { url: row() },
            AssetError::BadUrl { problem: problem(), hint: row() },
            AssetError::Unreachable(driver()),
            AssetError::Login(driver()),
            AssetError::Denied(driver()),
            AssetError::Collided(driver()),
            AssetError::Open(driver()),
            AssetError::NoFile { path: row() },
            AssetError::Absent { what: "table", name: row() },
            AssetError::own_file(),
            AssetError::Changed { problem: problem() },
            AssetError::Moved,
            AssetError::Altered { row: row() },
            AssetError::Busy(driver()),
            AssetError::Full(driver()),
            AssetError::ReadOnly(driver()),
            AssetError::Unfinished(driver()),
            AssetError::Damaged(driver()),
            AssetError::Constraint { row: row(), source: driver() },
            AssetError::JsonPath { path: row() },
            AssetError::TooLong { row: row(), max: 1 },
            AssetError::NotVerified { row: row() },
            AssetError::Unopened { row: row() },
        ] {
            let told = stopped_by(error.code()).unwrap();
            assert_eq!(told.fault, error.fault(), "{}", error.code());
        }
        // What is not of the database has its own words, or none.
        assert!(stopped_by("asset_failed").is_none() && stopped_by("store_failed").is_none());
    }

    /// Who was there has the error, and who asks a server has its code: both are to end alike.
    #[test]
    fn a_code_of_the_engine_tells_whose_fault_it_was() {
        use EngineError as E;
        use keyrail_core::key::KeyError;
        use keyrail_core::lifecycle::{LifecycleError, VersionEvent, VersionState};
        use keyrail_store::StoreError;
        let version = keyrail_core::name::VersionNumber::new(1).unwrap();
        let (state, event) = (VersionState::Retired, VersionEvent::Activate);
        for (error, fault) in [
            (E::Key(KeyError::Disabled { name: "pii".parse().unwrap() }), Fault::Policy),
            (E::Key(KeyError::Lifecycle(LifecycleError { state, event })), Fault::Policy),
            (E::VersionUnusable { version, state }, Fault::Policy),
            (E::NotFound { what: "key of campaign", name: "07".to_owned() }, Fault::Absent),
            (E::Store(StoreError::RowSeal { table: "asset", id: "07".to_owned() }), Fault::StoredData),
            (E::Store(StoreError::Malformed { table: "asset", column: "url" }), Fault::StoredData),
            (E::Store(StoreError::Damaged("not a database".into())), Fault::StoredData),
            (E::Unopenable, Fault::StoredData),
            (E::Bug { what: "an asset vanished" }, Fault::Bug),
            (E::Store(StoreError::Full("disk full".into())), Fault::Dependency),
            (E::Crypto(keyrail_crypto::CryptoError::System { what: "randomness" }), Fault::Dependency),
            (E::Indeterminate, Fault::Dependency),
        ] {
            // What is not known here is a dependency's.
            let told = stopped_by(error.code()).map_or(Fault::Dependency, |stopped| stopped.fault);
            assert_eq!((error.fault(), told), (fault, fault), "{}", error.code());
        }
    }
}
