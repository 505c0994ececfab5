//! What the unit tests of several modules share: a clock that stands still, and a store that is opened behind a fault.

use std::path::Path;
use std::sync::Arc;

use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_store::{OpenMode, SqliteStore, Store};

use crate::bootstrap::{self, Access};
use crate::paths::Paths;
use crate::unsealed::Unsealed;

pub(crate) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_512_600_000)
    }

    fn observe(&self) -> Observation {
        Observation { boot: BootId([1; 16]), wall: self.now(), uptime_millis: 1 }
    }
}

/// Opens a data directory, made first if there is none, with what `wrap` puts around its store.
pub(crate) async fn open_behind<S: Store + 'static>(
    dir: &Path,
    wrap: impl FnOnce(SqliteStore) -> S,
) -> (Arc<Unsealed>, Arc<S>) {
    let paths = Paths::new(dir);
    if !paths.store().exists() {
        bootstrap::init(dir.to_owned(), None, &FixedClock).await.unwrap();
    }
    let store = Arc::new(wrap(SqliteStore::open(&paths.store(), OpenMode::Write).unwrap()));
    let root = bootstrap::configured_root(&paths).unwrap().resolve().unwrap();
    let (clock, metrics, refusals) = (Arc::new(FixedClock), Arc::default(), Arc::default());
    let open = bootstrap::unseal_on(store.clone(), &paths, Access::Write, root.as_ref(), clock, metrics, refusals);
    (open.await.unwrap(), store)
}
