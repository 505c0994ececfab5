//! A change and its record in one transaction.

use std::sync::Arc;
use std::time::Duration;

use keyrail_audit::{AppendError, Enclosed, Fencing, Log, RowsOptions};
use keyrail_core::fence::Epoch;
use keyrail_core::id::RequestId;
use keyrail_store::{Fault, OpenMode, PgStore, Store, StoreError, Transaction, Write};
use keyrail_testkit::postgres::{Database, Version, shared};

use super::{numbers, open, row_of};
use crate::support::KeptKeys;

/// A store with a log, both in one database.
struct Node {
    database: Database<'static>,
    store: Arc<PgStore>,
    log: Log,
}

impl Node {
    async fn new(version: Version) -> Self {
        let database = shared(version).database().unwrap();
        let store = open(&database.url(), OpenMode::Create).await.unwrap();
        let kept = KeptKeys::generate();
        let rows = store.log();
        let (mut creator, reader) = (rows.another(), rows.another());
        let origin = "keyrail.test/enclosed";
        let create = || Log::create_rows(origin, &kept.keys(), &mut creator).map(drop);
        tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(create).join().unwrap())).unwrap();
        let options = RowsOptions::new(origin.to_owned());
        let opened = || Log::open_rows(&options, kept.keys(), Box::new(rows), Box::new(reader));
        let log = tokio::task::block_in_place(opened).unwrap();
        Self { database, store, log }
    }

    fn enclosed(&self, request: u8, fencing: Fencing) -> Arc<Enclosed> {
        let body = format!("change {request}").into_bytes();
        Arc::new(self.log.enclose(body, RequestId::from_bytes([request; 16]), fencing).unwrap().unwrap())
    }

    /// Stores a row under `number` with the record of a request.
    async fn change(&self, number: i64, request: u8, fencing: Fencing) -> Result<u64, StoreError> {
        let enclosed = self.enclosed(request, fencing);
        self.store_with(number, enclosed.clone()).await?;
        Ok(enclosed.place().unwrap().index)
    }

    async fn store_with(&self, number: i64, enclosed: Arc<Enclosed>) -> Result<(), StoreError> {
        let (table, values) = row_of(number);
        let writes = vec![Write::Insert { table, values }];
        self.store.apply(Transaction { enclosed: Some(enclosed), ..Transaction::of(writes) }).await
    }

    /// Size and epoch of the head.
    fn head(&self) -> String {
        self.database.sql("SELECT size || ' ' || epoch FROM keyrail.audit_head").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_and_its_record_are_stored_together_or_not_at_all() {
    for version in Version::ALL {
        let node = Node::new(version).await;
        let epoch = Epoch(0);
        assert_eq!(node.log.append(b"before".to_vec(), epoch).await.unwrap().index, 0);
        assert_eq!(node.change(1, 1, Fencing::Raises(epoch)).await.unwrap(), 1);
        assert_eq!((node.log.epoch(), node.log.size(), node.head()), (Epoch(1), 2, "2 1".to_owned()));
        // The row is there already.
        let refused = node.change(1, 2, Fencing::Raises(Epoch(1))).await.unwrap_err();
        assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
        assert_eq!(node.head(), "2 1");
        // What no decision depends on leaves the epoch.
        assert_eq!(node.change(2, 3, Fencing::Leaves).await.unwrap(), 2);
        assert_eq!(node.head(), "3 1");
        let read = tokio::task::block_in_place(|| node.log.read(0, 10)).unwrap();
        let bodies: Vec<_> = read.iter().map(|record| record.body.as_slice()).collect();
        assert_eq!(bodies, [b"before".as_slice(), b"change 1", b"change 3"]);
    }
}

/// Under an older epoch neither a change nor a record comes into being, and no node has to be told before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_changed_or_recorded_under_an_older_epoch() {
    for version in Version::ALL {
        let node = Node::new(version).await;
        node.change(1, 1, Fencing::Raises(Epoch(0))).await.unwrap();
        // Another node, of which this one has heard nothing.
        node.database.sql("UPDATE keyrail.audit_head SET epoch = epoch + 1").unwrap();
        assert_eq!(node.log.epoch(), Epoch(1));
        let refused = node.change(2, 2, Fencing::Raises(Epoch(1))).await.unwrap_err();
        assert!(matches!(refused, StoreError::Fenced), "{refused}");
        assert_eq!((node.head(), numbers(&node.store).await.unwrap()), ("1 2".to_owned(), 1));
        assert_eq!(node.log.epoch(), Epoch(2), "the refusal says what holds now");
        assert_eq!(node.log.append(b"late".to_vec(), Epoch(1)).await, Err(AppendError::Fenced));
        node.change(2, 3, Fencing::Raises(Epoch(2))).await.unwrap();
    }
}

const SLOW: &str = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
                    $$BEGIN PERFORM pg_sleep(1); RETURN NEW; END$$; \
                    CREATE TRIGGER t BEFORE INSERT ON keyrail.usage FOR EACH ROW EXECUTE FUNCTION f()";
/// Who sleeps in a database.
fn sleeping(database: &Database<'_>) -> String {
    format!("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '{}'", database.name())
}

/// A change on its way is waited for; one that is lost stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_change_is_found_out_for_good() {
    for version in Version::ALL {
        let node = Arc::new(Node::new(version).await);
        let sleeping = sleeping(&node.database);
        let change = |number: u8, epoch: u64| node.enclosed(number, Fencing::Raises(Epoch(epoch)));
        let (first, second) = (change(1, 0), change(2, 1));
        node.store_with(1, first.clone()).await.unwrap();
        assert!(node.store.settle(first).await.unwrap());
        assert!(!node.store.settle(second).await.unwrap());
        node.database.sql(SLOW).unwrap();
        let changing = |number: i64, change: Arc<Enclosed>| {
            let node = node.clone();
            tokio::spawn(async move { node.store_with(number, change).await })
        };
        let third = change(3, 1);
        let under_way = changing(3, third.clone());
        node.database.cluster().wait_for(&format!("EXISTS ({sleeping})")).unwrap();
        assert!(node.store.settle(third).await.unwrap(), "it was waited for");
        under_way.await.unwrap().unwrap();
        let fourth = change(4, 2);
        let killed = changing(4, fourth.clone());
        node.database.cluster().wait_for(&format!("EXISTS ({sleeping})")).unwrap();
        node.database.sql(&format!("SELECT pg_terminate_backend(pid, 5000) FROM ({sleeping}) AS s")).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), killed).await.unwrap().unwrap();
        // It is tried once more when it was lost before its commit.
        assert_eq!(node.store.settle(fourth).await.unwrap(), ended.is_ok());
    }
}

/// Who can write to the database can put a row where a change would be looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_record_in_its_place_is_not_taken_for_a_change() {
    let node = Node::new(Version::V15).await;
    node.change(1, 1, Fencing::Raises(Epoch(0))).await.unwrap();
    let second = node.enclosed(2, Fencing::Raises(Epoch(1)));
    let node_of = |number: u8| format!("decode('{}', 'hex')", hex::encode([number; 16]));
    let sql = format!("UPDATE keyrail.audit_batch SET node = {} WHERE node = {}", node_of(2), node_of(1));
    node.database.sql(&sql).unwrap();
    let error = node.store.settle(second).await.unwrap_err();
    assert!(matches!(error, StoreError::Log(_)) && error.fault() == Fault::StoredData, "{error}");
}
