//! What a database must be able to do: the seam that further databases implement.

use std::sync::Arc;

use async_trait::async_trait;
use keyrail_audit::Enclosed;

use crate::error::StoreError;
use crate::row::Table;

/// The most rows of one [`Select`].
pub const SELECT_ROWS_MAX: usize = 1_000;

/// How a store is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenMode {
    /// Made if it is not there.
    Create,
    /// It must be there; its schema is brought up.
    Write,
    /// It must be there, with the newest schema; nothing is changed.
    Read,
}

/// A value of a column.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// A number, a time in milliseconds, a count.
    Integer(i64),
    /// A name, a word.
    Text(String),
    /// An id, a wrapped key, a seal.
    Blob(Vec<u8>),
}

/// What a row must fulfil.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The column has this value.
    Equal(&'static str, Value),
    /// The column is less than this value.
    Less(&'static str, Value),
}

/// Rows of one table, in the order of unique columns, a page at a time.
#[derive(Clone, Debug)]
pub struct Select {
    /// The table.
    pub table: &'static Table,
    /// What the rows fulfil, all of it.
    pub conditions: Vec<Condition>,
    /// The columns that order them; together with the columns of the conditions they are unique.
    pub order: &'static [&'static str],
    /// The values of `order` after which the page begins.
    pub after: Option<Vec<Value>>,
    /// How many rows at most, up to [`SELECT_ROWS_MAX`].
    pub limit: usize,
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new row: the values of all columns, the seal last.
    Insert {
        /// The table.
        table: &'static Table,
        /// The values.
        values: Vec<Value>,
    },
    /// New values for the row of the same key, if it is still of `former_generation`.
    Update {
        /// The table.
        table: &'static Table,
        /// The values.
        values: Vec<Value>,
        /// The generation that the row must have.
        former_generation: u64,
    },
    /// A row to delete; one that is gone already is no failure.
    Delete {
        /// The table.
        table: &'static Table,
        /// The values of its key columns.
        key: Vec<Value>,
    },
}

impl Write {
    /// The table.
    pub(crate) const fn table(&self) -> &'static Table {
        match self {
            Self::Insert { table, .. } | Self::Update { table, .. } | Self::Delete { table, .. } => table,
        }
    }

    /// Judges by the number of rows that it touched whether it was done.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: the row was not of the generation.
    pub(crate) fn require(&self, touched: u64) -> Result<(), StoreError> {
        match self {
            Self::Update { table, .. } if touched != 1 => Err(StoreError::Conflict { table: table.name }),
            _ => Ok(()),
        }
    }
}

/// Writes that happen together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// The writes, in their order.
    pub writes: Vec<Write>,
    /// Which room on the disk they may take.
    pub room: Room,
    /// The record that happens with them, where the log is in the same database.
    pub enclosed: Option<Arc<Enclosed>>,
}

impl Transaction {
    /// Writes without a record of their own.
    pub const fn of(writes: Vec<Write>) -> Self {
        Self { writes, room: Room::Usual, enclosed: None }
    }
}

/// Which room on the disk a transaction may take. A database on another machine looks after its own disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Room {
    /// What is beyond the reserve.
    #[default]
    Usual,
    /// The reserve as well: for what must get through on a full disk.
    Reserve,
}

/// A database. It moves values, and knows neither keys nor seals.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads a page of rows: for each the values of all columns, the seal last.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError>;

    /// Counts rows.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError>;

    /// Does all writes of a transaction, durably, or none.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Conflict`], [`StoreError::Constraint`], [`StoreError::Full`];
    /// [`StoreError::Fenced`] if the epoch is another one than an enclosed record was decided under;
    /// [`StoreError::NoLog`] for an enclosed record where there is no log; [`StoreError::Indeterminate`] when it cannot be
    /// known.
    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError>;

    /// Whether the change with this enclosed record is stored. If it is not, it never will be: what was sent for it and is
    /// still on its way is refused from then on.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails, has no log, or holds another record in its place: then nothing is known.
    async fn settle(&self, _enclosed: Arc<Enclosed>) -> Result<bool, StoreError> {
        Err(StoreError::NoLog)
    }

    /// Asks the database whether its own structures are whole; each sentence is a finding.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be asked.
    async fn integrity(&self) -> Result<Vec<String>, StoreError>;

    /// The same rows as they are at one moment, whatever is changed from then on. It takes no writes.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    async fn snapshot(&self) -> Result<Arc<dyn Store>, StoreError>;

    /// Lets changes be done though no standby has them. A database in a file has no standby, and nothing to do.
    fn accept_async_loss(&self) {}

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    async fn health(&self) -> Result<(), StoreError>;
}
