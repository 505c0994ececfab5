//! Faults of the store and the log: each once as "failed, not stored" and once as "failed but stored".

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use keyrail_audit::AppendError;
use keyrail_core::fence::Epoch;
use keyrail_core::record::{Detail, Outcome, Record};
use keyrail_store::{Change, Condition, Select, SqliteStore, Store, StoreError, Table, Transaction, Value, Write};

use super::*;
use crate::bootstrap::Access;
use crate::engine::{Engine, EngineOptions};
use crate::ops::domain::ListDomains;
use crate::pipeline::{CommitError, fail};
use crate::request::Credential;
use crate::scheduler;
use crate::testing::{FixedClock, create, open_behind, outcomes};

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

    async fn snapshot(&self) -> Result<std::sync::Arc<dyn Store>, StoreError> {
        self.store.snapshot().await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }
}

async fn open(dir: &Path) -> (Arc<Unsealed>, Arc<Breaking>) {
    let gate = tokio::sync::Semaphore::new(0);
    open_behind(dir, |store| Breaking { store, fault: AtomicU8::new(NOTHING), gate }).await
}

async fn names(open: &Arc<Unsealed>) -> Vec<String> {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let rows = open.execute(&caller, ListDomains).await.unwrap();
    let mut names: Vec<_> = rows.into_iter().map(|row| row.name.to_string()).collect();
    names.sort();
    names
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

/// A change that is made waits for its record, and all later changes for it: one that the log takes never is not made.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_record_is_too_long_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let (open, _) = open(dir.path()).await;
    let (request, made) = create(&open, "before").await;
    made.unwrap();
    let bodies = open.log().read(0, 100).unwrap().into_iter();
    let mut records = bodies.map(|body| serde_json::from_slice::<Record>(&body.body).unwrap());
    let mut record = records.find(|record| record.id == request).unwrap();
    record.id = Caller::new(Credential::LocalOperator).unwrap().request;
    let detail = Detail { name: "long".to_owned(), value: "x".repeat(1024 * 1024) };
    record.detail.push(detail);
    let failed = open.commit(Change::new(), &record, open.generation()).await;
    let too_long = |error: &EngineError| matches!(error, EngineError::AuditUnavailable(AppendError::TooLong { .. }));
    assert!(matches!(failed, Err(CommitError::Failed(error)) if too_long(&error)));
    assert!(!open.has_pending());
    create(&open, "after").await.1.unwrap();
    assert_eq!(names(&open).await, ["after", "before"]);
    // The failure has a record, without what made it too long.
    let id = record.id;
    let error = EngineError::AuditUnavailable(AppendError::TooLong { max: 0 });
    let told = fail(&open, Box::new(record), error, open.generation()).await;
    assert!(too_long(&told));
    assert_eq!(outcomes(&open, id), [Outcome::Failed]);
}
