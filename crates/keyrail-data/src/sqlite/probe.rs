//! Tries a table with values of the form and length that protected ones have, and takes all of it back.

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::adapter::{AssetSpec, CellSpec, Misfit};
use crate::cells::sealed_text_len;
use crate::error::AssetError;
use crate::sqlite::fit::refuse;
use crate::sqlite::table::{Table, quoted};
use crate::sqlite::{classify, value_of};
use crate::value::Sql;

/// How many rows are tried, besides the one with the longest value and the one with the shortest.
const ROWS_MAX: usize = 50;

/// How a protected text begins; what follows has the same alphabet.
const SAMPLE: &str = "kr1.2GCEUaQBAwRQAAECAwQFBgcICQoLDA0OD6EFTAABAgMEBQYHCAkKCw";

/// A row to try, with the length of its value.
struct Tried {
    key: Vec<Sql>,
    is_blob: bool,
    len: usize,
}

/// Updates some rows inside a savepoint that is always rolled back. CHECK constraints, triggers, and functions
/// or collations that only the application brings show themselves; so does a trigger that changes what is written.
pub(super) fn probe(
    connection: &Connection,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    for cell in &spec.cells {
        let rows = rows(connection, table, cell)?;
        if rows.is_empty() {
            continue;
        }
        connection.execute_batch("SAVEPOINT keyrail_probe").map_err(classify)?;
        let found = rows.iter().find_map(|row| try_row(connection, table, cell, row).transpose()).transpose();
        connection.execute_batch("ROLLBACK TO keyrail_probe; RELEASE keyrail_probe").map_err(classify)?;
        misfits.extend(found?);
    }
    Ok(())
}

fn rows(connection: &Connection, table: &Table, cell: &CellSpec) -> Result<Vec<Tried>, AssetError> {
    let (name, column) = (quoted(&table.name), quoted(&cell.column));
    let key: Vec<_> = table.key.iter().map(|column| quoted(&column.name)).collect();
    let (value, has) = match &cell.json_path {
        None => (column.clone(), format!("{column} IS NOT NULL")),
        Some(path) => {
            let path = format!("'{}'", path.to_string().replace('\'', "''"));
            let valid = format!("CASE WHEN json_valid({column}) THEN {column} END");
            let value = format!("json_extract({valid}, {path})");
            (value.clone(), format!("{value} IS NOT NULL"))
        }
    };
    let length = format!("length(CAST({value} AS BLOB))");
    let mut found = Vec::new();
    for order in
        [format!("ORDER BY {length} DESC LIMIT 1"), format!("ORDER BY {length} LIMIT 1"), format!("LIMIT {ROWS_MAX}")]
    {
        let sql =
            format!("SELECT typeof({value}) = 'blob', {length}, {} FROM {name} WHERE {has} {order}", key.join(", "));
        let mut statement = connection.prepare(&sql).map_err(classify)?;
        let rows = statement.query_map([], |row| {
            let key = (0..key.len()).map(|at| Ok(value_of(row.get_ref(at + 2)?))).collect::<rusqlite::Result<_>>()?;
            Ok(Tried { key, is_blob: row.get(0)?, len: usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0) })
        });
        for row in rows.map_err(classify)? {
            found.push(row.map_err(classify)?);
        }
    }
    Ok(found)
}

/// Writes a sample in place of one value; tells what is in the way, if anything is.
fn try_row(connection: &Connection, table: &Table, cell: &CellSpec, row: &Tried) -> Result<Option<Misfit>, AssetError> {
    let (name, column) = (quoted(&table.name), quoted(&cell.column));
    let text: String = SAMPLE.chars().chain("A".chars().cycle()).take(sealed_text_len(row.len)).collect();
    let sample = if row.is_blob { Sql::Blob(text.into_bytes()) } else { Sql::Text(text.into_bytes()) };
    let keys: Vec<_> = table.key.iter().map(|column| format!("{} IS ?", column.sql())).collect();
    let wheres = keys.join(" AND ");
    let mut values = vec![sample.clone()];
    let (set, get) = match &cell.json_path {
        None => ("?".to_owned(), column.clone()),
        Some(path) => {
            let path = format!("'{}'", path.to_string().replace('\'', "''"));
            (format!("json_set({column}, {path}, ?)"), format!("json_extract({column}, {path})"))
        }
    };
    values.extend(row.key.iter().cloned());
    let update = format!("UPDATE {name} SET {column} = {set} WHERE {wheres}");
    if let Err(error) = connection.execute(&update, params_from_iter(&values)) {
        return in_the_way(cell, error).map(Some);
    }
    let select = format!("SELECT {get} FROM {name} WHERE {wheres}");
    let written = connection.query_row(&select, params_from_iter(&row.key), |row| Ok(value_of(row.get_ref(0)?)));
    if written.optional().map_err(classify)? == Some(sample) {
        return Ok(None);
    }
    Ok(Some(refuse(
        format!("the database changes what is written to column `{}`, as a trigger does", cell.column),
        "drop the trigger: a protected value must stay as it is",
    )))
}

fn in_the_way(cell: &CellSpec, error: rusqlite::Error) -> Result<Misfit, AssetError> {
    use rusqlite::ffi;
    let column = &cell.column;
    // No such function, no such collation: SQLite's message names it, and no value.
    if let rusqlite::Error::SqlInputError { msg, .. } = &error {
        return Ok(needs_application(column, msg));
    }
    let code = error.sqlite_error().map_or(0, |error| error.extended_code);
    match code {
        ffi::SQLITE_CONSTRAINT_CHECK => Ok(refuse(
            format!("a CHECK constraint refuses protected values in column `{column}`"),
            "drop or widen the constraint; a protected value takes 4/3 of the length and 138 characters more",
        )),
        ffi::SQLITE_CONSTRAINT_TRIGGER => Ok(refuse(
            format!("a trigger refuses protected values in column `{column}`"),
            "drop or widen what the trigger checks",
        )),
        code if code & 0xff == ffi::SQLITE_CONSTRAINT => Ok(refuse(
            format!("a constraint refuses protected values in column `{column}`"),
            "drop or widen the constraint",
        )),
        ffi::SQLITE_ERROR => Ok(needs_application(column, &error.to_string())),
        _ => Err(classify(error)),
    }
}

fn needs_application(column: &str, message: &str) -> Misfit {
    refuse(
        format!("column `{column}` cannot be written without the application: {message}"),
        "drop the index, trigger or constraint that needs what only the application brings",
    )
}
