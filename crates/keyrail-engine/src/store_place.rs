//! Where the rows of a store are: in a file of the data directory, or in the database that a file there names.

use std::sync::Arc;

use keyrail_core::system::SettingName;
use keyrail_store::{
    Durability, OpenMode, PgStore, PostgresOptions, PostgresUrl, SqliteStore, Store, StoreError, bootstrap,
};

use crate::bootstrap::{file_failed, write_file};
use crate::error::EngineError;
use crate::paths::Paths;

/// Where a new store keeps its rows. The log stays in the data directory.
#[derive(Clone, Debug)]
pub enum StorePlace {
    /// A SQLite file in the data directory.
    DataDir,
    /// A PostgreSQL database.
    Postgres {
        /// Where it is; without a password.
        url: PostgresUrl,
        /// Whether changes are done though no standby has them.
        loss: AsyncLoss,
    },
}

/// Whether it is accepted that a lost server takes the latest key versions with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AsyncLoss {
    /// A change is refused unless its commit waits for a standby.
    Refused,
    /// A change is done when the server has it.
    Accepted,
}

impl StorePlace {
    /// A PostgreSQL database.
    ///
    /// # Errors
    /// [`EngineError::Store`]: the URL is malformed, or holds a password.
    pub fn postgres(url: &str, loss: AsyncLoss) -> Result<Self, EngineError> {
        Ok(Self::Postgres { url: url.parse().map_err(StoreError::from)?, loss })
    }

    /// Opens the empty place for a new store.
    ///
    /// # Errors
    /// [`EngineError::AlreadyInitialized`]; [`EngineError::Store`], also when a standby is demanded and none is there.
    pub(crate) async fn make(&self, paths: &Paths) -> Result<Arc<dyn Store>, EngineError> {
        let (in_file, in_database) = (file_has_store(paths), paths.store_url().exists());
        let store: Arc<dyn Store> = match self {
            Self::DataDir if in_database => return Err(EngineError::AlreadyInitialized),
            Self::DataDir => Arc::new(SqliteStore::open(&paths.store(), OpenMode::Create)?),
            Self::Postgres { .. } if in_file => return Err(EngineError::AlreadyInitialized),
            Self::Postgres { url, loss } => {
                let demand = match loss {
                    AsyncLoss::Refused => Durability::Standby,
                    AsyncLoss::Accepted => Durability::LocalOnly,
                };
                let store = PgStore::open(PostgresOptions { url: url.clone(), mode: OpenMode::Create, demand }).await?;
                if demand == Durability::Standby && store.durability().await? == Durability::LocalOnly {
                    return Err(StoreError::NoStandby.into());
                }
                Arc::new(store)
            }
        };
        if !bootstrap(store.as_ref()).await?.slots.is_empty() {
            return Err(EngineError::AlreadyInitialized);
        }
        Ok(store)
    }

    /// The setting that says so, sealed, where a lost server is accepted.
    pub(crate) fn setting(&self) -> Option<(SettingName, String)> {
        match self {
            Self::Postgres { loss: AsyncLoss::Accepted, .. } => Some((SettingName::AcceptAsyncLoss, "on".to_owned())),
            _ => None,
        }
    }

    /// Writes down where the store is, before anything is in it.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub(crate) fn remember(&self, paths: &Paths) -> Result<(), EngineError> {
        match self {
            Self::DataDir => Ok(()),
            Self::Postgres { url, .. } => write_file(&paths.store_url(), format!("{url}\n").as_bytes()),
        }
    }
}

/// Opens the store of a data directory.
///
/// # Errors
/// [`EngineError::Store`], [`EngineError::File`].
pub(crate) async fn open(paths: &Paths, mode: OpenMode) -> Result<Arc<dyn Store>, EngineError> {
    let path = paths.store_url();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Arc::new(SqliteStore::open(&paths.store(), mode)?));
        }
        Err(error) => return Err(file_failed("read", &path, error)),
    };
    let url: PostgresUrl = text.trim_end().parse().map_err(StoreError::from)?;
    // What the store's own setting waives is known once its rows can be checked.
    let options = PostgresOptions { url, mode, demand: Durability::Standby };
    Ok(Arc::new(PgStore::open(options).await?))
}

/// Whether there is more than an empty file: to open that would leave a write-ahead log beside it, and the store that is
/// put back in its place would take that for its own.
pub(crate) fn has_store(paths: &Paths) -> bool {
    file_has_store(paths) || paths.store_url().exists()
}

fn file_has_store(paths: &Paths) -> bool {
    std::fs::metadata(paths.store()).is_ok_and(|found| found.len() > 0)
}
