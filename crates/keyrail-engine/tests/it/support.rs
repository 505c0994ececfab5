//! A data directory with an engine that a test drives.

use std::path::Path;
use std::sync::Arc;

use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::key::CreateKey;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, EngineOptions, Operation};
use parking_lot::Mutex;

/// A clock that a test sets.
pub(crate) struct TestClock(Mutex<Observation>);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        let wall = Timestamp::from_millis(1_795_512_600_000);
        Arc::new(Self(Mutex::new(Observation { boot: BootId([7; 16]), wall, uptime_millis: 1_000_000 })))
    }

    pub(crate) fn pass(&self, seconds: u64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_seconds(seconds);
        now.uptime_millis += seconds * 1_000;
    }

    pub(crate) fn jump(&self, seconds: u64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_seconds(seconds);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.0.lock().wall
    }

    fn observe(&self) -> Observation {
        *self.0.lock()
    }
}

pub(crate) async fn open(dir: &Path, clock: &Arc<TestClock>, access: Access) -> Engine {
    let options = EngineOptions { data_dir: dir.to_owned(), access, clock: clock.clone(), assets: None };
    let engine = Engine::open(options).unwrap();
    engine.unseal().await.unwrap();
    engine
}

/// A new store with the key `acme/prod/crm/pii`.
pub(crate) async fn with_key(dir: &Path, clock: &Arc<TestClock>, label: &str) -> Engine {
    Engine::init(dir.to_owned(), None, clock.as_ref()).await.unwrap();
    let engine = open(dir, clock, Access::Write).await;
    run(&engine, CreateDomain { name: "acme".parse().unwrap() }).await.unwrap();
    run(&engine, CreateApp { path: "acme/prod/crm".parse().unwrap() }).await.unwrap();
    run(&engine, CreateKey { name: "acme/prod/crm/pii".parse().unwrap(), label: label.parse().unwrap() })
        .await
        .unwrap();
    engine
}

pub(crate) async fn run<Op: Operation>(engine: &Engine, op: Op) -> Result<Op::Answer, EngineError> {
    engine.execute(&Caller::new(Credential::LocalOperator).unwrap(), op).await
}

/// Carries the background work on, as a server does once a second.
pub(crate) async fn tick(engine: &Engine, times: usize) {
    for _ in 0..times {
        engine.tick().await.unwrap();
    }
}
