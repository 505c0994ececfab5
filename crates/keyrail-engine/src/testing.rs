//! What the unit tests of several modules share: a clock that stands still, and a store that is opened behind a fault.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyrail_core::id::RequestId;
use keyrail_core::record::{Outcome, Record};
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_store::{OpenMode, SqliteStore, Store};

use crate::anchor::Anchors;
use crate::bootstrap::{self, Access};
use crate::error::EngineError;
use crate::ops::domain::CreateDomain;
use crate::paths::Paths;
use crate::request::{Caller, Credential};
use crate::store_place::StorePlace;
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

/// A clock that goes on when a test says so.
#[derive(Default)]
pub(crate) struct SetClock(AtomicU64);

impl SetClock {
    pub(crate) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        FixedClock.now().plus_seconds(self.0.load(Ordering::SeqCst))
    }

    fn observe(&self) -> Observation {
        let seconds = self.0.load(Ordering::SeqCst);
        let wall = FixedClock.now().plus_seconds(seconds);
        Observation { boot: BootId([1; 16]), wall, uptime_millis: 1 + seconds * 1_000 }
    }
}

/// Opens a data directory, made first if there is none, with what `wrap` puts around its store.
pub(crate) async fn open_behind<S: Store + 'static>(
    dir: &Path,
    wrap: impl FnOnce(SqliteStore) -> S,
) -> (Arc<Unsealed>, Arc<S>) {
    open_at(dir, Arc::new(FixedClock), wrap).await
}

/// As [`open_behind`], by another clock.
pub(crate) async fn open_at<S: Store + 'static>(
    dir: &Path,
    clock: Arc<dyn Clock>,
    wrap: impl FnOnce(SqliteStore) -> S,
) -> (Arc<Unsealed>, Arc<S>) {
    let paths = Paths::new(dir);
    if !paths.store().exists() {
        bootstrap::init(dir.to_owned(), None, None, &StorePlace::DataDir, clock.as_ref()).await.unwrap();
    }
    let store = Arc::new(wrap(SqliteStore::open(&paths.store(), OpenMode::Write).unwrap()));
    let root = bootstrap::configured_root(&paths).unwrap().resolve().unwrap();
    let (metrics, refusals) = (Arc::default(), Arc::default());
    let around = bootstrap::Around { clock, metrics, refusals, anchors: Anchors::default() };
    let open = bootstrap::unseal_on(store.clone(), &paths, Access::Write, root.as_ref(), around);
    (open.await.unwrap(), store)
}

/// Makes a domain, which is a change of state.
pub(crate) async fn create(open: &Arc<Unsealed>, name: &str) -> (RequestId, Result<(), EngineError>) {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let done = open.execute(&caller, CreateDomain { name: name.parse().unwrap() }).await;
    (caller.request, done.map(drop))
}

/// How the records under this request ended.
pub(crate) fn outcomes(open: &Unsealed, request: RequestId) -> Vec<Outcome> {
    let size = usize::try_from(open.log().size()).unwrap();
    let records = open.log().read(0, size).unwrap().into_iter();
    let records = records.map(|body| serde_json::from_slice::<Record>(&body.body).unwrap());
    records.filter(|record| record.id == request).map(|record| record.outcome).collect()
}
