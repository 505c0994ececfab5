//! One process writes; whoever lost that right is refused.

use keyrail_store::{OpenMode, Store, StoreError};
use keyrail_testkit::postgres::{Version, shared};

use super::{numbers, open, store_number};

const HOLDER: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = \
                      (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_may_read_and_not_write() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let first = open(&database.url(), OpenMode::Create).await.unwrap();
        let error = open(&database.url(), OpenMode::Write).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Busy(_)), "{error:?}");
        store_number(&first, 1).await.unwrap();
        let reader = open(&database.url(), OpenMode::Read).await.unwrap();
        assert_eq!(numbers(&reader).await.unwrap(), 1);
        assert!(matches!(store_number(&reader, 2).await, Err(StoreError::ReadOnly)));
        drop(first);
        let second = open(&database.url(), OpenMode::Write).await.unwrap();
        store_number(&second, 2).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_lock_broke_takes_it_again_unless_another_has_it() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let first = open(&database.url(), OpenMode::Create).await.unwrap();
        let end = format!("SELECT pg_terminate_backend(pid, 5000) FROM ({HOLDER}) AS holder");
        assert_eq!(database.sql(&end).unwrap(), "t");
        store_number(&first, 1).await.unwrap();
        assert!(!database.sql(HOLDER).unwrap().is_empty(), "the lock was not taken again");

        assert_eq!(database.sql(&end).unwrap(), "t");
        let second = open(&database.url(), OpenMode::Write).await.unwrap();
        store_number(&second, 2).await.unwrap();
        for error in [store_number(&first, 3).await.unwrap_err(), first.health().await.unwrap_err()] {
            assert!(matches!(error, StoreError::Busy(_)), "{error:?}");
        }
        drop(second);
        let error = store_number(&first, 3).await.unwrap_err();
        assert!(matches!(error, StoreError::TakenOver), "{error:?}");
        assert_eq!(numbers(&first).await.unwrap(), 2);
    }
}

/// A writer that does not know yet that it lost its lock: its transactions are refused by the epoch alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_writer_is_fenced_though_it_believes_to_hold_the_lock() {
    let database = shared(Version::V18).database().unwrap();
    let first = open(&database.url(), OpenMode::Create).await.unwrap();
    store_number(&first, 1).await.unwrap();
    database.sql("UPDATE keyrail.meta SET writer_epoch = writer_epoch + 1").unwrap();
    let error = store_number(&first, 2).await.unwrap_err();
    assert!(matches!(error, StoreError::TakenOver), "{error:?}");
    assert_eq!(numbers(&first).await.unwrap(), 1);
}

/// The next writer's epoch comes after the transactions of the former one that are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_writer_waits_for_what_is_being_committed() {
    let database = shared(Version::V15).database().unwrap();
    let first = open(&database.url(), OpenMode::Create).await.unwrap();
    let slow = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(1); RETURN NEW; END$$; \
                CREATE TRIGGER t BEFORE INSERT ON keyrail.usage FOR EACH ROW EXECUTE FUNCTION f()";
    database.sql(slow).unwrap();
    let writing = tokio::spawn(async move { store_number(&first, 1).await });
    let sleeping = "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%insert%')";
    database.cluster().wait_for(sleeping).unwrap();
    let epoch = database
        .sql("UPDATE keyrail.meta SET writer_epoch = writer_epoch + 1 RETURNING (SELECT count(*) FROM keyrail.usage)");
    epoch.unwrap();
    assert_eq!(database.sql("SELECT count(*) FROM keyrail.usage").unwrap(), "1");
    writing.await.unwrap().unwrap();
}
