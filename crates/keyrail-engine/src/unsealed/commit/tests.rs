//! A request that is held between its decision and its record, for as long as a change takes.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use keyrail_core::access::Role;
use keyrail_core::id::TokenId;
use keyrail_core::name::{KeyName, KeyVersionName, VersionNumber};
use keyrail_core::rotation::RotationReason;
use keyrail_crypto::envelope::Context;
use keyrail_store::{Condition, Select, SqliteStore, Store, Table, Transaction, Value};
use tokio::sync::{Notify, Semaphore};
use zeroize::Zeroizing;

use super::*;
use crate::ops::app::CreateApp;
use crate::ops::data::{CiphertextItem, Decrypt, Encrypt, EncryptItem};
use crate::ops::key::{CompromiseVersion, CreateKey, RotateKey, SuspendVersion};
use crate::ops::label::{DemandsPatch, SetLabel};
use crate::ops::retire::RetireVersion;
use crate::ops::token::{CreateToken, RevokeToken};
use crate::pipeline::Operation;
use crate::request::{Caller, Credential};
use crate::testing::{create, open_behind};

/// The real store, which holds whoever next asks for a master key: that is after the decision, and before the record.
struct Holding {
    store: SqliteStore,
    armed: AtomicBool,
    held: Notify,
    gate: Semaphore,
}

#[async_trait]
impl Store for Holding {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        if select.table.name == "master_key_version" && self.armed.swap(false, Ordering::SeqCst) {
            self.held.notify_one();
            self.gate.acquire().await.unwrap().forget();
        }
        self.store.select(select).await
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.store.count(table, conditions).await
    }

    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError> {
        self.store.apply(transaction).await
    }

    async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.store.integrity().await
    }

    async fn snapshot(&self) -> Result<std::sync::Arc<dyn Store>, StoreError> {
        self.store.snapshot().await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }
}

/// A key with one version, something that it encrypted, and a token that may use it.
struct Scene {
    open: Arc<Unsealed>,
    store: Arc<Holding>,
    key: KeyName,
    ciphertext: String,
    token: (TokenId, Zeroizing<String>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ask {
    Encrypt,
    Decrypt,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verb {
    Suspend,
    Compromise,
    Retire,
    RevokeToken,
}

async fn run<Op: Operation>(open: &Arc<Unsealed>, op: Op) -> (RequestId, Result<Op::Answer, EngineError>) {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    (caller.request, open.execute(&caller, op).await)
}

async fn scene(dir: &Path) -> Scene {
    let (open, store) = open_behind(dir, |store| Holding {
        store,
        armed: AtomicBool::new(false),
        held: Notify::new(),
        gate: Semaphore::new(0),
    })
    .await;
    let key: KeyName = "acme/prod/crm/pii".parse().unwrap();
    create(&open, "acme").await.1.unwrap();
    let patch = DemandsPatch { write_window_seconds: Some(0), ..DemandsPatch::default() };
    run(&open, SetLabel { name: "internal".parse().unwrap(), patch }).await.1.unwrap();
    run(&open, CreateApp { path: key.app.clone() }).await.1.unwrap();
    run(&open, CreateKey { name: key.clone(), label: "internal".parse().unwrap() }).await.1.unwrap();
    let encrypted = run(&open, encrypt(&key)).await.1.unwrap().remove(0).unwrap();
    let token = CreateToken { role: Role::App, app: Some(key.app.clone()), ttl_seconds: 60 };
    let token = run(&open, token).await.1.unwrap();
    Scene { open, store, key, ciphertext: encrypted.ciphertext.clone(), token: (token.view.id, token.text) }
}

fn encrypt(key: &KeyName) -> Encrypt {
    let item = EncryptItem { plaintext: b"held".to_vec().into(), context: Context::default() };
    Encrypt { key: key.clone(), items: vec![Ok(item)] }
}

impl Scene {
    /// Asks by the token.
    fn ask(&self, ask: Ask) -> tokio::task::JoinHandle<RequestId> {
        let (open, key, text, token) =
            (self.open.clone(), self.key.clone(), self.ciphertext.clone(), self.token.1.clone());
        tokio::spawn(async move {
            let caller = Caller::new(Credential::Token(&token)).unwrap();
            match ask {
                Ask::Encrypt => drop(open.execute(&caller, encrypt(&key)).await),
                Ask::Decrypt => {
                    let item = CiphertextItem { ciphertext: text, context: Context::default() };
                    drop(open.execute(&caller, Decrypt { key, items: vec![Ok(item)] }).await);
                }
            }
            caller.request
        })
    }

    async fn change(&self, verb: Verb) -> RequestId {
        let name = KeyVersionName { key: self.key.clone(), version: VersionNumber::FIRST };
        let open = &self.open;
        let (request, done) = match verb {
            Verb::Suspend => to_unit(run(open, SuspendVersion { name }).await),
            Verb::Compromise => to_unit(run(open, CompromiseVersion { name }).await),
            Verb::Retire => {
                let acknowledged = vec!["local-operator".to_owned()];
                to_unit(run(open, RetireVersion { name, acknowledged }).await)
            }
            Verb::RevokeToken => to_unit(run(open, RevokeToken { id: self.token.0 }).await),
        };
        done.unwrap();
        request
    }

    /// The records of the log, in their order.
    fn records(&self) -> Vec<Record> {
        let size = usize::try_from(self.open.log().size()).unwrap();
        let bodies = self.open.log().read(0, size).unwrap().into_iter();
        bodies.map(|body| serde_json::from_slice(&body.body).unwrap()).collect()
    }
}

fn to_unit<A>((request, done): (RequestId, Result<A, EngineError>)) -> (RequestId, Result<(), EngineError>) {
    (request, done.map(drop))
}

/// However long it was held: what was decided under the former state gets no record once the change returned.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_between_decision_and_record_has_no_record_under_the_former_state() {
    let rows = [
        (Verb::Suspend, Ask::Encrypt),
        (Verb::Suspend, Ask::Decrypt),
        (Verb::Compromise, Ask::Encrypt),
        (Verb::Retire, Ask::Decrypt),
        (Verb::RevokeToken, Ask::Encrypt),
        (Verb::RevokeToken, Ask::Decrypt),
    ];
    for (verb, ask) in rows {
        let dir = tempfile::tempdir().unwrap();
        let scene = scene(dir.path()).await;
        if verb == Verb::Retire {
            run(&scene.open, RotateKey { name: scene.key.clone(), reason: RotationReason::Demand }).await.1.unwrap();
        }
        // Nothing is cached under the epoch that this begins.
        create(&scene.open, "other").await.1.unwrap();
        scene.store.armed.store(true, Ordering::SeqCst);
        let asked = scene.ask(ask);
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, scene.store.held.notified()).await.expect("a request that is held");
        let change = scene.change(verb).await;
        let size = scene.records().len();
        scene.store.gate.add_permits(1);
        let request = tokio::time::timeout(limit, asked).await.expect("an answer").unwrap();

        let records = scene.records();
        assert_eq!(records[size - 1].id, change, "{verb:?}, {ask:?}: the change returned with its record");
        let own: Vec<_> = records.iter().filter(|record| record.id == request).collect();
        let under_first = |record: &&Record| record.versions.iter().any(|used| used.version == VersionNumber::FIRST);
        assert!(!own.iter().any(under_first), "{verb:?}, {ask:?}: {own:?}");
        let outcomes: Vec<_> = own.iter().map(|record| record.outcome).collect();
        let want: &[Outcome] = match (verb, ask) {
            // An exposed version has a successor, and the request is answered under that.
            (Verb::Compromise, _) => &[Outcome::Done],
            // Who is not known any more is counted, and has no record of his own.
            (Verb::RevokeToken, _) => &[],
            // A batch is done, whatever became of its items.
            (_, Ask::Decrypt) => &[Outcome::Done],
            (_, Ask::Encrypt) => &[Outcome::Refused],
        };
        assert_eq!(outcomes, want, "{verb:?}, {ask:?}");
    }
}
