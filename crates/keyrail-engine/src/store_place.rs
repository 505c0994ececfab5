//! Where the rows of a store are: in a file of the data directory, or in the database that a file there names.

use std::sync::Arc;

use keyrail_core::system::SettingName;
use keyrail_store::{
    Durability, OpenMode, PgLeases, PgLog, PgStore, PostgresOptions, PostgresUrl, SqliteStore, Store, StoreError,
    bootstrap,
};

use crate::bootstrap::{file_failed, write_file};
use crate::error::EngineError;
use crate::paths::Paths;

/// Where a new store keeps its rows and its log.
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

/// A store whose database is at hand.
pub(crate) struct Placed {
    pub(crate) store: Arc<dyn Store>,
    /// What else is in the same database; else the log is in files, and one process has the store for itself.
    pub(crate) shared: Option<Shared>,
}

/// What nodes over one database share besides the rows.
pub(crate) struct Shared {
    /// A connection to the log.
    pub(crate) log: PgLog,
    pub(crate) leases: PgLeases,
}

impl<S: Store + 'static> From<Arc<S>> for Placed {
    /// A store beside a log in files.
    fn from(store: Arc<S>) -> Self {
        Self { store, shared: None }
    }
}

impl From<PgStore> for Placed {
    fn from(store: PgStore) -> Self {
        let shared = Some(Shared { log: store.log(), leases: store.leases() });
        Self { store: Arc::new(store), shared }
    }
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
    pub(crate) async fn make(&self, paths: &Paths) -> Result<Placed, EngineError> {
        let (in_file, in_database) = (file_has_store(paths), paths.store_url().exists());
        let placed: Placed = match self {
            Self::DataDir if in_database => return Err(EngineError::AlreadyInitialized),
            Self::DataDir => Arc::new(SqliteStore::open(&paths.store(), OpenMode::Create)?).into(),
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
                store.into()
            }
        };
        if !bootstrap(placed.store.as_ref()).await?.slots.is_empty() {
            return Err(EngineError::AlreadyInitialized);
        }
        Ok(placed)
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
pub(crate) async fn open(paths: &Paths, mode: OpenMode) -> Result<Placed, EngineError> {
    let Some(url) = url_in(paths)? else {
        return Ok(Arc::new(SqliteStore::open(&paths.store(), mode)?).into());
    };
    // What the store's own setting waives is known once its rows can be checked.
    let options = PostgresOptions { url, mode, demand: Durability::Standby };
    Ok(PgStore::open(options).await?.into())
}

/// The database that the store is in; none if it is in the data directory.
fn url_in(paths: &Paths) -> Result<Option<PostgresUrl>, EngineError> {
    let path = paths.store_url();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().parse().map_err(StoreError::from)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_failed("read", &path, error)),
    }
}

/// The log of a data directory whose store is in a database, for reading without a root of trust; none if it is in files.
///
/// # Errors
/// [`EngineError::Store`], [`EngineError::File`].
pub fn log_in_database(paths: &Paths) -> Result<Option<PgLog>, EngineError> {
    Ok(url_in(paths)?.map(PgLog::reading).transpose()?)
}

/// Whether there is more than an empty file: to open that would leave a write-ahead log beside it, and the store that is
/// put back in its place would take that for its own.
pub(crate) fn has_store(paths: &Paths) -> bool {
    file_has_store(paths) || paths.store_url().exists()
}

fn file_has_store(paths: &Paths) -> bool {
    std::fs::metadata(paths.store()).is_ok_and(|found| found.len() > 0)
}
