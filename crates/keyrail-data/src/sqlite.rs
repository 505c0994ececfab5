//! Assets in SQLite databases.

mod copy;
mod fit;
mod names;
mod probe;
mod scrub;
mod table;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyrail_store::APPLICATION_ID;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, Transaction, TransactionBehavior, params_from_iter};

use crate::adapter::{AssetAdapter, AssetSpec, BeforeCommit, Fit, Page, Row, RowUpdate, Scrubbed};
use crate::cells::Goal;
use crate::error::AssetError;
use crate::value::{RowIdentity, Sql};
pub use copy::copy_database;
pub use names::{Names, names};
pub use scrub::BEYOND;
use table::{KeyColumn, Table, quoted};

/// How long a lock of another connection may last before that is an error, in milliseconds.
const BUSY_MILLIS_MAX: u64 = 10_000;

/// The most bytes of values in one page, beyond the row that passes it.
const PAGE_LEN_MAX: usize = 8 * 1024 * 1024;

/// How many prepared statements are kept.
const STATEMENTS_MAX: usize = 64;

/// An asset's table in a SQLite database.
pub struct SqliteAsset {
    connection: Connection,
    path: PathBuf,
    /// Device and inode of the file that was opened.
    file: (u64, u64),
    spec: AssetSpec,
    table: Table,
    /// The columns of the row identity, in their order.
    identity: Vec<String>,
    schema_version: i64,
}

impl ToSql for Sql {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
            // SQLite has no such types, and no value of them.
            Self::Typed(_, text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn value_of(value: ValueRef<'_>) -> Sql {
    match value {
        ValueRef::Null => Sql::Null,
        ValueRef::Integer(number) => Sql::Integer(number),
        ValueRef::Real(number) => Sql::Real(number),
        ValueRef::Text(bytes) => Sql::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Sql::Blob(bytes.to_vec()),
    }
}

/// What an error of SQLite means for an asset.
fn classify(error: rusqlite::Error) -> AssetError {
    if error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_READONLY_DBMOVED) {
        return AssetError::Changed { problem: FILE_GONE.to_owned() };
    }
    use rusqlite::ffi::{SQLITE_READONLY_RECOVERY, SQLITE_READONLY_ROLLBACK};
    let extended = error.sqlite_error().map(|error| error.extended_code);
    if matches!(extended, Some(SQLITE_READONLY_ROLLBACK | SQLITE_READONLY_RECOVERY)) {
        return AssetError::Unfinished(error.into());
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => AssetError::Busy(error.into()),
        Some(ErrorCode::DiskFull) => AssetError::Full(error.into()),
        Some(ErrorCode::ReadOnly) => AssetError::ReadOnly(error.into()),
        Some(ErrorCode::DatabaseCorrupt) => AssetError::Damaged(error.into()),
        Some(ErrorCode::NotADatabase | ErrorCode::CannotOpen) => AssetError::Open(error.into()),
        Some(ErrorCode::SchemaChanged) => AssetError::Changed { problem: "its schema was changed".to_owned() },
        _ => AssetError::Database(error.into()),
    }
}

impl SqliteAsset {
    /// Opens the table of an asset.
    ///
    /// # Errors
    /// [`AssetError::Open`], [`AssetError::Absent`].
    pub fn open(path: &Path, spec: &AssetSpec) -> Result<Self, AssetError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| AssetError::open(path, error))?;
        connection.busy_timeout(Duration::from_millis(BUSY_MILLIS_MAX)).map_err(classify)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        not_ours(&connection)?;
        // What is overwritten leaves the pages at once. Foreign keys are the application's choice, not ours.
        connection.pragma_update(None, "secure_delete", "ON").map_err(classify)?;
        connection.pragma_update(None, "trusted_schema", "OFF").map_err(classify)?;
        let schema_version = schema_version(&connection)?;
        let table = Table::read(&connection, &spec.table)?;
        let identity = table.identity_columns(spec)?;
        let file = file_id(path).ok_or_else(|| AssetError::Changed { problem: FILE_GONE.to_owned() })?;
        let path = path.to_owned();
        Ok(Self { connection, path, file, spec: spec.clone(), table, identity, schema_version })
    }

    /// What is written to a file that lost its name is lost, and SQLite does not notice.
    fn same_file(&self) -> Result<(), AssetError> {
        let problem = match file_id(&self.path) {
            Some(found) if found == self.file => return Ok(()),
            Some(_) => "another file is in the place of its database",
            None => FILE_GONE,
        };
        Err(AssetError::Changed { problem: problem.to_owned() })
    }

    /// A schema that changed is looked at again: what the asset needs must still be there.
    fn follow_schema(&mut self) -> Result<(), AssetError> {
        let found = schema_version(&self.connection)?;
        if found == self.schema_version {
            return Ok(());
        }
        let changed = |error| match error {
            AssetError::Absent { what, name } => {
                AssetError::Changed { problem: format!("there is no {what} `{name}` any more") }
            }
            other => other,
        };
        let table = Table::read(&self.connection, &self.spec.table).map_err(changed)?;
        if table.key != self.table.key {
            return Err(AssetError::Changed { problem: "it has another primary key".to_owned() });
        }
        for column in self.spec.columns().into_iter().chain(self.identity.iter().map(String::as_str)) {
            table.require(column).map_err(changed)?;
        }
        self.table = table;
        self.schema_version = found;
        self.connection.flush_prepared_statement_cache();
        Ok(())
    }

    fn page_sql(&self, after: bool, limit: usize) -> String {
        let key: Vec<_> = self.table.key.iter().map(KeyColumn::sql).collect();
        let others = self.identity.iter().map(String::as_str).chain(self.spec.columns());
        let all: Vec<_> = self.table.key.iter().map(|column| quoted(&column.name)).chain(others.map(quoted)).collect();
        let wheres = if after {
            format!(" WHERE ({}) > ({})", key.join(", "), vec!["?"; key.len()].join(", "))
        } else {
            String::new()
        };
        format!(
            "SELECT {} FROM {}{wheres} ORDER BY {} LIMIT {limit}",
            all.join(", "),
            quoted(&self.spec.table),
            key.join(", ")
        )
    }

    fn update_sql(&self, update: &RowUpdate) -> String {
        let columns = self.spec.columns();
        let names: Vec<_> =
            update.changes.iter().filter_map(|change| columns.get(change.column).map(|name| quoted(name))).collect();
        let sets: Vec<_> = names.iter().map(|name| format!("{name} = ?")).collect();
        let guards: &[String] = if update.guard.is_empty() { &[] } else { &self.identity };
        // By class and by bytes: neither a collation nor 5 = 5.0 may take one value for another.
        let guards = guards.iter().map(|name| quoted(name)).chain(names);
        let olds = guards.map(|name| format!("typeof({name}) = ? AND {name} IS ? COLLATE BINARY"));
        let wheres: Vec<_> = self.key_sql().chain(olds).collect();
        format!("UPDATE {} SET {} WHERE {}", quoted(&self.spec.table), sets.join(", "), wheres.join(" AND "))
    }
}

impl SqliteAsset {
    /// What finds one row by its key.
    fn key_sql(&self) -> impl Iterator<Item = String> {
        self.table.key.iter().map(|column| format!("{} IS ?", column.sql()))
    }

    /// Reads a row back that was just written: a trigger may have changed it.
    fn check_written(&self, connection: &Connection, update: &RowUpdate) -> Result<(), AssetError> {
        let columns = self.spec.columns();
        let names = update.changes.iter().filter_map(|change| columns.get(change.column));
        let names: Vec<_> = names.map(|name| quoted(name)).collect();
        let wheres: Vec<_> = self.key_sql().collect();
        let table = quoted(&self.spec.table);
        let sql = format!("SELECT {} FROM {table} WHERE {}", names.join(", "), wheres.join(" AND "));
        let mut statement = connection.prepare_cached(&sql).map_err(classify)?;
        let mut found = statement.query(params_from_iter(&update.key)).map_err(classify)?;
        let altered = || AssetError::Altered { row: update.name.clone() };
        let row = found.next().map_err(classify)?.ok_or_else(altered)?;
        for (index, change) in update.changes.iter().enumerate() {
            if value_of(row.get_ref(index).map_err(classify)?) != change.new {
                return Err(altered());
            }
        }
        Ok(())
    }
}

/// A store of Keyrail, ours or another, is no asset: a campaign in it would destroy the keys of everything.
fn not_ours(connection: &Connection) -> Result<(), AssetError> {
    let found: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(classify)?;
    if found == APPLICATION_ID { Err(AssetError::own_file()) } else { Ok(()) }
}

/// Device and inode of a file, if it is there.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

const FILE_GONE: &str = "its database file is gone";

fn schema_version(connection: &Connection) -> Result<i64, AssetError> {
    connection.pragma_query_value(None, "schema_version", |row| row.get(0)).map_err(classify)
}

fn apply_update(connection: &Connection, sql: &str, update: &RowUpdate) -> Result<bool, AssetError> {
    let mut values: Vec<Sql> = update.changes.iter().map(|change| change.new.clone()).collect();
    values.extend(update.key.iter().cloned());
    for old in update.guard.iter().chain(update.changes.iter().map(|change| &change.old)) {
        values.push(Sql::Text(old.class().as_bytes().to_vec()));
        values.push(old.clone());
    }
    let mut statement = connection.prepare_cached(sql).map_err(classify)?;
    let changed = statement.execute(params_from_iter(values)).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => {
            AssetError::Constraint { row: update.name.clone(), source: error.into() }
        }
        _ => classify(error),
    })?;
    Ok(changed > 0)
}

impl AssetAdapter for SqliteAsset {
    fn inspect(&mut self) -> Result<Fit, AssetError> {
        fit::inspect(&mut self.connection, &self.spec, &self.table)
    }

    fn page(&mut self, after: Option<&[Sql]>, limit: usize) -> Result<Page, AssetError> {
        self.same_file()?;
        self.follow_schema()?;
        let guarded = !self.table.key_is(&self.identity);
        let sql = self.page_sql(after.is_some(), limit + 1);
        let (keys, identities) = (self.table.key.len(), self.identity.len());
        let width = keys + identities + self.spec.columns().len();
        let mut statement = self.connection.prepare_cached(&sql).map_err(classify)?;
        let mut found = statement.query(params_from_iter(after.unwrap_or_default())).map_err(classify)?;
        let (mut page, mut bytes) = (Page::default(), 0);
        while let Some(row) = found.next().map_err(classify)? {
            if page.rows.len() == limit || bytes > PAGE_LEN_MAX {
                page.more = true;
                break;
            }
            let mut values = Vec::with_capacity(width);
            for index in 0..width {
                values.push(value_of(row.get_ref(index).map_err(classify)?));
            }
            bytes += values.iter().map(Sql::len).sum::<usize>();
            let cells = values.split_off(keys + identities);
            let guard = values.split_off(keys);
            let identity = (!guard.is_empty()).then(|| RowIdentity::of(&guard));
            let guard = if guarded { guard } else { Vec::new() };
            page.rows.push(Row { key: values, guard, identity, values: cells });
        }
        Ok(page)
    }

    fn hold_back(&mut self, _: Goal<'_>) -> Result<(), AssetError> {
        // A cache that is full spills: pages of a transaction go to the write-ahead log, or to the file itself, before it is
        // committed, and what the log holds of them stays there after a rollback.
        self.connection.pragma_update(None, "cache_spill", "OFF").map_err(classify)?;
        // A statement's own journal is a temporary file: it holds pages as the statements before it left them.
        self.connection.pragma_update(None, "temp_store", "MEMORY").map_err(classify)
    }

    fn write(&mut self, updates: &[RowUpdate], before_commit: &mut BeforeCommit<'_>) -> Result<Vec<bool>, AssetError> {
        self.same_file()?;
        let sqls: Vec<String> = updates.iter().map(|update| self.update_sql(update)).collect();
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let transaction = transaction.map_err(classify)?;
        if schema_version(&transaction)? != self.schema_version {
            return Err(AssetError::Moved);
        }
        let mut written = Vec::with_capacity(updates.len());
        for (update, sql) in updates.iter().zip(&sqls) {
            written.push(apply_update(&transaction, sql, update)?);
        }
        if self.table.triggers {
            for (update, _) in updates.iter().zip(&written).filter(|(_, written)| **written) {
                self.check_written(&transaction, update)?;
            }
        }
        self.same_file()?;
        before_commit(&written).map_err(|error| AssetError::Before(Box::new(error)))?;
        transaction.commit().map_err(classify)?;
        Ok(written)
    }

    fn scrub(&mut self) -> Result<Scrubbed, AssetError> {
        self.connection.flush_prepared_statement_cache();
        self.same_file()?;
        scrub::scrub(&self.connection, &self.table.name)
    }
}
