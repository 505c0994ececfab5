//! What an error of a PostgreSQL server means for an asset.

use sqlx::postgres::PgDatabaseError;

use crate::error::{AssetError, DriverError};

/// What a server said, without what it may have repeated of values.
#[derive(Debug, thiserror::Error)]
#[error("{said} (SQLSTATE {code})")]
struct Said {
    code: String,
    said: String,
}

/// Sorts an error of the driver.
pub(super) fn classify(error: sqlx::Error) -> AssetError {
    let database = match error {
        sqlx::Error::Database(error) => error,
        error @ (sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed) => {
            return AssetError::Unreachable(DriverError::of(error));
        }
        // Others may hold what was read or written.
        sqlx::Error::Configuration(error) => return AssetError::Login(DriverError::of(error)),
        _ => return AssetError::Database(said("", "the driver failed")),
    };
    let Ok(error) = database.try_downcast::<PgDatabaseError>() else {
        return AssetError::Database(said("", "the driver failed"));
    };
    of_server(&error)
}

fn of_server(error: &PgDatabaseError) -> AssetError {
    let code = error.code();
    let source = source(error);
    match code {
        "40001" | "40P01" => AssetError::Collided(source),
        "55P03" | "55006" | "57014" => AssetError::Busy(source),
        "53100" => AssetError::Full(source),
        "25006" => AssetError::ReadOnly(source),
        "42501" => AssetError::Denied(source),
        "3D000" => AssetError::Login(source),
        "42P01" | "42703" | "3F000" => {
            AssetError::Changed { problem: "the table or a column is not there any more".to_owned() }
        }
        // A prepared statement outlived a change of the table.
        "0A000" if error.message().contains("cached plan") => AssetError::Moved,
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "25P03" => AssetError::Unreachable(source),
        _ => match code.get(..2) {
            Some("08") => AssetError::Unreachable(source),
            Some("28") => AssetError::Login(source),
            Some("22" | "23" | "44" | "54" | "P0") => AssetError::Constraint { row: String::new(), source },
            Some("XX") => AssetError::Damaged(source),
            _ => AssetError::Database(source),
        },
    }
}

/// Whether the server, or the way to it, is gone.
pub(super) const fn is_away(error: &AssetError) -> bool {
    matches!(error, AssetError::Unreachable(_))
}

/// What the server said, where its words cannot hold a value: a refused value, or what a function of the application
/// says, is named by its constraint alone.
fn source(error: &PgDatabaseError) -> DriverError {
    let telling = matches!(error.code().get(..2), Some("08" | "25" | "28" | "3D" | "40" | "42" | "53" | "55" | "57"));
    if telling {
        return said(error.code(), error.message());
    }
    let named = [("constraint", error.constraint()), ("column", error.column()), ("table", error.table())];
    let named: Vec<_> = named.iter().filter_map(|(what, name)| Some(format!("{what} `{}`", (*name)?))).collect();
    said(
        error.code(),
        &if named.is_empty() { "the server refused the statement".to_owned() } else { named.join(" of ") },
    )
}

fn said(code: &str, text: &str) -> DriverError {
    DriverError::of(Said { code: code.to_owned(), said: text.to_owned() })
}
