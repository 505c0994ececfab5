//! Statements on a SQLite connection.

use std::borrow::Cow;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row as SqlRow, ToSql, params_from_iter};

use crate::driver::{Condition, Select, Value, Write};
use crate::error::StoreError;
use crate::row::Table;
use crate::sqlite::errors::{classify, classify_write};
use crate::statement::{Dialect, Statement};

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A value of a result. What no column of ours holds becomes bytes, which no seal of such a column fits.
fn value_of(row: &SqlRow<'_>, index: usize) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Blob(text.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        ValueRef::Real(number) => Value::Blob(number.to_be_bytes().to_vec()),
    })
}

static DIALECT: Dialect = Dialect::new('?', "");

pub(super) fn select(connection: &Connection, select: &Select) -> Result<Vec<Vec<Value>>, StoreError> {
    let Statement { sql, values } = DIALECT.select(select);
    let width = select.table.columns.len() + 1;
    let mut statement = connection.prepare_cached(&sql).map_err(classify)?;
    let read = |row: &SqlRow<'_>| (0..width).map(|index| value_of(row, index)).collect::<Result<Vec<_>, _>>();
    let rows = statement.query_map(bound(&values), read).map_err(classify)?;
    rows.collect::<Result<_, _>>().map_err(classify)
}

pub(super) fn count(connection: &Connection, table: &Table, conditions: &[Condition]) -> Result<u64, StoreError> {
    let Statement { sql, values } = DIALECT.count(table, conditions);
    let mut statement = connection.prepare_cached(&sql).map_err(classify)?;
    let count: i64 = statement.query_row(bound(&values), |row| row.get(0)).map_err(classify)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

pub(super) fn write(connection: &Connection, write: &Write) -> Result<(), StoreError> {
    let table = write.table().name;
    let Statement { sql, values } = DIALECT.write(write);
    let mut statement = connection.prepare_cached(&sql).map_err(classify)?;
    let touched = statement.execute(bound(&values)).map_err(|error| classify_write(error, table))?;
    write.require(touched as u64)
}

fn bound<'a>(values: &'a [Cow<'_, Value>]) -> impl rusqlite::Params + 'a {
    params_from_iter(values.iter().map(|value| &**value))
}
