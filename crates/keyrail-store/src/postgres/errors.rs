//! What PostgreSQL's errors mean.

use std::fmt;

use tokio_postgres::error::{DbError, Severity};

use crate::error::{DatabaseError, StoreError};

/// What the server said, without the parts that may hold values of a row.
#[derive(Debug)]
struct Said {
    code: String,
    constraint: Option<String>,
    message: Option<String>,
}

impl Said {
    fn of(error: &DbError) -> Self {
        let code = error.code().code().to_owned();
        // Other classes are about data, or raised by somebody's trigger: their sentences may quote a row.
        let safe = SAFE_CLASSES.iter().any(|class| code.starts_with(class));
        let message = safe.then(|| error.message().to_owned());
        Self { code, constraint: error.constraint().map(str::to_owned), message }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL says {}", self.code)?;
        if let Some(constraint) = &self.constraint {
            write!(f, " for constraint `{constraint}`")?;
        }
        self.message.as_ref().map_or(Ok(()), |message| write!(f, ": {message}"))
    }
}

impl std::error::Error for Said {}

/// The connection failed; what the server said is not known.
#[derive(Debug)]
struct Broken {
    what: String,
    source: Option<std::io::Error>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Classes of errors whose sentences name tables, roles and conditions alone.
const SAFE_CLASSES: &[&str] = &["08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"];

/// What happened, fit to be shown.
pub(super) fn describe(error: tokio_postgres::Error) -> DatabaseError {
    if let Some(said) = error.as_db_error() {
        return Box::new(Said::of(said));
    }
    let what = error.to_string();
    match error.into_source() {
        Some(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => Box::new(Broken { what, source: Some(*source) }),
            Err(other) => Box::new(Broken { what: format!("{what}: {other}"), source: None }),
        },
        None => Box::new(Broken { what, source: None }),
    }
}

/// A sentence of our own as the cause of an error.
pub(super) fn told(what: &str) -> DatabaseError {
    Box::new(Broken { what: what.to_owned(), source: None })
}

/// The meaning of an error outside a write.
pub(super) fn classify(error: tokio_postgres::Error) -> StoreError {
    let Some(said) = error.as_db_error() else {
        return match is_broken(&error) {
            true => StoreError::Unreachable(describe(error)),
            false => StoreError::Database(describe(error)),
        };
    };
    match said.code().code() {
        "53100" => StoreError::Full(describe(error)),
        // Serialization failures, deadlocks, locks not had in time, statements not done in time, too many connections.
        "40001" | "40P01" | "55P03" | "57014" | "53300" => StoreError::Busy(describe(error)),
        "25006" => StoreError::ReadOnly,
        "XX001" | "XX002" => StoreError::Damaged(describe(error)),
        "42501" => StoreError::Denied(describe(error)),
        code if code.starts_with("28") => StoreError::Denied(describe(error)),
        code if code.starts_with("08") || code.starts_with("57P") => StoreError::Unreachable(describe(error)),
        _ => StoreError::Database(describe(error)),
    }
}

/// The meaning of an error while `table` was written.
pub(super) fn classify_write(error: tokio_postgres::Error, table: &'static str) -> StoreError {
    let code = error.code().map(|state| state.code().to_owned()).unwrap_or_default();
    match code.as_str() {
        "23505" => StoreError::Exists { table },
        // Rules of the schema, values that a column does not take, and a key that is too long for its index.
        code if code.starts_with("22") || code.starts_with("23") || code == "54000" => {
            StoreError::Constraint { table, source: describe(error) }
        }
        // The value was refused before it was sent.
        "" if !is_broken(&error) => StoreError::Constraint { table, source: describe(error) },
        _ => classify(error),
    }
}

/// The meaning of an error of COMMIT. An error of a transaction undoes it; where the server ends the session instead, or
/// nothing is heard of it, the commit may have happened.
pub(super) fn classify_commit(error: tokio_postgres::Error) -> StoreError {
    let undone = error.as_db_error().is_some_and(|said| said.parsed_severity() == Some(Severity::Error));
    match undone {
        true => match classify_write(error, "") {
            // What is not known by its code is not known to be undone.
            StoreError::Database(source) => StoreError::Indeterminate { source },
            known => known,
        },
        false => StoreError::Indeterminate { source: describe(error) },
    }
}

/// Whether the connection is of no more use.
pub(super) fn is_broken(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    match error.as_db_error() {
        Some(said) => !matches!(said.parsed_severity(), Some(Severity::Error)),
        None => {
            error.is_closed()
                || error.source().is_some_and(|source| source.downcast_ref::<std::io::Error>().is_some())
                || error.to_string() == "error performing TLS handshake"
        }
    }
}

/// Whether the same transaction may succeed when it is done again: it was undone for the sake of another one.
pub(super) fn is_repeatable(error: &StoreError) -> bool {
    let StoreError::Busy(source) = error else { return false };
    source.downcast_ref::<Said>().is_some_and(|said| matches!(said.code.as_str(), "40001" | "40P01"))
}
