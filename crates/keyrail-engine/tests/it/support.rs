//! A data directory with an engine that a test drives.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyrail_core::access::{Action, Role};
use keyrail_core::id::TokenId;
use keyrail_core::name::{KeyName, KeyVersionName};
use keyrail_core::record::Record;
use keyrail_core::rotation::RotationReason;
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_crypto::envelope::Context;
use keyrail_crypto::secret::Plaintext;
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::data::{CiphertextItem, Decrypt, Encrypt, EncryptItem};
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::key::{CreateKey, KeyView, RotateKey, ShowKey};
use keyrail_engine::ops::label::{DemandsPatch, SetLabel};
use keyrail_engine::ops::retire::RetireVersion;
use keyrail_engine::ops::token::CreateToken;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, EngineOptions, Operation};
use parking_lot::Mutex;

/// A clock that a test sets.
pub(crate) struct TestClock(Mutex<Observation>, AtomicU64);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        let wall = Timestamp::from_millis(1_795_512_600_000);
        Arc::new(Self(
            Mutex::new(Observation { boot: BootId([7; 16]), wall, uptime_millis: 1_000_000 }),
            AtomicU64::new(0),
        ))
    }

    /// From here on every look at the clock takes so many seconds, as if the machine were very slow.
    pub(crate) fn drag(&self, seconds: u64) {
        self.1.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn pass(&self, seconds: u64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_seconds(seconds);
        now.uptime_millis += seconds * 1_000;
    }

    /// The machine is started again: its own clock begins anew.
    pub(crate) fn reboot(&self, seconds: u64) {
        let mut now = self.0.lock();
        now.boot = BootId([now.boot.0[0].wrapping_add(1); 16]);
        now.wall = now.wall.plus_seconds(seconds);
        now.uptime_millis = 1_000;
    }

    pub(crate) fn jump(&self, seconds: u64) {
        let mut now = self.0.lock();
        now.wall = now.wall.plus_seconds(seconds);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.pass(self.1.load(Ordering::Relaxed));
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

pub(crate) fn key_name() -> KeyName {
    "acme/prod/crm/pii".parse().unwrap()
}

pub(crate) fn version(number: u32) -> KeyVersionName {
    format!("acme/prod/crm/pii@{number}").parse().unwrap()
}

pub(crate) fn context() -> Context {
    Context::from_pairs([("row", "7")]).unwrap()
}

pub(crate) async fn rotate(engine: &Engine) -> KeyView {
    run(engine, RotateKey { name: key_name(), reason: RotationReason::Demand }).await.unwrap()
}

pub(crate) async fn show(engine: &Engine) -> KeyView {
    run(engine, ShowKey { name: key_name() }).await.unwrap()
}

pub(crate) async fn encrypt(engine: &Engine, text: &str) -> (String, u32) {
    let item = EncryptItem { plaintext: Plaintext::from(text.as_bytes().to_vec()), context: context() };
    let answer = run(engine, Encrypt { key: key_name(), items: vec![Ok(item)] }).await.unwrap().remove(0).unwrap();
    (answer.ciphertext, answer.version.get())
}

pub(crate) async fn decrypt(engine: &Engine, ciphertext: &str) -> Result<Vec<u8>, EngineError> {
    let item = CiphertextItem { ciphertext: ciphertext.to_owned(), context: context() };
    let answer = run(engine, Decrypt { key: key_name(), items: vec![Ok(item)] }).await.unwrap().remove(0);
    answer.map(|done| done.plaintext.as_bytes().to_vec())
}

/// Retires version 1, whose only user so far is the local operator.
pub(crate) async fn retire_first(engine: &Engine, clock: &TestClock) {
    clock.pass(61);
    let acknowledged = vec!["local-operator".to_owned()];
    run(engine, RetireVersion { name: version(1), acknowledged }).await.unwrap();
}

/// All records of the log, with their indices.
pub(crate) fn records(engine: &Engine) -> Vec<(u64, Record)> {
    let open = engine.unsealed().unwrap();
    let (mut all, size) = (Vec::new(), open.log().size());
    while (all.len() as u64) < size {
        let bodies = open.log().read(all.len() as u64, 1_000).unwrap();
        for body in bodies {
            all.push((all.len() as u64, serde_json::from_slice(&body.body).unwrap()));
        }
    }
    all
}

/// Records of one action, oldest first.
pub(crate) fn records_of(engine: &Engine, action: Action) -> Vec<Record> {
    records(engine).into_iter().map(|(_, record)| record).filter(|record| record.action == action).collect()
}

/// The values of a record's details of this name.
pub(crate) fn details<'a>(record: &'a Record, name: &str) -> Vec<&'a str> {
    record.detail.iter().filter(|row| row.name == name).map(|row| row.value.as_str()).collect()
}

/// Changes a label's demands.
pub(crate) async fn set_label(engine: &Engine, name: &str, patch: DemandsPatch) {
    run(engine, SetLabel { name: name.parse().unwrap(), patch }).await.unwrap();
}

/// Makes a token; its text.
pub(crate) async fn token(engine: &Engine, role: Role, app: Option<&str>) -> (TokenId, String) {
    let app = app.map(|app| app.parse().unwrap());
    let made = run(engine, CreateToken { role, app, ttl_seconds: 3_600 }).await.unwrap();
    (made.view.id, made.text.to_string())
}

/// Runs an operation with a token.
pub(crate) async fn run_as<Op: Operation>(engine: &Engine, token: &str, op: Op) -> Result<Op::Answer, EngineError> {
    engine.execute(&Caller::new(Credential::Token(token)).unwrap(), op).await
}
