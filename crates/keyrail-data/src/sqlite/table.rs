//! A table, as its schema describes it.

use keyrail_core::asset::IdentityKind;
use rusqlite::{Connection, OptionalExtension};

use crate::adapter::AssetSpec;
use crate::error::AssetError;
use crate::sqlite::classify;

/// A column of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) generated: bool,
    /// Place in the primary key, from 1.
    pub(super) key_position: Option<u32>,
}

/// A table, as far as paging and fitting need it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) strict: bool,
    pub(super) without_rowid: bool,
    pub(super) columns: Vec<Column>,
    /// What orders and finds the rows: the rowid, or the primary key of a table without one.
    pub(super) key: Vec<String>,
}

/// A name as SQL wants it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    pub(super) fn read(connection: &Connection, name: &str) -> Result<Self, AssetError> {
        let sql = "SELECT type, wr, strict, name FROM pragma_table_list(?1) WHERE schema = 'main'";
        let listed = connection
            .query_row(sql, [name], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?, row.get::<_, String>(3)?))
            })
            .optional()
            .map_err(classify)?;
        let absent = || AssetError::Absent { what: "table", name: name.to_owned() };
        let (kind, without_rowid, strict, name) = listed.ok_or_else(absent)?;
        let columns = columns(connection, &name)?;
        let key = key_columns(&columns, without_rowid)?;
        Ok(Self { name, kind, strict, without_rowid, columns, key })
    }

    /// The column of this name; names are compared as SQLite does.
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn require(&self, name: &str) -> Result<&Column, AssetError> {
        self.column(name).ok_or_else(|| AssetError::Absent { what: "column", name: name.to_owned() })
    }

    /// The declared primary key, in its order; empty if there is none.
    pub(super) fn primary_key(&self) -> Vec<String> {
        let mut keys: Vec<_> =
            self.columns.iter().filter_map(|column| Some((column.key_position?, column.name.clone()))).collect();
        keys.sort();
        keys.into_iter().map(|(_, name)| name).collect()
    }

    /// The columns that the asset tells rows by.
    pub(super) fn identity_columns(&self, spec: &AssetSpec) -> Result<Vec<String>, AssetError> {
        for column in spec.columns() {
            self.require(column)?;
        }
        match spec.identity {
            IdentityKind::None => Ok(Vec::new()),
            IdentityKind::PrimaryKey if spec.identity_columns.is_empty() => Ok(self.primary_key()),
            IdentityKind::PrimaryKey | IdentityKind::Columns => {
                spec.identity_columns.iter().map(|name| self.require(name).map(|column| column.name.clone())).collect()
            }
        }
    }
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>, AssetError> {
    let mut statement = connection
        .prepare("SELECT name, type, hidden, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1")
        .map_err(classify)?;
    let rows = statement.query_map([table], |row| {
        let (hidden, key): (i64, u32) = (row.get(2)?, row.get(3)?);
        Ok(Column {
            name: row.get(0)?,
            declared: row.get(1)?,
            generated: hidden >= 2,
            key_position: (key > 0).then_some(key),
        })
    });
    rows.map_err(classify)?.collect::<Result<_, _>>().map_err(classify)
}

fn key_columns(columns: &[Column], without_rowid: bool) -> Result<Vec<String>, AssetError> {
    if without_rowid {
        let mut keys: Vec<_> =
            columns.iter().filter_map(|column| Some((column.key_position?, column.name.clone()))).collect();
        keys.sort();
        return Ok(keys.into_iter().map(|(_, name)| name).collect());
    }
    // A column may hide the rowid under one of its three names.
    let taken = |alias: &&str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias));
    let free = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !taken(alias));
    let unfit = || AssetError::Unfit {
        problem: "its columns hide the rowid under all three of its names".to_owned(),
        hint: "rename one of the columns rowid, _rowid_ and oid".to_owned(),
    };
    Ok(vec![free.ok_or_else(unfit)?.to_owned()])
}
