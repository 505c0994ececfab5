//! Typed and sealed access to a store.

use std::sync::Arc;

use keyrail_core::system::{RootSecret, RootSlotRow};

use crate::change::{Recorded, Step};
use crate::driver::{Condition, SELECT_ROWS_MAX, Select, Store, Transaction, Value, Write};
use crate::error::StoreError;
use crate::row::{Row, TABLES, Table, Values};
use crate::seal::{RowSealer, row_id};

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

fn select_all(table: &'static Table, after: Option<Vec<Value>>) -> Select {
    Select { table, conditions: Vec::new(), order: table.key, after, limit: SELECT_ROWS_MAX }
}

/// What [`State::verify_all`] found wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The table; empty for the file as a whole.
    pub table: &'static str,
    /// The row's key.
    pub id: String,
    /// What is wrong.
    pub kind: FindingKind,
}

/// What can be wrong with a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FindingKind {
    /// Its seal does not fit.
    Altered,
    /// The seal fits and a value makes no sense: a bug, or a newer program wrote it.
    Malformed {
        /// The column.
        column: &'static str,
    },
    /// The database finds its own structures broken.
    Database {
        /// What it says.
        says: String,
    },
}

/// The rows of an opened store. Cheap to clone.
#[derive(Clone)]
pub struct State {
    store: Arc<dyn Store>,
    sealer: Arc<RowSealer>,
}

impl State {
    /// The rows of `store`, sealed by `sealer`.
    pub fn new(store: Arc<dyn Store>, sealer: RowSealer) -> Self {
        Self { store, sealer: Arc::new(sealer) }
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

    /// One page of rows.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`] for the first altered row, [`StoreError`] when the database fails.
    pub async fn page<R: Row>(
        &self,
        conditions: Vec<Condition>,
        order: &'static [&'static str],
        after: Option<Vec<Value>>,
        limit: usize,
    ) -> Result<Vec<R>, StoreError> {
        let select = Select { table: R::TABLE, conditions, order, after, limit: limit.min(SELECT_ROWS_MAX) };
        let rows = self.store.select(select).await?;
        rows.into_iter().map(|values| self.parse(values)).collect()
    }

    /// All rows that fulfil the conditions, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] beyond [`LIST_ROWS_MAX`], and as [`State::page`].
    pub async fn all<R: Row>(&self, conditions: Vec<Condition>) -> Result<Vec<R>, StoreError> {
        let mut rows: Vec<R> = Vec::new();
        loop {
            let after = rows.last().map(Row::key);
            let page = self.page(conditions.clone(), R::TABLE.key, after, SELECT_ROWS_MAX).await?;
            let last = page.len() < SELECT_ROWS_MAX;
            rows.extend(page);
            if last {
                return Ok(rows);
            }
            if rows.len() >= LIST_ROWS_MAX {
                return Err(StoreError::TooMany { table: R::TABLE.name, max: LIST_ROWS_MAX });
            }
        }
    }

    /// The one row that fulfils the conditions.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn one<R: Row>(&self, conditions: Vec<Condition>) -> Result<Option<R>, StoreError> {
        Ok(self.page(conditions, R::TABLE.key, None, 1).await?.pop())
    }

    /// Counts rows, without looking at their seals.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn count<R: Row>(&self, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.store.count(R::TABLE, conditions).await
    }

    fn parse<R: Row>(&self, values: Vec<Value>) -> Result<R, StoreError> {
        let values = self.sealer.check(R::TABLE, values)?;
        R::from_values(&mut Values::new(R::TABLE, values))
    }

    /// Seals the rows of a change and stores it, durably, as a whole.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Conflict`]; [`StoreError::Indeterminate`] when the fate is unknown.
    pub async fn commit(&self, change: Recorded) -> Result<(), StoreError> {
        let writes = change.steps.into_iter().map(|step| self.sealed(step)).collect::<Result<_, _>>()?;
        self.store.apply(Transaction { writes }).await
    }

    fn sealed(&self, step: Step) -> Result<Write, StoreError> {
        let seal = |table, mut values: Vec<Value>| -> Result<Vec<Value>, StoreError> {
            let seal = self.sealer.seal(table, &values)?;
            values.push(Value::Blob(seal.to_vec()));
            Ok(values)
        };
        Ok(match step {
            Step::Insert { table, values } => Write::Insert { table, values: seal(table, values)? },
            Step::Update { table, values, former_generation } => {
                Write::Update { table, values: seal(table, values)?, former_generation }
            }
            Step::Delete { table, key } => Write::Delete { table, key },
        })
    }

    /// Reads every row of every table, and names each that was altered.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn verify_all(&self) -> Result<Vec<Finding>, StoreError> {
        let says = self.store.integrity().await?;
        let broken =
            says.into_iter().map(|says| Finding { table: "", id: String::new(), kind: FindingKind::Database { says } });
        let mut findings: Vec<Finding> = broken.collect();
        for table in TABLES {
            self.verify_table(table, &mut findings).await?;
        }
        Ok(findings)
    }

    async fn verify_table(&self, table: &'static Table, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let rows = self.store.select(select_all(table, after)).await?;
            let last = rows.len() < SELECT_ROWS_MAX;
            after = rows.last().map(|values| key_of(table, values));
            for values in rows {
                let id = row_id(table, &values);
                let found = self.sealer.check(table, values).and_then(|values| crate::rows::check(table, values));
                match found {
                    Ok(()) => {}
                    Err(StoreError::Malformed { column, .. }) => {
                        findings.push(Finding { table: table.name, id, kind: FindingKind::Malformed { column } })
                    }
                    Err(_) => findings.push(Finding { table: table.name, id, kind: FindingKind::Altered }),
                }
            }
            if last {
                return Ok(());
            }
        }
    }
}

fn key_of(table: &Table, values: &[Value]) -> Vec<Value> {
    let keys = table.columns.iter().zip(values).filter(|(column, _)| table.key.contains(column));
    keys.map(|(_, value)| value.clone()).collect()
}
