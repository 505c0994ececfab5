//! The rows of a database as they are at one moment, for whoever reads them for long.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::ToSql;

use super::catalog;
use super::errors::classify;
use super::rows_of;
use super::session::{Connector, Session, answered};
use super::sql::{Bound, DIALECT};
use crate::driver::{Condition, Select, Store, Transaction, Value};
use crate::error::StoreError;
use crate::row::Table;
use crate::statement::Statement;

/// A read transaction on a connection of its own. Dropped, it ends with its connection.
pub(super) struct Snapshot {
    session: Arc<Mutex<Session>>,
}

impl Snapshot {
    /// From this moment on.
    pub(super) async fn begin(connector: &Connector) -> Result<Self, StoreError> {
        let session = connector.connect().await?;
        // A transaction of this level sees the moment of its first query.
        let sql =
            "/* snapshot */ BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) FROM keyrail.map_head";
        answered(async { session.client().batch_execute(sql).await.map_err(classify) }).await?;
        Ok(Self { session: Arc::new(Mutex::new(session)) })
    }

    async fn ask(&self, statement: &Statement<'_>) -> Result<Vec<SqlRow>, StoreError> {
        let bound: Vec<Bound<'_>> = statement.values.iter().map(|value| Bound(value)).collect();
        let values: Vec<&(dyn ToSql + Sync)> = bound.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let mut session = self.session.lock().await;
        answered(async { session.query(&statement.sql, &values).await.map_err(classify) }).await
    }
}

#[async_trait]
impl Store for Snapshot {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        rows_of(&select, &self.ask(&DIALECT.select(&select)).await?)
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        super::count_of(&self.ask(&DIALECT.count(table, &conditions)).await?)
    }

    async fn apply(&self, _: Transaction) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let session = self.session.lock().await;
        answered(catalog::findings(&session)).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(Self { session: self.session.clone() }))
    }

    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
