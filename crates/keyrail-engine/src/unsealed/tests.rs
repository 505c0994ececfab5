//! Faults of the store and the log: each once as "failed, not stored" and once as "failed but stored".

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyrail_core::access::{Action, Role};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::record::{Outcome, Record};
use keyrail_core::rotation::RotationReason;
use keyrail_store::{Change, Condition, Select, SqliteStore, Store, StoreError, Table, Transaction, Value, Write};

use super::*;
use crate::bootstrap::Access;
use crate::countdown;
use crate::counting::About;
use crate::engine::{Engine, EngineOptions};
use crate::ops::app::CreateApp;
use crate::ops::domain::{CreateDomain, ListDomains};
use crate::ops::key::{CreateKey, ReinstateVersion, RotateKey, SuspendVersion};
use crate::ops::label::{DemandsPatch, SetLabel};
use crate::ops::retire::{DestroyVersion, RetireVersion, ShowEvidence};
use crate::ops::token::CreateToken;
use crate::request::Credential;
use crate::scheduler;
use crate::testing::{FixedClock, SetClock, open_at, open_behind};

/// What goes wrong from now on.
const NOTHING: u8 = 0;
/// A commit is made and reported as unknown.
const STORED: u8 = 1;
/// A commit is not made and reported as unknown.
const NOT_STORED: u8 = 2;
/// A commit does not end until the gate is opened; then it is made.
const HANGS: u8 = 8;
/// As before, and the store does not answer afterwards either.
const DEAF: u8 = 4;
/// It is not a change of domains that this happens to, but the head that is remembered.
const HEAD: u8 = 16;

/// The real store behind a line that breaks.
struct Breaking {
    store: SqliteStore,
    fault: AtomicU8,
    gate: tokio::sync::Semaphore,
}

impl Breaking {
    fn broken(&self) -> StoreError {
        StoreError::Indeterminate { source: rusqlite_error().into() }
    }

    fn is_deaf(&self) -> bool {
        self.fault.load(Ordering::SeqCst) & DEAF != 0
    }
}

/// An error of the kind that a failed sync gives.
fn rusqlite_error() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None)
}

#[async_trait]
impl Store for Breaking {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        if self.is_deaf() && ["outbox", "log_head"].contains(&select.table.name) {
            return Err(StoreError::Busy(rusqlite_error().into()));
        }
        self.store.select(select).await
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.store.count(table, conditions).await
    }

    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError> {
        let fault = self.fault.load(Ordering::SeqCst);
        let hit = transaction.writes.iter().any(|write| match write {
            Write::Insert { table, .. } if fault & HEAD == 0 => table.name == "domain",
            Write::Insert { table, .. } | Write::Update { table, .. } if fault & HEAD != 0 => table.name == "log_head",
            _ => false,
        });
        match fault & !(DEAF | HEAD) {
            STORED if hit => {
                self.store.apply(transaction).await?;
                Err(self.broken())
            }
            NOT_STORED if hit => Err(self.broken()),
            HANGS if hit => {
                self.gate.acquire().await.unwrap().forget();
                // What became of the disk meanwhile decides.
                match self.fault.load(Ordering::SeqCst) {
                    NOT_STORED => Err(self.broken()),
                    _ => self.store.apply(transaction).await,
                }
            }
            _ => self.store.apply(transaction).await,
        }
    }

    async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.store.integrity().await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }
}

async fn open(dir: &Path) -> (Arc<Unsealed>, Arc<Breaking>) {
    let gate = tokio::sync::Semaphore::new(0);
    open_behind(dir, |store| Breaking { store, fault: AtomicU8::new(NOTHING), gate }).await
}

async fn create(open: &Arc<Unsealed>, name: &str) -> (RequestId, Result<(), EngineError>) {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let done = open.execute(&caller, CreateDomain { name: name.parse().unwrap() }).await;
    (caller.request, done.map(drop))
}

async fn names(open: &Arc<Unsealed>) -> Vec<String> {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let rows = open.execute(&caller, ListDomains).await.unwrap();
    let mut names: Vec<_> = rows.into_iter().map(|row| row.name.to_string()).collect();
    names.sort();
    names
}

/// How the records under this request ended.
fn outcomes(open: &Unsealed, request: RequestId) -> Vec<Outcome> {
    let size = usize::try_from(open.log().size()).unwrap();
    let records = open.log().read(0, size).unwrap().into_iter();
    let records = records.map(|body| serde_json::from_slice::<Record>(&body.body).unwrap());
    records.filter(|record| record.id == request).map(|record| record.outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_unknown_fate_is_looked_up_by_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let (open, store) = open(dir.path()).await;
    store.fault.store(STORED, Ordering::SeqCst);
    let (request, done) = create(&open, "stored").await;
    assert!(done.is_ok());
    assert_eq!(outcomes(&open, request), [Outcome::Done]);
    store.fault.store(NOT_STORED, Ordering::SeqCst);
    let (request, done) = create(&open, "lost").await;
    assert_eq!(done.unwrap_err().code(), "store_failed");
    assert_eq!(outcomes(&open, request), [Outcome::Failed]);
    assert_eq!(names(&open).await, ["stored"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_up_is_indeterminate_and_settled_before_the_next_change() {
    for (fault, outcome, want) in
        [(STORED, Outcome::Done, vec!["next", "open"]), (NOT_STORED, Outcome::Failed, vec!["next"])]
    {
        let dir = tempfile::tempdir().unwrap();
        let (open, store) = open(dir.path()).await;
        let generation = open.generation();
        store.fault.store(fault | DEAF, Ordering::SeqCst);
        let (request, done) = create(&open, "open").await;
        assert_eq!(done.unwrap_err().code(), "indeterminate");
        assert!(open.generation() > generation, "nothing that was decided before is answered");
        assert_eq!(outcomes(&open, request), []);
        assert!(open.has_pending());
        // As long as nobody knows, nothing else is changed.
        assert_eq!(create(&open, "next").await.1.unwrap_err().code(), "store_failed");
        store.fault.store(NOTHING, Ordering::SeqCst);
        create(&open, "next").await.1.unwrap();
        assert_eq!(outcomes(&open, request), [outcome]);
        assert_eq!(names(&open).await, want);
        assert!(!open.has_pending());
    }
}

/// A disk that hangs holds up nobody for longer than the limit, and what becomes of the change is told when it is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_hangs_is_indeterminate_and_settled_when_it_ends() {
    for (end, outcome, want) in
        [(HANGS, Outcome::Done, vec!["late", "next"]), (NOT_STORED, Outcome::Failed, vec!["next"])]
    {
        let dir = tempfile::tempdir().unwrap();
        let (mut open, store) = open(dir.path()).await;
        Arc::get_mut(&mut open).unwrap().commit_wait = std::time::Duration::from_millis(500);
        create(&open, "before").await.1.unwrap();
        store.fault.store(HANGS, Ordering::SeqCst);
        let (request, done) = create(&open, "late").await;
        assert_eq!(done.unwrap_err().code(), "indeterminate");
        assert_eq!(outcomes(&open, request), []);
        // Others get a clear refusal with a record, reads go on, and health has a reason.
        let (refused, done) = create(&open, "refused").await;
        assert_eq!(done.unwrap_err().code(), "store_stuck");
        assert_eq!(outcomes(&open, refused), [Outcome::Failed]);
        assert_eq!(open.remember().await.unwrap_err().code(), "store_stuck");
        assert_eq!(names(&open).await, ["before"]);
        assert!(open.stuck().unwrap().to_string().contains("on its way"));

        let generation = open.generation();
        store.fault.store(end, Ordering::SeqCst);
        store.gate.add_permits(1);
        open.woken().await;
        store.fault.store(NOTHING, Ordering::SeqCst);
        while open.is_late() {
            // The commit has ended; its task may need a moment to say so.
            let _stuck_a_moment_longer = open.settle_pending().await;
            tokio::task::yield_now().await;
        }
        assert!(open.generation() > generation, "what was decided while nobody knew is not answered any more");
        assert_eq!(outcomes(&open, request), [outcome]);
        create(&open, "next").await.1.unwrap();
        open.remember().await.unwrap();
        let mut want = want;
        want.insert(0, "before");
        assert_eq!(names(&open).await, want);
        assert!(open.stuck().is_none() && !open.has_pending());
    }
}

/// A store that is sealed over a commit that hangs: what ends in time is recorded before, and what does not keeps the
/// store closed, since it would land behind the back of the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_outlives_sealing_keeps_the_store_closed() {
    let local = || Caller::new(Credential::LocalOperator).unwrap();
    for ends_in_time in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut open, store) = open(dir.path()).await;
        Arc::get_mut(&mut open).unwrap().commit_wait = std::time::Duration::from_millis(1_000);
        let (data_dir, clock) = (dir.path().to_owned(), Arc::new(FixedClock));
        let options = EngineOptions { data_dir, access: Access::Write, clock, assets: None };
        let engine = Engine::open(options).unwrap().with_opened(open.clone());
        create(&open, "before").await.1.unwrap();
        store.fault.store(HANGS, Ordering::SeqCst);
        let (request, done) = create(&open, "late").await;
        assert_eq!(done.unwrap_err().code(), "indeterminate");
        drop(open);
        if ends_in_time {
            store.gate.add_permits(1);
            engine.seal_for(&local()).await.unwrap();
        } else {
            assert_eq!(engine.seal_for(&local()).await.unwrap_err().code(), "store_stuck");
            assert_eq!(engine.seal_state(), SealState::Sealed);
            assert_eq!(engine.unseal_for(&local()).await.unwrap_err().code(), "store_stuck");
            assert_eq!(engine.unseal().await.unwrap_err().code(), "store_stuck");
            assert_eq!(engine.seal_state(), SealState::Sealed);
            store.gate.add_permits(1);
        }
        while let Err(error) = engine.unseal().await {
            assert_eq!((error.code(), ends_in_time), ("store_stuck", false));
            tokio::task::yield_now().await;
        }
        let open = engine.unsealed().unwrap();
        assert_eq!(outcomes(&open, request), [Outcome::Done]);
        assert_eq!(names(&open).await, ["before", "late"]);
        create(&open, "next").await.1.unwrap();
    }
}

/// Nothing else is committed in an idle store: what it remembers of the log recovers by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_unknown_fate_is_read_again() {
    for fault in [STORED, STORED | DEAF, NOT_STORED, NOT_STORED | DEAF] {
        let dir = tempfile::tempdir().unwrap();
        let (open, store) = open(dir.path()).await;
        let (request, done) = create(&open, "before").await;
        done.unwrap();
        open.log.publish().await.unwrap();
        store.fault.store(HEAD | fault, Ordering::SeqCst);
        assert_eq!(open.remember().await.is_ok(), fault == STORED, "{fault}");
        store.fault.store(NOTHING, Ordering::SeqCst);
        if fault == STORED | DEAF {
            // It could not be looked up then, so that the next one comes with a generation that is over.
            names(&open).await;
            open.log.publish().await.unwrap();
            let error = open.remember().await.unwrap_err();
            assert!(matches!(error, EngineError::Store(StoreError::Conflict { .. })), "{error}");
        }
        open.remember().await.unwrap();
        let head = open.state().log_head().await.unwrap();
        assert_eq!(head.unwrap().size, open.log.published().size, "{fault}");
        assert_eq!(*open.remembered.lock(), head);
        assert!(!open.state().outbox_has(&request).await.unwrap(), "{fault}");
    }
}

/// An append that was given up on and made all the same is not made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_came_late_is_not_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let (open, store) = open(dir.path()).await;
    store.fault.store(STORED | DEAF, Ordering::SeqCst);
    let (request, done) = create(&open, "open").await;
    assert_eq!(done.unwrap_err().code(), "indeterminate");
    // The disk was slow: the record that nobody waited for any more is in the log after all.
    let body = open.pending.lock().as_ref().unwrap().body().to_vec();
    open.log.append(body, Epoch(open.generation())).await.unwrap();
    assert_eq!(outcomes(&open, request), [Outcome::Done]);
    store.fault.store(NOTHING, Ordering::SeqCst);
    open.settle_pending().await.unwrap();
    assert!(!open.has_pending());
    assert_eq!(outcomes(&open, request), [Outcome::Done], "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_settled_in_the_background_too() {
    let dir = tempfile::tempdir().unwrap();
    let (open, store) = open(dir.path()).await;
    store.fault.store(STORED | DEAF, Ordering::SeqCst);
    let (request, _) = create(&open, "open").await;
    assert!(scheduler::tick(&open).await.is_err());
    store.fault.store(NOTHING, Ordering::SeqCst);
    scheduler::tick(&open).await.unwrap();
    assert_eq!(outcomes(&open, request), [Outcome::Done]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_log_did_not_take_is_recorded_once_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (former, _) = open(dir.path()).await;
    create(&former, "before").await.1.unwrap();
    former.log.close().unwrap();
    let (request, done) = create(&former, "made").await;
    assert_eq!(done.unwrap_err().code(), "indeterminate");
    // Until the log takes it no other change is made, and nothing is answered.
    assert_eq!(create(&former, "refused").await.1.unwrap_err().code(), "audit_unavailable");
    drop(former);
    for _ in 0..3 {
        let (open, _) = open(dir.path()).await;
        assert_eq!(outcomes(&open, request), [Outcome::Done]);
        assert_eq!(names(&open).await, ["before", "made"]);
        // Not closed: the next start finds the outbox as a crash leaves it.
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_works_with_a_closed_store_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (former, _) = open(dir.path()).await;
    create(&former, "before").await.1.unwrap();
    former.close().await.unwrap();
    let (open, _) = open(dir.path()).await;
    create(&open, "after").await.1.unwrap();
    let head = open.state().log_head().await.unwrap();
    let record = some_record(&former);
    let empty = || Change::new().unrecorded("nothing");
    let refused = [
        former.commit_background(Change::new(), &record).await,
        former.commit_unrecorded(empty()).await,
        former.commit_bookkeeping(empty()).await,
        former.remember().await,
    ];
    for (index, result) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code(), "sealed", "{index}");
    }
    // Not even that it failed can be recorded there.
    assert_eq!(create(&former, "late").await.1.unwrap_err().code(), "sealed");
    assert_eq!(open.state().log_head().await.unwrap(), head);
    assert_eq!(names(&open).await, ["after", "before"]);
    create(&open, "next").await.1.unwrap();
}

/// Some record, as work in the background makes them: here the last one of the log under a new id.
fn some_record(open: &Unsealed) -> Record {
    let last = open.log().read(open.log().size() - 1, 1).unwrap().remove(0);
    Record { id: RequestId::from_bytes([9; 16]), ..serde_json::from_slice(&last.body).unwrap() }
}

/// Assets whose count is overtaken by a change each time, or takes as long as a gate is closed.
struct SlowAssets {
    open: std::sync::Weak<Unsealed>,
    gate: tokio::sync::Semaphore,
    counted: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl AssetPort for SlowAssets {
    async fn evidence(
        &self,
        _: keyrail_core::id::DataKeyId,
        _: Kid,
    ) -> Result<Vec<keyrail_core::retirement::AssetEvidence>, EngineError> {
        self.gate.acquire().await.unwrap().forget();
        let number = self.counted.fetch_add(1, Ordering::SeqCst);
        create(&self.open.upgrade().unwrap(), &format!("meanwhile-{number}")).await.1.unwrap();
        let census = Ok(keyrail_core::retirement::AssetCount { left: 0, damaged: 0 });
        let asset = "people".parse().unwrap();
        Ok(vec![keyrail_core::retirement::AssetEvidence { asset, census, campaign_open: false }])
    }
}

/// A key with a version to retire, whose write window is over at once, and an operator's token.
async fn with_slow_assets(dir: &Path) -> (Arc<Unsealed>, Arc<SlowAssets>, zeroize::Zeroizing<String>) {
    with_slow_assets_at(dir, Arc::new(FixedClock), Duration::from_secs(60)).await
}

/// As above, with a clock and with how long ago a count may have ended that something final rests on.
async fn with_slow_assets_at(
    dir: &Path,
    clock: Arc<dyn Clock>,
    fresh: Duration,
) -> (Arc<Unsealed>, Arc<SlowAssets>, zeroize::Zeroizing<String>) {
    let (mut open, _) = open_at(dir, clock, |store| store).await;
    let parts = Arc::get_mut(&mut open).unwrap();
    (parts.count_wait, parts.counts.fresh) = (Duration::from_millis(50), fresh);
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let key: KeyName = "acme/prod/crm/pii".parse().unwrap();
    create(&open, "acme").await.1.unwrap();
    let patch = DemandsPatch { write_window_seconds: Some(0), ..DemandsPatch::default() };
    open.execute(&caller, SetLabel { name: "internal".parse().unwrap(), patch }).await.unwrap();
    open.execute(&caller, CreateApp { path: key.app.clone() }).await.unwrap();
    open.execute(&caller, CreateKey { name: key.clone(), label: "internal".parse().unwrap() }).await.unwrap();
    open.execute(&caller, RotateKey { name: key, reason: RotationReason::Demand }).await.unwrap();
    let operator = CreateToken { role: Role::Operator, app: None, ttl_seconds: 60 };
    let operator = open.execute(&caller, operator).await.unwrap().text;
    let (gate, counted) = (tokio::sync::Semaphore::new(0), std::sync::atomic::AtomicUsize::new(0));
    let assets = Arc::new(SlowAssets { open: Arc::downgrade(&open), gate, counted });
    open.set_assets(assets.clone());
    (open, assets, operator)
}

fn retire() -> RetireVersion {
    RetireVersion { name: "acme/prod/crm/pii@1".parse().unwrap(), acknowledged: Vec::new() }
}

/// However many changes overtake a count, it is made once, and the retirement gets through.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_others_overtake_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, _) = with_slow_assets(dir.path()).await;
    assets.gate.add_permits(100);
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let shown = open.execute(&caller, ShowEvidence { name: retire().name }).await.unwrap();
    assert_eq!((shown.assets.len(), assets.counted.load(Ordering::SeqCst)), (1, 1));
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let done = open.execute(&caller, retire()).await.unwrap();
    assert_eq!(done.key.versions[0].state, VersionState::Retired);
    assert_eq!(assets.counted.load(Ordering::SeqCst), 2, "once for each request");
    assert_eq!(outcomes(&open, caller.request), [Outcome::Done]);
}

/// A request that cannot wait so long is refused with a record, and the count goes on for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_outlives_the_request_that_began_it() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, operator) = with_slow_assets(dir.path()).await;
    let ask = || Caller::new(Credential::Token(&operator)).unwrap();
    for _ in 0..3 {
        let caller = ask();
        assert_eq!(open.execute(&caller, retire()).await.unwrap_err().code(), "still_counting");
        assert_eq!(outcomes(&open, caller.request), [Outcome::Refused]);
    }
    assets.gate.add_permits(1);
    while open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    open.execute(&ask(), retire()).await.unwrap();
    assert_eq!(assets.counted.load(Ordering::SeqCst), 1);
    // A key that changed in between is counted anew.
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let name = retire().name;
    open.execute(&caller, ReinstateVersion { name: name.clone() }).await.unwrap();
    assert_eq!(open.execute(&ask(), retire()).await.unwrap_err().code(), "still_counting");
    open.execute(&caller, SuspendVersion { name }).await.unwrap();
    assets.gate.add_permits(2);
    assert_eq!(open.execute(&caller, retire()).await.unwrap_err().code(), "retire_blocked");
    assert_eq!(assets.counted.load(Ordering::SeqCst), 3);
}

/// Whoever hung up does not come back: what was counted for him is handed to nobody who asks later.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_nobody_was_told_of_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, _) = with_slow_assets(dir.path()).await;
    let show = |open: Arc<Unsealed>| async move {
        let caller = Caller::new(Credential::LocalOperator).unwrap();
        open.execute(&caller, ShowEvidence { name: retire().name }).await
    };
    let asker = tokio::spawn(show(open.clone()));
    while !open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    asker.abort();
    assert!(asker.await.unwrap_err().is_cancelled());
    assets.gate.add_permits(1);
    while open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    assets.gate.add_permits(1);
    show(open.clone()).await.unwrap();
    assert_eq!(assets.counted.load(Ordering::SeqCst), 2);
}

/// Rows may have come back since a count ended: a version is neither retired nor destroyed by one that is old.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_final_rests_on_a_fresh_count() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let (open, assets, operator) = with_slow_assets_at(dir.path(), clock.clone(), Duration::ZERO).await;
    let name = retire().name;
    // Somebody is told that a count goes on, and it ends.
    let count_ends = async |operator: &str| {
        let caller = Caller::new(Credential::Token(operator)).unwrap();
        let told = open.execute(&caller, ShowEvidence { name: name.clone() }).await.unwrap_err();
        assert_eq!(told.code(), "still_counting");
        assets.gate.add_permits(1);
        while open.counts.any_under_way() {
            tokio::task::yield_now().await;
        }
    };
    let counted = || assets.counted.load(Ordering::SeqCst);
    let caller = || Caller::new(Credential::LocalOperator).unwrap();
    let destroy = || DestroyVersion { name: retire().name, acknowledged: Vec::new() };
    count_ends(&operator).await;
    assets.gate.add_permits(1);
    open.execute(&caller(), retire()).await.unwrap();
    assert_eq!(counted(), 2, "a retirement counts anew");
    // A countdown only begins: at its end it is counted again.
    count_ends(&operator).await;
    assert!(!open.execute(&caller(), destroy()).await.unwrap().destroyed);
    assert_eq!(counted(), 3);
    clock.pass(8 * 86_400);
    assert_eq!(countdown::look(&open).await.unwrap().len(), 1);
    let later = CreateToken { role: Role::Operator, app: None, ttl_seconds: 60 };
    count_ends(&open.execute(&caller(), later).await.unwrap().text).await;
    assert_eq!(counted(), 4);
    assets.gate.add_permits(1);
    assert!(open.execute(&caller(), destroy()).await.unwrap().destroyed);
    assert_eq!(counted(), 5, "a destruction counts anew");
}

/// A count that takes long is asked about less and less often, and when it ends the destruction goes on at once: a count
/// that nobody fetches gets too old, and would be made again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_waits_for_a_count_is_tried_less_and_less_often() {
    for crowded in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::default());
        let (open, assets, _) = with_slow_assets_at(dir.path(), clock.clone(), Duration::from_secs(60)).await;
        let caller = || Caller::new(Credential::LocalOperator).unwrap();
        assets.gate.add_permits(2);
        open.execute(&caller(), retire()).await.unwrap();
        let name = retire().name;
        open.execute(&caller(), DestroyVersion { name: name.clone(), acknowledged: Vec::new() }).await.unwrap();
        clock.pass(8 * 86_400);
        let key = open.key(&name.key).await.unwrap().unwrap();
        let about = About::of(&open, &key, key.keyring.version(name.version).unwrap(), true).await.unwrap();
        let places = crowded.then(|| open.counts.crowd(&about));
        scheduler::tick(&open).await.unwrap();
        for _minute in 1..130 {
            clock.pass(60);
            countdown::tick(&open).await.unwrap();
        }
        let code = if crowded { "too_many" } else { "still_counting" };
        assert_eq!(codes(&open, Action::KeyDestroy, code), 8, "{code}");
        drop(places);
        assets.gate.add_permits(1);
        if crowded {
            clock.pass(6 * 60 * 60);
            countdown::tick(&open).await.unwrap();
        }
        while open.counts.any_under_way() {
            tokio::task::yield_now().await;
        }
        scheduler::tick(&open).await.unwrap();
        let version = open.read_key(&name.key).await.unwrap().unwrap().keyring.version(name.version).unwrap().clone();
        assert_eq!(version.state, VersionState::Destroyed, "{code}");
        assert_eq!(assets.counted.load(Ordering::SeqCst), 3, "{code}: it was counted once more");
    }
}

/// How many records of an action have this code.
fn codes(open: &Unsealed, action: Action, code: &str) -> usize {
    let bodies = open.log().read(0, usize::try_from(open.log().size()).unwrap()).unwrap().into_iter();
    let records = bodies.map(|body| serde_json::from_slice::<Record>(&body.body).unwrap());
    records.filter(|record| record.action == action && record.code.as_deref() == Some(code)).count()
}

/// What a count took is not there for the write window: a request is refused, with a record, before its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_a_window_beyond_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, operator) = with_slow_assets(dir.path()).await;
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let patch = DemandsPatch { write_window_seconds: Some(60), ..DemandsPatch::default() };
    open.execute(&caller, SetLabel { name: "internal".parse().unwrap(), patch }).await.unwrap();
    assets.gate.add_permits(1_000);
    loop {
        let caller = Caller::new(Credential::Token(&operator)).unwrap();
        let limit = std::time::Duration::from_secs(20);
        let done = tokio::time::timeout(limit, open.execute(&caller, retire())).await;
        let error = done.expect("it waits for a window that is open for longer than it may wait").unwrap_err();
        assert_eq!(outcomes(&open, caller.request), [Outcome::Refused]);
        if error.code() == "still_counting" {
            continue;
        }
        assert!(matches!(error, EngineError::WriteWindowOpen { seconds_left: 60 }), "{error}");
        break;
    }
}
