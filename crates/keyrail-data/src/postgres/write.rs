//! Writing a page: each new value only where the old one still is, byte for byte.

use std::collections::BTreeMap;

use crate::adapter::{AssetSpec, RowUpdate};
use crate::error::AssetError;
use crate::postgres::pages::{cells, wire};
use crate::postgres::session::{Session, cell};
use crate::postgres::table::{Column, Json, Table, quoted};
use crate::postgres::wire::{Param, Wire};
use crate::value::Sql;

/// What one statement writes: rows in which the same columns change.
struct Group<'a> {
    columns: Vec<&'a Column>,
    /// Places in the list of updates.
    rows: Vec<usize>,
}

/// Puts updates by the columns that they change.
fn groups<'a>(updates: &[RowUpdate], cells: &[&'a Column]) -> Vec<Group<'a>> {
    let mut found: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for (at, update) in updates.iter().enumerate() {
        let columns = update.changes.iter().map(|change| change.column).collect();
        found.entry(columns).or_default().push(at);
    }
    let group = |(columns, rows): (Vec<usize>, Vec<usize>)| {
        let columns = columns.iter().filter_map(|at| cells.get(*at).copied()).collect();
        Group { columns, rows }
    };
    found.into_iter().map(group).collect()
}

/// Writes the updates inside a transaction that is open already; tells for each whether its old values were there.
pub(super) fn apply(
    session: &mut Session,
    table: &Table,
    identity: &[Column],
    spec: &AssetSpec,
    updates: &[RowUpdate],
    how: How,
) -> Result<Vec<bool>, AssetError> {
    let cells = cells(table, spec)?;
    let mut written = vec![false; updates.len()];
    for group in groups(updates, &cells) {
        let rows: Vec<&RowUpdate> = group.rows.iter().filter_map(|at| updates.get(*at)).collect();
        let guards: &[Column] = if rows.iter().all(|row| row.guard.is_empty()) { &[] } else { identity };
        let sql = match how {
            How::Write => update_sql(table, guards, &group.columns),
            How::Lock => lock_sql(table, guards, &group.columns, "SKIP LOCKED"),
            How::Wait => lock_sql(table, guards, &group.columns, ""),
            How::Compare => compare_sql(table, &group.columns),
        };
        let guards = if how == How::Compare { &[] } else { guards };
        for row in session.rows(&sql, params(table, guards, &group.columns, &rows, how)?)? {
            let place = cell(&row, 0).and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
            let place = place.and_then(|place| usize::try_from(place - 1).ok());
            if let Some(found) = place.and_then(|place| group.rows.get(place)).and_then(|at| written.get_mut(*at)) {
                *found = true;
            }
        }
    }
    Ok(written)
}

/// What is done with the rows whose old values are still there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    /// Their new values are written.
    Write,
    /// They are locked, those aside that somebody else has locked.
    Lock,
    /// They are locked, and a lock of somebody else is waited for.
    Wait,
    /// Nothing: those are told that hold their new values now.
    Compare,
}

fn params(
    table: &Table,
    guards: &[Column],
    columns: &[&Column],
    rows: &[&RowUpdate],
    how: How,
) -> Result<Vec<Param>, AssetError> {
    let mut params = Vec::new();
    for (at, column) in table.key.iter().enumerate() {
        params.push(array(column, rows.iter().map(|row| row.key.get(at)))?);
    }
    for (at, column) in guards.iter().enumerate() {
        params.push(array(column, rows.iter().map(|row| row.guard.get(at)))?);
    }
    for (at, column) in columns.iter().enumerate() {
        if how != How::Compare {
            params.push(array(column, rows.iter().map(|row| row.changes.get(at).map(|change| &change.old)))?);
        }
        if matches!(how, How::Write | How::Compare) {
            params.push(array(column, rows.iter().map(|row| row.changes.get(at).map(|change| &change.new)))?);
        }
    }
    Ok(params)
}

fn array<'a>(column: &Column, values: impl Iterator<Item = Option<&'a Sql>>) -> Result<Param, AssetError> {
    let null = Sql::Null;
    let values: Vec<&Sql> = values.map(|value| value.unwrap_or(&null)).collect();
    wire(column)?
        .array(values)
        .ok_or_else(|| AssetError::Changed { problem: format!("column `{}` has another type", column.name) })
}

/// The arrays as a table of updates: its columns are `k1…`, `g1…`, and `o1`, `n1`… for old and new values.
struct Source {
    names: Vec<String>,
    wheres: Vec<String>,
}

impl Source {
    fn new(table: &Table, guards: &[Column]) -> Self {
        let mut source = Self { names: Vec::new(), wheres: Vec::new() };
        for (at, column) in table.key.iter().enumerate() {
            source.names.push(format!("k{at}"));
            source.wheres.push(format!("t.{} = u.k{at}::{}", quoted(&column.name), column.base_sql));
            // An index finds the row by the column's own idea of equality, by which it may be another one.
            if column.wire == Some(Wire::Text) {
                source.wheres.push(same(column, &format!("u.k{at}")));
            }
        }
        for (at, column) in guards.iter().enumerate() {
            source.names.push(format!("g{at}"));
            source.wheres.push(same(column, &format!("u.g{at}")));
        }
        source
    }

    fn values(&mut self, column: &Column, at: usize, letter: &str) {
        self.names.push(format!("{letter}{at}"));
        self.wheres.push(same(column, &format!("u.{letter}{at}")));
    }

    fn from(&self) -> String {
        let arrays: Vec<_> = (1..=self.names.len()).map(|at| format!("${at}")).collect();
        format!("ROWS FROM (unnest({})) WITH ORDINALITY AS u({}, place)", arrays.join(", "), self.names.join(", "))
    }
}

/// By bytes: neither a collation nor a type's own idea of equality may take one value for another.
fn same(column: &Column, value: &str) -> String {
    let name = format!("t.{}", quoted(&column.name));
    match column.wire {
        Some(Wire::Text) => {
            format!("{name}::text COLLATE \"C\" IS NOT DISTINCT FROM {value} COLLATE \"C\"")
        }
        Some(wire) => format!("{} IS NOT DISTINCT FROM {value}", wire.select(&name)),
        None => "false".to_owned(),
    }
}

fn update_sql(table: &Table, guards: &[Column], columns: &[&Column]) -> String {
    let mut source = Source::new(table, guards);
    let mut sets = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        source.values(column, at, "o");
        source.names.push(format!("n{at}"));
        // A text that is too long for its column has to fail and not to be cut, as an explicit cast would.
        let cast = if column.json == Json::No { String::new() } else { format!("::{}", column.base_sql) };
        sets.push(format!("{} = u.n{at}{cast}", quoted(&column.name)));
    }
    format!(
        "UPDATE {} AS t SET {} FROM {} WHERE {} RETURNING u.place",
        table.sql(),
        sets.join(", "),
        source.from(),
        source.wheres.join(" AND ")
    )
}

fn lock_sql(table: &Table, guards: &[Column], columns: &[&Column], others: &str) -> String {
    let mut source = Source::new(table, guards);
    for (at, column) in columns.iter().enumerate() {
        source.values(column, at, "o");
    }
    format!(
        "SELECT u.place FROM {} JOIN {} AS t ON {} FOR NO KEY UPDATE OF t {others}",
        source.from(),
        table.sql(),
        source.wheres.join(" AND ")
    )
}

fn compare_sql(table: &Table, columns: &[&Column]) -> String {
    let mut source = Source::new(table, &[]);
    for (at, column) in columns.iter().enumerate() {
        if column.json == Json::Binary {
            source.names.push(format!("n{at}"));
            source.wheres.push(format!("t.{} = u.n{at}::jsonb", quoted(&column.name)));
        } else {
            source.values(column, at, "n");
        }
    }
    format!("SELECT u.place FROM {} JOIN {} AS t ON {}", source.from(), table.sql(), source.wheres.join(" AND "))
}
