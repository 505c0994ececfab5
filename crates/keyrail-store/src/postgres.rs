//! The store on PostgreSQL: a pool of connections, several nodes, and commits whose fate is known.

mod apply;
mod catalog;
mod errors;
mod lease;
mod log;
mod migrate;
mod passfile;
mod pool;
mod session;
mod snapshot;
mod sql;
mod tls;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use keyrail_audit::{Enclosed, LogError};
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::ToSql;

use crate::driver::{Condition, OpenMode, Select, Store, Transaction, Value};
use crate::error::StoreError;
use crate::row::Table;
use crate::statement::Statement;
use apply::WAITS;
use errors::{classify, told};
pub use lease::{PgLeases, RenewError, Renewed};
pub use log::PgLog;
use log::{FENCE, FIND, batch_of, head_of};
pub use migrate::POSTGRES_SCHEMA_VERSION;
use migrate::{MIGRATIONS, identify, migrate, require_newest};
use pool::Pool;
use session::{Connector, answered};
use snapshot::Snapshot;
use sql::{Bound, DIALECT, Found};
pub use url::{PostgresUrl, PostgresUrlError};

/// The limits of a store on PostgreSQL.
pub mod limits {
    pub use super::apply::{POSTGRES_RETRIES_MAX, POSTGRES_RETRY_MILLIS};
    pub use super::lease::LEASE_SESSION_IDLE_MILLIS;
    pub use super::log::{LOG_BATCHES_READ_MAX, LOG_BYTES_READ_MAX};
    pub use super::passfile::PASSFILE_LEN_MAX;
    pub use super::pool::{POSTGRES_ACQUIRE_MILLIS_MAX, POSTGRES_CONNECTIONS_MAX};
    pub use super::session::{
        POSTGRES_ANSWER_MILLIS_MAX, POSTGRES_CONNECT_MILLIS_MAX, POSTGRES_IDLE_TRANSACTION_MILLIS_MAX,
        POSTGRES_KEEPALIVE_SECONDS, POSTGRES_LOCK_MILLIS_MAX, POSTGRES_STATEMENT_MILLIS_MAX, POSTGRES_STATEMENTS_MAX,
        POSTGRES_VERSION_MIN,
    };
    pub use super::url::{POSTGRES_HOSTS_MAX, POSTGRES_URL_LEN_MAX};
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// Until it is on the disk of the server and of a standby.
    Standby,
    /// Until it is on the disk of the server.
    LocalOnly,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Where it is.
    pub url: PostgresUrl,
    /// How it is opened.
    pub mode: OpenMode,
    /// What a change demands: with [`Durability::Standby`] one is refused where no standby is waited for.
    pub demand: Durability,
}

/// A store in the schema `keyrail` of a PostgreSQL database.
///
/// Any number of processes write and read: each write names the generation that it is for, and each change of state the
/// epoch. Every connection commits with `synchronous_commit = on`.
pub struct PgStore {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<Pool>,
    writes: bool,
    /// Whether a change is refused where no standby is waited for.
    standby_demanded: AtomicBool,
}

impl PgStore {
    /// Opens a store.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], [`StoreError::Denied`], [`StoreError::OldServer`], [`StoreError::UnfitServer`],
    /// [`StoreError::NotAStore`], [`StoreError::UnknownSchema`], [`StoreError::OldSchema`].
    pub async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let writes = options.mode != OpenMode::Read;
        let connector = Arc::new(Connector::new(options.url, writes)?);
        let place = connector.url().to_string();
        let session = connector.connect().await?;
        match options.mode {
            OpenMode::Read => answered(require_newest(&session, &place)).await?,
            OpenMode::Write if answered(identify(&session, &place)).await? == 0 => {
                return Err(StoreError::NotAStore { path: place.into() });
            }
            OpenMode::Write | OpenMode::Create => migrate(&session, &place, MIGRATIONS).await?,
        }
        let standby_demanded = AtomicBool::new(options.demand == Durability::Standby);
        Ok(Self { inner: Arc::new(Inner { pool: Pool::new(connector), writes, standby_demanded }) })
    }

    /// A connection to the log of this store, for a thread of its own.
    pub fn log(&self) -> PgLog {
        PgLog::of(Arc::clone(self.inner.pool.connector()))
    }

    /// The leases of the nodes that work with this store.
    pub fn leases(&self) -> PgLeases {
        PgLeases::new(Arc::clone(&self.inner))
    }

    /// What a commit waits for at present, as the server is set up.
    ///
    /// # Errors
    /// [`StoreError`] when the server does not answer.
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        let sql = "/* durability */ SELECT current_setting('synchronous_standby_names') <> ''";
        let rows = self.inner.query(sql, &[]).await?;
        let row = rows.first().ok_or_else(|| StoreError::Database(told("no answer")))?;
        Ok(if row.try_get(0).map_err(classify)? { Durability::Standby } else { Durability::LocalOnly })
    }
}

impl Inner {
    /// Reads; once more on a new connection if the one at hand turns out to be broken.
    async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<SqlRow>, StoreError> {
        match self.query_once(sql, values).await {
            Err(StoreError::Unreachable(_)) => {
                self.pool.distrust();
                self.query_once(sql, values).await
            }
            other => other,
        }
    }

    async fn query_once(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<SqlRow>, StoreError> {
        let mut pooled = self.pool.get().await?;
        let rows = answered(async { pooled.session.query(sql, values).await.map_err(classify) }).await;
        if !matches!(rows, Err(StoreError::Unreachable(_))) {
            pooled.keep();
        }
        rows
    }

    /// Moves the log's fence on, which waits for every transaction that holds the head, and looks then.
    async fn settle(&self, enclosed: &Enclosed) -> Result<bool, StoreError> {
        let failed = |error| StoreError::Log(Box::new(error));
        let unread = |source| failed(LogError::Database { action: "read", source });
        let head = head_of(&self.fence().await?).map_err(unread)?;
        let (node, number) = enclosed.writer();
        let number = i64::try_from(number).unwrap_or_default();
        let found = self.query(FIND, &[&node.as_bytes().as_slice(), &number]).await?;
        let found = found.first().map(batch_of).transpose().map_err(unread)?;
        enclosed.settle(head, found.as_ref()).map_err(failed)
    }

    /// A commit of its own on the row that every change holds. What it waits for holds for all that was committed before,
    /// too: it counts only if a standby has it, where one is demanded.
    async fn fence(&self) -> Result<Vec<SqlRow>, StoreError> {
        let mut pooled = self.pool.get().await?;
        let work = async {
            let (fence, waits) = (pooled.session.prepare(FENCE).await, pooled.session.prepare(WAITS).await);
            let (fence, waits) = (fence.map_err(classify)?, waits.map_err(classify)?);
            pooled.session.calm();
            let client = pooled.session.client();
            let (head, waits) = tokio::join!(client.query(&fence, &[]), client.query_one(&waits, &[]));
            Ok((head.map_err(classify)?, waits.map_err(classify)?))
        };
        let (head, waits) = answered(work).await?;
        if pooled.session.warning().is_some() {
            return Err(StoreError::Indeterminate { source: told("the wait for the standby was broken off") });
        }
        self.require_standby(&waits)?;
        pooled.keep();
        Ok(head)
    }

    async fn ask(&self, statement: &Statement<'_>) -> Result<Vec<SqlRow>, StoreError> {
        let bound: Vec<Bound<'_>> = statement.values.iter().map(|value| Bound(value)).collect();
        let values: Vec<&(dyn ToSql + Sync)> = bound.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.query(&statement.sql, &values).await
    }
}

/// The values of the rows that a selection found.
fn rows_of(select: &Select, rows: &[SqlRow]) -> Result<Vec<Vec<Value>>, StoreError> {
    let width = select.table.columns.len() + 1;
    let values = |row: &SqlRow| (0..width).map(|index| row.try_get::<_, Found>(index).map(|found| found.0)).collect();
    rows.iter().map(values).collect::<Result<_, _>>().map_err(classify)
}

/// The number that a count found.
fn count_of(rows: &[SqlRow]) -> Result<u64, StoreError> {
    let count = rows.first().map(|row| row.try_get::<_, i64>(0)).transpose().map_err(classify)?;
    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
}

#[async_trait]
impl Store for PgStore {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        rows_of(&select, &self.inner.ask(&DIALECT.select(&select)).await?)
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        count_of(&self.inner.ask(&DIALECT.count(table, &conditions)).await?)
    }

    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError> {
        // A task of its own: who waits may give up, the commit and the look at it do not.
        let inner = Arc::clone(&self.inner);
        let joined = tokio::spawn(async move { inner.apply(&transaction).await }).await;
        joined.map_err(|error| StoreError::Indeterminate { source: error.into() })?
    }

    async fn settle(&self, enclosed: Arc<Enclosed>) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let joined = tokio::spawn(async move { inner.settle(&enclosed).await }).await;
        joined.map_err(|error| StoreError::Database(error.into()))?
    }

    async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let pooled = self.inner.pool.get().await?;
        let findings = answered(catalog::findings(&pooled.session)).await?;
        pooled.keep();
        Ok(findings)
    }

    async fn snapshot(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(Snapshot::begin(self.inner.pool.connector()).await?))
    }

    fn accept_async_loss(&self) {
        self.inner.standby_demanded.store(false, Ordering::Relaxed);
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.inner.query("/* health */ SELECT 1", &[]).await.map(drop)
    }
}
