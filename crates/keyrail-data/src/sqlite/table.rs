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
    pub(super) key: Vec<KeyColumn>,
    /// The column that is another name of the rowid, if one is.
    pub(super) rowid_alias: Option<String>,
    /// Whether triggers run on the table.
    pub(super) triggers: bool,
}

/// A column of the key that orders the rows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    /// The collation that makes the key unique, where it is not the column's own.
    pub(super) collation: Option<String>,
}

impl KeyColumn {
    /// The column in SQL, compared as the key compares it.
    pub(super) fn sql(&self) -> String {
        match &self.collation {
            Some(collation) => format!("{} COLLATE {}", quoted(&self.name), quoted(collation)),
            None => quoted(&self.name),
        }
    }
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
        let key = if without_rowid { primary_key(connection, &name)? } else { rowid(&columns)? };
        let rowid_alias = if without_rowid { None } else { rowid_alias(connection, &name, &columns)? };
        let triggers =
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE)";
        let triggers = connection.query_row(triggers, [&name], |row| row.get(0)).map_err(classify)?;
        Ok(Self { name, kind, strict, without_rowid, columns, key, rowid_alias, triggers })
    }

    /// Whether the key tells as much as these columns of the row identity, so that no guard is needed.
    pub(super) fn key_is(&self, identity: &[String]) -> bool {
        matches!((identity, &self.rowid_alias), ([one], Some(alias)) if one.eq_ignore_ascii_case(alias))
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

pub(super) fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>, AssetError> {
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

/// The primary key of a table without rowid, in the order and by the collations of its index: only by these are
/// no two rows the same.
fn primary_key(connection: &Connection, table: &str) -> Result<Vec<KeyColumn>, AssetError> {
    let sql = "SELECT x.name, x.coll FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x \
               WHERE l.origin = 'pk' AND x.key = 1 ORDER BY x.seqno";
    let mut statement = connection.prepare(sql).map_err(classify)?;
    let rows = statement.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let rows: Vec<_> = rows.map_err(classify)?.collect::<Result<_, _>>().map_err(classify)?;
    let mut key = Vec::with_capacity(rows.len());
    for (name, collation) in rows {
        let (_, own, ..) = connection.column_metadata(Some("main"), table, name.as_str()).map_err(classify)?;
        let same = own.is_some_and(|own| own.to_string_lossy().eq_ignore_ascii_case(&collation));
        key.push(KeyColumn { name, collation: (!same).then_some(collation) });
    }
    Ok(key)
}

fn rowid(columns: &[Column]) -> Result<Vec<KeyColumn>, AssetError> {
    // A column may hide the rowid under one of its three names.
    let taken = |alias: &&str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias));
    let free = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !taken(alias));
    let unfit = || AssetError::Unfit {
        problem: "its columns hide the rowid under all three of its names".to_owned(),
        hint: "rename one of the columns rowid, _rowid_ and oid".to_owned(),
    };
    Ok(vec![KeyColumn { name: free.ok_or_else(unfit)?.to_owned(), collation: None }])
}

/// The column declared INTEGER PRIMARY KEY; one with an index of its own, as DESC makes, is no alias.
fn rowid_alias(connection: &Connection, table: &str, columns: &[Column]) -> Result<Option<String>, AssetError> {
    let mut keys = columns.iter().filter(|column| column.key_position.is_some());
    let (Some(only), None) = (keys.next(), keys.next()) else { return Ok(None) };
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')";
    let indexed: bool = connection.query_row(sql, [table], |row| row.get(0)).map_err(classify)?;
    Ok((!indexed && only.declared.eq_ignore_ascii_case("INTEGER")).then(|| only.name.clone()))
}
