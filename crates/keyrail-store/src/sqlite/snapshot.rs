//! The rows of a file as they are at one moment, for whoever reads them for long.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};

use crate::driver::{Condition, Select, Store, Transaction, Value};
use crate::error::StoreError;
use crate::row::Table;
use crate::sqlite::errors::classify;
use crate::sqlite::{connect, findings_of, sql};

/// A read transaction on a connection of its own. As long as it lives, the write-ahead log is not shortened.
pub(super) struct Snapshot {
    connection: Arc<Mutex<Connection>>,
}

impl Snapshot {
    /// From this moment on.
    pub(super) fn begin(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        // A transaction sees the moment of its first read.
        connection.execute_batch("/* snapshot */ BEGIN").map_err(classify)?;
        connection.query_row("/* moment */ SELECT count(*) FROM map_head", [], |_| Ok(())).map_err(classify)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let joined = tokio::task::spawn_blocking(move || work(&connection.lock()));
        joined.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Store for Snapshot {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        self.read(move |connection| sql::select(connection, &select)).await
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.read(move |connection| sql::count(connection, table, &conditions)).await
    }

    async fn apply(&self, _: Transaction) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.read(findings_of).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(Self { connection: self.connection.clone() }))
    }

    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
