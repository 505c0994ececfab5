//! What a database must be able to do so that assets can live in it. Adapters know SQL and values; what is
//! protected, and how, is decided once for all of them in [`crate::cells`].

use keyrail_core::asset::{Asset, AssetColumn, IdentityKind};
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_engine::EngineError;

use crate::cells::Goal;
use crate::error::AssetError;
use crate::json::JsonPath;
use crate::value::{RowIdentity, Sql};

/// An asset, as an adapter needs to know it.
#[derive(Clone, Debug)]
pub struct AssetSpec {
    /// The asset's id.
    pub asset: AssetId,
    /// Where the database is.
    pub url: String,
    /// The schema with the table, where the database has schemas and it is known.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// What a row is told by.
    pub identity: IdentityKind,
    /// The columns of the identity; for the primary key they are found in the table.
    pub identity_columns: Vec<String>,
    /// What is protected.
    pub cells: Vec<CellSpec>,
}

/// A protected column, or a path within a JSON column.
#[derive(Clone, Debug)]
pub struct CellSpec {
    /// Its id, bound into each value.
    pub id: ColumnId,
    /// The column.
    pub column: String,
    /// The path in the column's JSON.
    pub json_path: Option<JsonPath>,
}

impl AssetSpec {
    /// The spec of a registered asset.
    ///
    /// # Errors
    /// [`AssetError::JsonPath`] for a path that is not one.
    pub fn of(asset: &Asset, columns: &[AssetColumn]) -> Result<Self, AssetError> {
        let cell = |row: &AssetColumn| {
            let json_path = row.json_path.as_deref().map(str::parse).transpose()?;
            Ok(CellSpec { id: row.id, column: row.column.clone(), json_path })
        };
        Ok(Self {
            asset: asset.id,
            url: asset.url.clone(),
            schema: asset.schema.clone(),
            table: asset.table.clone(),
            identity: asset.identity,
            identity_columns: asset.identity_columns.clone(),
            cells: columns.iter().map(cell).collect::<Result<_, AssetError>>()?,
        })
    }

    /// The columns that hold cells, each once, in the order of the cells.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !columns.contains(&cell.column.as_str()) {
                columns.push(&cell.column);
            }
        }
        columns
    }
}

/// A row as it was read.
#[derive(Clone, Debug)]
pub struct Row {
    /// The values that order and find the row.
    pub key: Vec<Sql>,
    /// The values of the identity columns, unless the key says the same: an update finds the row only while
    /// they are still there, so that no value gets into a row that took the place of another.
    pub guard: Vec<Sql>,
    /// Its identity; `None` if the asset declares none.
    pub identity: Option<RowIdentity>,
    /// The values of [`AssetSpec::columns`], in their order.
    pub values: Vec<Sql>,
}

/// Rows in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether there may be more.
    pub more: bool,
}

/// New values for one row, each written only if the old one is still there, byte for byte.
#[derive(Clone, Debug)]
pub struct RowUpdate {
    /// The values that find the row.
    pub key: Vec<Sql>,
    /// [`Row::guard`], as it was read.
    pub guard: Vec<Sql>,
    /// The row's identity, for messages.
    pub name: String,
    /// The changes.
    pub changes: Vec<ColumnUpdate>,
}

/// A new value of one column.
#[derive(Clone, Debug)]
pub struct ColumnUpdate {
    /// The column's place in [`AssetSpec::columns`].
    pub column: usize,
    /// What must still be there.
    pub old: Sql,
    /// What is put there.
    pub new: Sql,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Protection goes on, and something is different afterwards.
    Warning,
    /// The table cannot be protected as it is.
    Refusal,
}

/// Something about the table that does not go with protected values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Misfit {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in one sentence.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

/// What an adapter found out about a table.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The schema in which the table was found, where the database has schemas.
    pub schema: Option<String>,
    /// The columns of the row identity, as declared or found.
    pub identity_columns: Vec<String>,
    /// Rows in the table.
    pub rows: u64,
    /// What does not fit.
    pub misfits: Vec<Misfit>,
}

/// What protecting left behind, as far as it is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scrubbed {
    /// What could not be scrubbed this time, and why; then what no database can scrub.
    pub left: Vec<String>,
}

/// Runs right before the commit of a page, and is told which updates found their old values; an error undoes the page.
pub type BeforeCommit<'a> = dyn FnMut(&[bool]) -> Result<(), EngineError> + 'a;

/// A database with one asset in it. Calls block.
pub trait AssetAdapter: Send {
    /// Looks at the table: what fits, and what does not.
    ///
    /// # Errors
    /// [`AssetError::Absent`], and what the database fails with.
    fn inspect(&mut self) -> Result<Fit, AssetError>;

    /// Rows after a key, in the order of keys.
    ///
    /// # Errors
    /// [`AssetError::Changed`] when the table is another one now, and what the database fails with.
    fn page(&mut self, after: Option<&[Sql]>, limit: usize) -> Result<Page, AssetError>;

    /// Tells that from here on whatever is written towards the goal is taken back before it is committed. Plaintext that
    /// was protected reaches no file of the database even so: it is kept in memory or, where the database writes at once,
    /// not written at all, but the old values in its place.
    ///
    /// # Errors
    /// What the database fails with.
    fn hold_back(&mut self, goal: Goal<'_>) -> Result<(), AssetError>;

    /// Writes updates in one transaction; tells for each whether its old values were still there.
    ///
    /// # Errors
    /// [`AssetError::Before`], [`AssetError::Busy`], [`AssetError::Full`]: then nothing was written.
    /// [`AssetError::Moved`]: the rows have to be read again; nothing was written.
    fn write(&mut self, updates: &[RowUpdate], before_commit: &mut BeforeCommit<'_>) -> Result<Vec<bool>, AssetError>;

    /// Removes what overwritten values left in the database's files, as far as it can be done from here.
    ///
    /// # Errors
    /// What the database fails with.
    fn scrub(&mut self) -> Result<Scrubbed, AssetError>;
}

/// Opens the database of an asset.
///
/// # Errors
/// [`AssetError::Url`], [`AssetError::Open`], [`AssetError::Absent`].
pub fn open(spec: &AssetSpec) -> Result<Box<dyn AssetAdapter>, AssetError> {
    match spec.url.split_once(':') {
        Some(("sqlite", path)) if !path.is_empty() => {
            Ok(Box::new(crate::sqlite::SqliteAsset::open(path.as_ref(), spec)?))
        }
        Some(("postgres" | "postgresql", _)) => Ok(Box::new(crate::postgres::PgAsset::open(spec)?)),
        // Of what is no URL of ours nothing is repeated but its beginning: a password may follow.
        other => Err(AssetError::Url { url: other.map_or(String::new(), |(scheme, _)| format!("{scheme}:")) }),
    }
}
