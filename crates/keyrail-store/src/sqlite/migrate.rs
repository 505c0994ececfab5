//! Migrations: numbered pairs of scripts, applied in order within one transaction each.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::StoreError;
use crate::sqlite::errors::classify;

/// "KRL1": tells a store of Keyrail from other SQLite files.
pub const APPLICATION_ID: i64 = 0x4b52_4c31;

/// A step of the schema, and the way back.
pub(crate) struct Migration {
    /// From the schema before to this one.
    pub(crate) up: &'static str,
    /// From this schema to the one before.
    pub(crate) down: &'static str,
}

/// All steps; the schema's version is their number.
///
/// A script that was released is never touched again, not even its comments: SQLite keeps the text of each statement, and
/// [`schema_findings`] compares it. A store that was made before the change would be told as altered.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        up: include_str!("migrations/0001-initial.up.sql"),
        down: include_str!("migrations/0001-initial.down.sql"),
    },
    Migration {
        up: include_str!("migrations/0002-began.up.sql"),
        down: include_str!("migrations/0002-began.down.sql"),
    },
    Migration {
        up: include_str!("migrations/0003-scrub.up.sql"),
        down: include_str!("migrations/0003-scrub.down.sql"),
    },
    Migration {
        up: include_str!("migrations/0004-schema.up.sql"),
        down: include_str!("migrations/0004-schema.down.sql"),
    },
    Migration {
        up: include_str!("migrations/0005-roots.up.sql"),
        down: include_str!("migrations/0005-roots.down.sql"),
    },
    Migration { up: include_str!("migrations/0006-map.up.sql"), down: include_str!("migrations/0006-map.down.sql") },
];

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

/// Refuses a file that is no store, or one of a newer program, before anything is changed in it.
pub(crate) fn require_known(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    match identify(connection, path)? {
        FileKind::Store(found) if !(0..=SCHEMA_VERSION).contains(&found) => {
            Err(StoreError::UnknownSchema { found, known: SCHEMA_VERSION })
        }
        _ => Ok(()),
    }
}

/// What differs from the newest schema: somebody changed the file by hand.
pub(crate) fn schema_findings(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut fresh = Connection::open_in_memory().map_err(classify)?;
    migrate(&mut fresh, Path::new(""), MIGRATIONS)?;
    let (wanted, found) = (schema_of(&fresh)?, schema_of(connection)?);
    let missing = wanted.iter().filter(|(name, sql)| found.get(*name) != Some(sql));
    let missing = missing.map(|(name, _)| format!("{name} is not the one of the schema"));
    let extra = found.keys().filter(|name| !wanted.contains_key(*name));
    Ok(missing.chain(extra.map(|name| format!("{name} is not in the schema"))).collect())
}

/// Every object of the schema: its kind and name, and how it was made.
fn schema_of(connection: &Connection) -> Result<BTreeMap<String, String>, StoreError> {
    let sql = "/* schema */ SELECT type || ' `' || name || '`', coalesce(sql, '') FROM sqlite_schema \
               WHERE name NOT LIKE 'sqlite_stat%'";
    let mut statement = connection.prepare(sql).map_err(classify)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(classify)?;
    rows.collect::<Result<_, _>>().map_err(classify)
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

    fn schema(connection: &Connection) -> BTreeMap<String, String> {
        schema_of(connection).unwrap()
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

    /// Every schema there ever was comes up to the newest one, goes down to nothing and comes up again.
    #[test]
    fn every_real_schema_comes_up_down_and_up_again() {
        let path = Path::new("test");
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh, path, MIGRATIONS).unwrap();
        let whole = schema(&fresh);
        for from in 0..=MIGRATIONS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, path, &MIGRATIONS[..from]).unwrap();
            migrate(&mut connection, path, MIGRATIONS).unwrap();
            assert_eq!(schema(&connection), whole, "from {from}");
            assert_eq!(schema_findings(&connection).unwrap(), Vec::<String>::new());
            for back in (0..MIGRATIONS.len()).rev() {
                step_down(&mut connection, path, MIGRATIONS).unwrap();
                let mut expected = Connection::open_in_memory().unwrap();
                migrate(&mut expected, path, &MIGRATIONS[..back]).unwrap();
                assert_eq!(schema(&connection), schema(&expected), "back to {back}");
            }
            assert!(schema(&connection).is_empty());
            migrate(&mut connection, path, MIGRATIONS).unwrap();
            assert_eq!(schema(&connection), whole, "again, from {from}");
        }
    }

    /// Each table has a comment above it, each column one beside it, and the tables are those that rows know.
    #[test]
    fn every_table_and_column_has_a_comment() {
        let connection = Connection::open_in_memory().unwrap();
        let mut columns = 0;
        for step in MIGRATIONS {
            let lines: Vec<&str> = step.up.lines().collect();
            for (place, line) in lines.iter().enumerate() {
                if line.starts_with("CREATE ") && line.contains(" TABLE ") {
                    assert!(lines[place - 1].starts_with("-- "), "no comment above `{line}`");
                }
                let column = line.starts_with("  ") && !line.trim_start().starts_with("CONSTRAINT");
                if column && ["BLOB", "TEXT", "INTEGER"].iter().any(|kind| line.contains(&format!(" {kind}"))) {
                    assert!(line.split_once("-- ").is_some_and(|(_, comment)| comment.len() > 3), "`{line}`");
                    columns += 1;
                }
            }
            connection.execute_batch(step.up).unwrap();
        }
        let known: usize = crate::row::TABLES.iter().map(|table| table.columns.len() + 1).sum();
        assert_eq!(columns, known);
        for table in crate::row::TABLES {
            let sql = "SELECT group_concat(name, ',') FROM pragma_table_info(?)";
            let found: String = connection.query_row(sql, [table.name], |row| row.get(0)).unwrap();
            let (first, added) = table.columns.split_at(table.columns.len() - table.added.len());
            assert_eq!(added, table.added);
            assert_eq!(found, [first, &["seal"], added].concat().join(","), "{}", table.name);
        }
        let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
        let tables: i64 = connection.query_row(tables, [], |row| row.get(0)).unwrap();
        assert_eq!(usize::try_from(tables).unwrap(), crate::row::TABLES.len());
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
