//! A refused decrypt that meets a countdown's step.

use keyrail_core::rotation::RotationReason;
use keyrail_core::time::{BootId, Clock, Observation};

use super::*;
use crate::anchor::Anchors;
use crate::bootstrap::{self, Access};
use crate::countdown;
use crate::ops::app::CreateApp;
use crate::ops::domain::CreateDomain;
use crate::ops::key::{CreateKey, RotateKey};
use crate::ops::retire::{DestroyVersion, RetireVersion};
use crate::paths::Paths;
use crate::pipeline::Operation;
use crate::request::{Caller, Credential};
use crate::store_place::StorePlace;

const DAY: u64 = 86_400;

/// A clock that a test sets.
struct SetClock(parking_lot::Mutex<Observation>);

impl SetClock {
    fn pass(&self, seconds: u64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_seconds(seconds);
        now.uptime_millis += seconds * 1_000;
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        self.0.lock().wall
    }

    fn observe(&self) -> Observation {
        *self.0.lock()
    }
}

async fn run<Op: Operation>(open: &Arc<Unsealed>, op: Op) -> Op::Answer {
    open.execute(&Caller::new(Credential::LocalOperator).unwrap(), op).await.unwrap()
}

/// A store whose key has a retired version that waits to be destroyed.
async fn waiting(dir: &std::path::Path, clock: &Arc<SetClock>) -> (Arc<Unsealed>, KeyName) {
    bootstrap::init(dir.to_owned(), None, None, &StorePlace::DataDir, clock.as_ref()).await.unwrap();
    let paths = Paths::new(dir);
    let root = bootstrap::configured_root(&paths).unwrap().resolve().unwrap();
    let (metrics, refusals) = (Arc::default(), Arc::default());
    let around = bootstrap::Around { clock: clock.clone(), metrics, refusals, anchors: Anchors::default() };
    let open = bootstrap::unseal(&paths, Access::Write, root.as_ref(), around).await.unwrap();
    let name: KeyName = "acme/prod/crm/pii".parse().unwrap();
    run(&open, CreateDomain { name: "acme".parse().unwrap() }).await;
    run(&open, CreateApp { path: name.app.clone() }).await;
    run(&open, CreateKey { name: name.clone(), label: "internal".parse().unwrap() }).await;
    run(&open, RotateKey { name: name.clone(), reason: RotationReason::Demand }).await;
    clock.pass(61);
    let version = || "acme/prod/crm/pii@1".parse().unwrap();
    run(&open, RetireVersion { name: version(), acknowledged: Vec::new() }).await;
    run(&open, DestroyVersion { name: version(), acknowledged: Vec::new() }).await;
    (open, name)
}

/// The key was loaded, the countdown went on, and then somebody asks for data under it: it halts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_decrypt_that_loaded_the_key_before_a_step_halts_the_countdown() {
    let dir = tempfile::tempdir().unwrap();
    let observation =
        Observation { boot: BootId([7; 16]), wall: Timestamp::from_millis(1_795_512_600_000), uptime_millis: 1 };
    let clock = Arc::new(SetClock(parking_lot::Mutex::new(observation)));
    let (open, name) = waiting(dir.path(), &clock).await;
    let stale = open.key(&name).await.unwrap().unwrap();
    let generation = open.generation();
    clock.pass(DAY);
    countdown::tick(&open).await.unwrap();
    assert_eq!(open.generation(), generation, "nobody begins anew because of a step");

    open.refused_decrypt(&stale, &stale.keyring.versions[0]).await.unwrap();
    let wait = open.read_key(&name).await.unwrap().unwrap().keyring.versions[0].destroy.unwrap();
    assert_eq!((wait.observed_seconds, wait.halt), (DAY, Some(DestroyHalt::DecryptRefused)));
    let last = open.log().read(open.log().size() - 1, 1).unwrap().remove(0);
    let last: Record = serde_json::from_slice(&last.body).unwrap();
    assert_eq!((last.kind, last.action), (RecordKind::Alarm, Action::DataDecrypt));
    assert_eq!(open.metrics().snapshot().alarms, 1);

    clock.pass(8 * DAY);
    countdown::tick(&open).await.unwrap();
    assert_eq!(open.read_key(&name).await.unwrap().unwrap().keyring.versions[0].state, VersionState::Retired);
}
