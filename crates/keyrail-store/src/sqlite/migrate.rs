//! Migrations: numbered pairs of scripts, applied in order within one transaction each.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::StoreError;
use crate::sqlite::errors::classify;

/// "KRL1": tells a store of Keyrail from other SQLite files.
pub(crate) const APPLICATION_ID: i64 = 0x4b52_4c31;

/// A step of the schema, and the way back.
pub(crate) struct Migration {
    /// From the schema before to this one.
    pub(crate) up: &'static str,
    /// From this schema to the one before.
    pub(crate) down: &'static str,
}

/// All steps; the schema's version is their number.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    up: include_str!("migrations/0001-initial.up.sql"),
    down: include_str!("migrations/0001-initial.down.sql"),
}];

/// The newest schema.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// What a file is, by its header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FileKind {
    /// Nothing in it yet.
    Empty,
    /// A store with this schema.
    Store(i64),
}

/// Looks at the header of a file.
pub(crate) fn identify(connection: &Connection, path: &Path) -> Result<FileKind, StoreError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(classify);
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection
        .query_row("/* identify */ SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(classify)?;
    match (application, tables) {
        (0, 0) => Ok(FileKind::Empty),
        (APPLICATION_ID, _) => Ok(FileKind::Store(version)),
        _ => Err(StoreError::NotAStore { path: path.to_owned() }),
    }
}

/// Brings a file to the newest schema.
pub(crate) fn migrate(connection: &mut Connection, path: &Path, steps: &[Migration]) -> Result<(), StoreError> {
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    loop {
        // Looked at anew under the write lock: another process may have been faster.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(classify)?;
        let found = match identify(&transaction, path)? {
            FileKind::Empty => 0,
            FileKind::Store(version) => version,
        };
        if found > known || found < 0 {
            return Err(StoreError::UnknownSchema { found, known });
        }
        let Some(step) = usize::try_from(found).ok().and_then(|next| steps.get(next)) else {
            return Ok(());
        };
        transaction.execute_batch(step.up).map_err(classify)?;
        set_header(&transaction, found + 1)?;
        transaction.commit().map_err(classify)?;
    }
}

/// One step back; for tests and for an operator's hands, never by itself.
#[cfg_attr(not(test), allow(dead_code, reason = "the way back is tested, and run by hand only"))]
pub(crate) fn step_down(connection: &mut Connection, path: &Path, steps: &[Migration]) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(classify)?;
    let FileKind::Store(found) = identify(&transaction, path)? else {
        return Ok(());
    };
    let step = found.checked_sub(1).and_then(|last| usize::try_from(last).ok()).and_then(|last| steps.get(last));
    let Some(step) = step else { return Ok(()) };
    transaction.execute_batch(step.down).map_err(classify)?;
    set_header(&transaction, found - 1)?;
    transaction.commit().map_err(classify)
}

fn set_header(connection: &Connection, version: i64) -> Result<(), StoreError> {
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(classify)?;
    connection.pragma_update(None, "user_version", version).map_err(classify)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Migration = Migration {
        up: "CREATE TABLE added (id INTEGER PRIMARY KEY) STRICT; ALTER TABLE label ADD COLUMN note TEXT;",
        down: "ALTER TABLE label DROP COLUMN note; DROP TABLE added;",
    };

    fn schema(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1")
            .unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn steps(count: usize) -> Vec<Migration> {
        let first = Migration { up: MIGRATIONS[0].up, down: MIGRATIONS[0].down };
        [first, SECOND].into_iter().take(count).collect()
    }

    #[test]
    fn up_down_and_up_again_gives_the_same_schema_from_every_version() {
        let path = Path::new("test");
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh, path, &steps(2)).unwrap();
        let whole = schema(&fresh);
        for from in 0..=2 {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, path, &steps(from)).unwrap();
            migrate(&mut connection, path, &steps(2)).unwrap();
            assert_eq!(schema(&connection), whole, "from {from}");
            step_down(&mut connection, path, &steps(2)).unwrap();
            step_down(&mut connection, path, &steps(2)).unwrap();
            assert!(schema(&connection).is_empty());
            migrate(&mut connection, path, &steps(2)).unwrap();
            assert_eq!(schema(&connection), whole, "again, from {from}");
        }
    }

    #[test]
    fn a_newer_schema_and_a_foreign_file_are_refused_untouched() {
        let path = Path::new("test");
        let mut newer = Connection::open_in_memory().unwrap();
        migrate(&mut newer, path, &steps(2)).unwrap();
        let before = schema(&newer);
        assert!(matches!(migrate(&mut newer, path, &steps(1)), Err(StoreError::UnknownSchema { found: 2, known: 1 })));
        assert_eq!(schema(&newer), before);

        let mut foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE people (id INTEGER)").unwrap();
        let before = schema(&foreign);
        assert!(matches!(migrate(&mut foreign, path, MIGRATIONS), Err(StoreError::NotAStore { .. })));
        assert_eq!(schema(&foreign), before);
    }
}
