//! What a database calls its tables and columns, for who named one that is not there.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::error::AssetError;
use crate::sqlite::classify;
use crate::sqlite::copy::open_to_read;
use crate::sqlite::table::columns;

/// The names in a database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// Its ordinary tables, sorted.
    pub tables: Vec<String>,
    /// The columns of the table that was asked for; `None` if there is no such table.
    pub columns: Option<Vec<String>>,
}

/// Reads the names of the tables, and of the columns of one; the database is only read.
///
/// # Errors
/// [`AssetError::Open`], [`AssetError::Unfinished`], and what else the database fails with.
pub fn names(path: &Path, table: &str) -> Result<Names, AssetError> {
    let connection = open_to_read(path)?;
    let own = "SELECT name FROM pragma_table_list(?1) WHERE schema = 'main' AND type = 'table'";
    let found: Option<String> = connection.query_row(own, [table], |row| row.get(0)).optional().map_err(classify)?;
    let columns = found.map(|name| columns(&connection, &name)).transpose()?;
    let columns = columns.map(|columns| columns.into_iter().map(|column| column.name).collect());
    Ok(Names { tables: tables(&connection)?, columns })
}

fn tables(connection: &Connection) -> Result<Vec<String>, AssetError> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = connection.prepare(sql).map_err(classify)?;
    let names = statement.query_map([], |row| row.get(0)).map_err(classify)?;
    names.collect::<Result<_, _>>().map_err(classify)
}
