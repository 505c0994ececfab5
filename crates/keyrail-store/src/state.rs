//! Typed and sealed access to a store.

use std::sync::Arc;

use keyrail_core::system::{RootSecret, RootSlotRow};

use crate::driver::{Condition, SELECT_ROWS_MAX, Select, Store, Value};
use crate::error::StoreError;
use crate::map::Map;
use crate::map::place::key_of;
use crate::row::{Row, Table, Values};
use crate::seal::RowSealer;

/// The most rows that a list is read into at once.
pub const LIST_ROWS_MAX: usize = 100_000;

/// Rows that are read before anything can be checked: they hold what the check needs.
pub struct Bootstrap {
    /// The ways to open the store.
    pub slots: Vec<RootSlotRow>,
    /// The keys directly under the root key.
    pub secrets: Vec<RootSecret>,
}

/// Reads what is needed to open a store, unchecked. The seals of these rows are checked by
/// [`State::check_bootstrap`] as soon as there is a key to check them with; until then they are only
/// used to unwrap, which fails on anything altered.
///
/// # Errors
/// [`StoreError`] when the database fails or a row is malformed.
pub async fn bootstrap(store: &dyn Store) -> Result<Bootstrap, StoreError> {
    Ok(Bootstrap { slots: unchecked(store).await?, secrets: unchecked(store).await? })
}

async fn unchecked<R: Row>(store: &dyn Store) -> Result<Vec<R>, StoreError> {
    let rows = store.select(select_all(R::TABLE, None)).await?;
    rows.into_iter().map(|values| R::from_values(&mut Values::new(R::TABLE, values))).collect()
}

pub(crate) fn select_all(table: &'static Table, after: Option<Vec<Value>>) -> Select {
    Select { table, conditions: Vec::new(), order: table.key, after, limit: SELECT_ROWS_MAX }
}

/// The rows of an opened store. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sealer: Arc<RowSealer>,
    pub(crate) map: Arc<Map>,
    /// Whether what is read is looked up in the map.
    pub(crate) proves: bool,
}

impl State {
    /// The rows of `store`, sealed by `sealer`.
    pub fn new(store: Arc<dyn Store>, sealer: RowSealer) -> Self {
        Self::with(store, Arc::new(sealer))
    }

    /// The rows of another store of the same key.
    pub(crate) fn with(store: Arc<dyn Store>, sealer: Arc<RowSealer>) -> Self {
        let map = Arc::new(Map::new(store.clone(), sealer.clone()));
        Self { store, sealer, map, proves: true }
    }

    /// Another process may have changed the rows: what comes next looks at the stored head of the map first.
    pub fn refresh(&self) {
        self.map.unsure();
    }

    /// The same rows without the map: for what is read before it is known whether the map is the newest.
    #[must_use]
    pub fn by_seals_alone(&self) -> Self {
        Self { proves: false, ..self.clone() }
    }

    /// The database below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Checks the seals of the rows that were read by [`bootstrap`].
    ///
    /// # Errors
    /// [`StoreError::RowSeal`].
    pub async fn check_bootstrap(&self) -> Result<(), StoreError> {
        self.all::<RootSlotRow>(Vec::new()).await?;
        self.all::<RootSecret>(Vec::new()).await?;
        Ok(())
    }

    /// One page of rows. Where rows are changed while it is read, it may be shorter than the limit.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`] for the first altered row, [`StoreError::RowStale`], [`StoreError::RowMissing`],
    /// [`StoreError::RowUnexpected`] for the first that is not as it was last written; [`StoreError`] when the database
    /// fails.
    pub async fn page<R: Row>(
        &self,
        conditions: Vec<Condition>,
        order: &'static [&'static str],
        after: Option<Vec<Value>>,
        limit: usize,
    ) -> Result<Vec<R>, StoreError> {
        let limit = limit.min(SELECT_ROWS_MAX);
        let select = Select { table: R::TABLE, conditions: conditions.clone(), order, after, limit };
        let rows = self.store.select(select).await?;
        let rows = self.proven(R::TABLE, &conditions, self.whole(R::TABLE, rows)?).await?;
        rows.into_iter().map(|values| self.parse(values)).collect()
    }

    /// All rows that fulfil the conditions, in the order of their keys. Where these are the first columns of the key, or
    /// name what the rows belong to, none can be missing.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] beyond [`LIST_ROWS_MAX`], and as [`State::page`].
    pub async fn all<R: Row>(&self, conditions: Vec<Condition>) -> Result<Vec<R>, StoreError> {
        let (table, mut rows) = (R::TABLE, Vec::new());
        let mut after = None;
        loop {
            let select =
                Select { table, conditions: conditions.clone(), order: table.key, after, limit: SELECT_ROWS_MAX };
            let page = self.store.select(select).await?;
            let last = page.len() < SELECT_ROWS_MAX;
            after = page.last().map(|values| key_of(table, values));
            rows.extend(self.whole(table, page)?);
            if last {
                break;
            }
            if rows.len() >= LIST_ROWS_MAX {
                return Err(StoreError::TooMany { table: table.name, max: LIST_ROWS_MAX });
            }
        }
        let mut rows = self.proven(table, &conditions, rows).await?;
        let proven = rows.len();
        self.complete(table, &conditions, &mut rows, LIST_ROWS_MAX).await?;
        let mut rows: Vec<R> = rows.into_iter().map(|values| self.parse(values)).collect::<Result<_, _>>()?;
        if rows.len() > proven {
            // What came in meanwhile stands at the end.
            rows.sort_by_cached_key(|row| sortable(&row.key()));
        }
        Ok(rows)
    }

    /// The one row that fulfils the conditions. Where these are the whole key, it cannot be missing.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn one<R: Row>(&self, conditions: Vec<Condition>) -> Result<Option<R>, StoreError> {
        let found = self.page(conditions.clone(), R::TABLE.key, None, 1).await?.pop();
        if found.is_some() {
            return Ok(found);
        }
        let mut besides = Vec::new();
        self.complete(R::TABLE, &conditions, &mut besides, 1).await?;
        besides.pop().map(|values| self.parse(values)).transpose()
    }

    /// Counts rows, without looking at their seals.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn count<R: Row>(&self, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.store.count(R::TABLE, conditions).await
    }

    /// Checks the seals of rows.
    fn whole(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<Vec<Vec<Value>>, StoreError> {
        rows.iter().try_for_each(|row| self.sealer.require(table, row))?;
        Ok(rows)
    }

    fn parse<R: Row>(&self, values: Vec<Value>) -> Result<R, StoreError> {
        R::from_values(&mut Values::new(R::TABLE, values))
    }
}

/// The values of a key, in the order of the database.
fn sortable(key: &[Value]) -> Vec<(i64, Vec<u8>)> {
    let sortable = key.iter().map(|value| match value {
        Value::Null => (i64::MIN, Vec::new()),
        Value::Integer(number) => (*number, Vec::new()),
        Value::Text(text) => (0, text.clone().into_bytes()),
        Value::Blob(bytes) => (0, bytes.clone()),
    });
    sortable.collect()
}
