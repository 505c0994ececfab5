//! A caller that goes away while the store has its step.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use keyrail_core::id::RequestId;
use keyrail_core::key::VERSIONS_PER_KEY_MAX;
use keyrail_core::name::VersionNumber;
use keyrail_core::record::{Detail, ORIGIN_FIELD_LEN_MAX, Origin};
use keyrail_store::{Condition, Select, SqliteStore, Store, StoreError, Table, Transaction, Value, Write};
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::ops::audit::ShowAudit;
use crate::ops::data::ITEMS_MAX;
use crate::ops::domain::CreateDomain;
use crate::request::{Caller, Credential};
use crate::testing::open_behind;

/// The real store, whose thread does not get to the steps of the count before the gate is opened.
struct Gated {
    store: Arc<SqliteStore>,
    arrived: Notify,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl Store for Gated {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        self.store.select(select).await
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.store.count(table, conditions).await
    }

    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError> {
        let counts = |write: &Write| match write {
            Write::Insert { table, .. } | Write::Update { table, .. } => table.name == "usage_mark",
            _ => false,
        };
        if !transaction.writes.iter().any(counts) {
            return self.store.apply(transaction).await;
        }
        self.arrived.notify_one();
        let (store, gate) = (self.store.clone(), self.gate.clone());
        // As in the store itself, the job goes on when nobody waits for it any more.
        let job = tokio::spawn(async move {
            let _open = gate.acquire().await.unwrap();
            store.apply(transaction).await
        });
        job.await.unwrap()
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

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_caller_is_gone_ends_before_the_next_one_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (open, gated) = open_behind(dir.path(), |store| Gated {
        store: Arc::new(store),
        arrived: Notify::new(),
        gate: Arc::new(Semaphore::new(0)),
    })
    .await;
    let make = CreateDomain { name: "acme".parse().unwrap() };
    open.execute(&Caller::new(Credential::LocalOperator).unwrap(), make).await.unwrap();

    tokio::select! {
        () = gated.arrived.notified() => {}
        done = open.usage().catch_up(&open) => panic!("the step ended behind a closed gate: {done:?}"),
    }
    assert!(open.usage().turn.try_lock().is_err(), "the step is under way, and the next one must wait for it");
    gated.gate.add_permits(1);
    open.usage().catch_up(&open).await.unwrap();
    let mark = open.state().usage_mark().await.unwrap().unwrap();
    assert_eq!(mark, UsageMark { log_index: open.log().size(), generation: 1 });
}

/// The real store, whose first so many steps of a count come after the same step of somebody else.
struct Overtaken {
    store: SqliteStore,
    times: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl Store for Overtaken {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        self.store.select(select).await
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.store.count(table, conditions).await
    }

    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError> {
        let counts = |write: &Write| match write {
            Write::Insert { table, .. } | Write::Update { table, .. } => table.name == "usage_mark",
            _ => false,
        };
        let overtaken = transaction.writes.iter().any(counts)
            && self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if overtaken {
            // The other's step is the same, and then ours finds another generation.
            self.store.apply(transaction.clone()).await?;
        }
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

/// Several may count over one store: each record counts once, and nobody fails for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_counted_meanwhile_is_not_counted_again() {
    let dir = tempfile::tempdir().unwrap();
    let times = std::sync::atomic::AtomicUsize::new(0);
    let (open, store) = open_behind(dir.path(), |store| Overtaken { store, times }).await;
    let last = open.log().read(open.log().size() - 1, 1).unwrap();
    let some: Record = serde_json::from_slice(&last[0].body).unwrap();
    let kid = Kid::from_bytes([7; 16]);
    let used = VersionUse { version: VersionNumber::FIRST, kid, count: 10, opened: false };
    for round in 1..=3_u8 {
        let id = RequestId::from_bytes([round; 16]);
        let record = Record { id, action: Action::DataEncrypt, versions: vec![used], ..some.clone() };
        crate::pipeline::append(&open, &record, open.generation()).await.unwrap();
        store.times.store(1, Ordering::SeqCst);
        open.usage().catch_up(&open).await.unwrap();
        assert_eq!(store.times.load(Ordering::SeqCst), 0, "a step was overtaken");
        assert_eq!(open.usage().encryptions(&open, &kid).await.unwrap(), 10 * u64::from(round));
    }
}

/// What was noted and what has to be read counts the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_many_versions_is_counted_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (open, _store) = open_behind(dir.path(), |store| store).await;
    let last = open.log().read(open.log().size() - 1, 1).unwrap();
    let some: Record = serde_json::from_slice(&last[0].body).unwrap();
    let kids: Vec<Kid> = (0..9).map(|number| Kid::from_bytes([number; 16])).collect();
    for (round, count) in [1, 3, 9, 2].into_iter().enumerate() {
        let used = kids.iter().take(count).map(|kid| VersionUse {
            version: VersionNumber::FIRST,
            kid: *kid,
            count: 10,
            opened: false,
        });
        let id = RequestId::from_bytes([round as u8; 16]);
        let record = Record { id, action: Action::DataEncrypt, versions: used.collect(), ..some.clone() };
        crate::pipeline::append(&open, &record, open.generation()).await.unwrap();
    }
    assert_eq!(open.usage().fresh.lock().len(), 3);
    open.usage().catch_up(&open).await.unwrap();
    assert!(open.usage().fresh.lock().is_empty());
    let mut found = Vec::new();
    for kid in &kids {
        found.push(open.usage().encryptions(&open, kid).await.unwrap());
    }
    assert_eq!(found, [40, 30, 20, 10, 10, 10, 10, 10, 10]);
}

/// The longest record there is names every version of a key, as opened, and the active one: it is not refused, and use is counted under all.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_all_versions_of_a_key_fits_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (open, _store) = open_behind(dir.path(), |store| store).await;
    let index = open.log().size();
    let last = open.log().read(index - 1, 1).unwrap();
    let some: Record = serde_json::from_slice(&last[0].body).unwrap();
    let max = u32::try_from(VERSIONS_PER_KEY_MAX).unwrap();
    let used = |number: u32, opened| {
        let mut kid = [0xff; 16];
        kid[..4].copy_from_slice(&number.to_be_bytes());
        let version = VersionNumber::new(number).unwrap();
        VersionUse { version, kid: Kid::from_bytes(kid), count: ITEMS_MAX as u64, opened }
    };
    let versions: Vec<_> =
        std::iter::once(used(max, false)).chain((1..=max).map(|number| used(number, true))).collect();
    let said = || Some("x".repeat(ORIGIN_FIELD_LEN_MAX));
    let origin = Origin {
        app: said(),
        component: said(),
        environment: said(),
        build: said(),
        from: said(),
        trace: said(),
        caller_request: said(),
    };
    let id = RequestId::from_bytes([9; 16]);
    let record = Record { id, action: Action::DataReencrypt, versions, origin, ..some };
    crate::pipeline::append(&open, &record, open.generation()).await.unwrap();
    let counts = count_records(&open, index, open.log().size()).unwrap();
    assert_eq!(counts.len(), VERSIONS_PER_KEY_MAX + 1);
    assert!(counts.values().all(|count| count.count == ITEMS_MAX as u64));
}

/// However long records are, not more than a bundle of them is held, and a page of them has a limit in bytes, too.
#[tokio::test(flavor = "multi_thread")]
async fn long_records_are_read_a_bundle_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (open, _store) = open_behind(dir.path(), |store| store).await;
    let last = open.log().read(open.log().size() - 1, 1).unwrap();
    let some: Record = serde_json::from_slice(&last[0].body).unwrap();
    let kid = Kid::from_bytes([7; 16]);
    let used = VersionUse { version: VersionNumber::FIRST, kid, count: 1, opened: false };
    let some = Record { action: Action::DataEncrypt, versions: vec![used], ..some };
    for number in 0_u16..300 {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let long = if number < 290 { 1 } else { 900_000 };
        let detail = vec![Detail { name: "note".to_owned(), value: "x".repeat(long) }];
        let record = Record { id: RequestId::from_bytes(id), detail, ..some.clone() };
        crate::pipeline::append(&open, &record, open.generation()).await.unwrap();
    }
    assert_eq!(open.log().read_bundle(250, 1_000).unwrap().len(), 6);
    open.usage().take_fresh(u64::MAX);
    open.usage().catch_up(&open).await.unwrap();
    assert_eq!(open.usage().encryptions(&open, &kid).await.unwrap(), 300);

    let size = open.log().size();
    let (mut before, mut pages, mut found) = (Some(size), Vec::new(), Vec::new());
    while before.is_some() {
        let caller = Caller::new(Credential::LocalOperator).unwrap();
        let page = open.execute(&caller, ShowAudit { before, limit: 280 }).await.unwrap();
        pages.push(page.records.len());
        found.extend(page.records.iter().map(|row| row.index));
        before = page.before;
    }
    assert_eq!(pages, [9, 280, usize::try_from(size).unwrap() - 289]);
    assert!(found.into_iter().eq((0..size).rev()));
}
