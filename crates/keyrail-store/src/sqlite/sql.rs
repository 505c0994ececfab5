//! Statements for any table. Names come from [`Table`], never from outside; values are bound.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row as SqlRow, ToSql, params_from_iter};

use crate::driver::{Condition, SELECT_ROWS_MAX, Select, Value, Write};
use crate::error::StoreError;
use crate::row::Table;
use crate::sqlite::errors::{classify, classify_write};

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

pub(super) fn select(connection: &Connection, select: &Select) -> Result<Vec<Vec<Value>>, StoreError> {
    let (sql, values) = select_sql(select);
    let width = select.table.columns.len() + 1;
    let mut statement = connection.prepare_cached(&sql).map_err(classify)?;
    let read = |row: &SqlRow<'_>| (0..width).map(|index| value_of(row, index)).collect::<Result<Vec<_>, _>>();
    let rows = statement.query_map(params_from_iter(values), read).map_err(classify)?;
    rows.collect::<Result<_, _>>().map_err(classify)
}

fn select_sql(select: &Select) -> (String, Vec<Value>) {
    let table = select.table;
    let mut values = Vec::new();
    let mut wheres = conditions_sql(&select.conditions, &mut values);
    if let Some(after) = &select.after {
        let marks = vec!["?"; select.order.len()].join(", ");
        wheres.push(format!("({}) > ({marks})", list(select.order)));
        values.extend(after.iter().cloned());
    }
    let limit = select.limit.min(SELECT_ROWS_MAX);
    let sql = format!(
        "/* select */ SELECT {}, seal FROM {}{} ORDER BY {} LIMIT {limit}",
        list(table.columns),
        quoted(table.name),
        where_clause(&wheres),
        list(select.order),
    );
    (sql, values)
}

pub(super) fn count(connection: &Connection, table: &Table, conditions: &[Condition]) -> Result<u64, StoreError> {
    let mut values = Vec::new();
    let wheres = conditions_sql(conditions, &mut values);
    let sql = format!("/* count */ SELECT count(*) FROM {}{}", quoted(table.name), where_clause(&wheres));
    let mut statement = connection.prepare_cached(&sql).map_err(classify)?;
    let count: i64 = statement.query_row(params_from_iter(values), |row| row.get(0)).map_err(classify)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

pub(super) fn write(connection: &Connection, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Insert { table, values } => {
            let marks = vec!["?"; values.len()].join(", ");
            let sql = format!(
                "/* insert */ INSERT INTO {} ({}, seal) VALUES ({marks})",
                quoted(table.name),
                list(table.columns)
            );
            execute(connection, table, &sql, values).map(drop)
        }
        Write::Update { table, values, former_generation } => {
            let sets: Vec<_> =
                table.columns.iter().chain(&["seal"]).map(|column| format!("{} = ?", quoted(column))).collect();
            let keys: Vec<_> = table.key.iter().map(|column| format!("{} = ?", quoted(column))).collect();
            let sql = format!(
                "/* update */ UPDATE {} SET {} WHERE {} AND generation = ?",
                quoted(table.name),
                sets.join(", "),
                keys.join(" AND ")
            );
            let key_values = table
                .columns
                .iter()
                .zip(values)
                .filter(|(column, _)| table.key.contains(column))
                .map(|(_, value)| value.clone());
            let former = i64::try_from(*former_generation).unwrap_or(i64::MAX);
            let all: Vec<Value> = values.iter().cloned().chain(key_values).chain([Value::Integer(former)]).collect();
            match execute(connection, table, &sql, &all)? {
                1 => Ok(()),
                _ => Err(StoreError::Conflict { table: table.name }),
            }
        }
        Write::Delete { table, key } => {
            let keys: Vec<_> = table.key.iter().map(|column| format!("{} = ?", quoted(column))).collect();
            let sql = format!("/* delete */ DELETE FROM {} WHERE {}", quoted(table.name), keys.join(" AND "));
            execute(connection, table, &sql, key).map(drop)
        }
    }
}

fn execute(connection: &Connection, table: &Table, sql: &str, values: &[Value]) -> Result<usize, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(classify)?;
    statement.execute(params_from_iter(values)).map_err(|error| classify_write(error, table.name))
}

fn conditions_sql(conditions: &[Condition], values: &mut Vec<Value>) -> Vec<String> {
    let sql = conditions.iter().map(|condition| {
        let (column, operator, value) = match condition {
            Condition::Equal(column, value) => (column, "=", value),
            Condition::Less(column, value) => (column, "<", value),
        };
        values.push(value.clone());
        format!("{} {operator} ?", quoted(column))
    });
    sql.collect()
}

fn where_clause(wheres: &[String]) -> String {
    if wheres.is_empty() { String::new() } else { format!(" WHERE {}", wheres.join(" AND ")) }
}

fn list(columns: &[&str]) -> String {
    let quoted: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    quoted.join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}
