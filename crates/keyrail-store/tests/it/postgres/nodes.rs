//! Several processes over one store: leases, and who does the work of all.

use std::sync::Arc;
use std::time::Duration;

use keyrail_core::fence::{Epoch, LEASE_MILLIS, LeaseRow, Renewal};
use keyrail_core::id::NodeId;
use keyrail_store::{OpenMode, PgLeases, PgStore, RenewError, Renewed, Store, StoreError};
use keyrail_testkit::postgres::{Database, Version, shared};

use super::{numbers, open, store_number};

const HOLDER: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = \
                      (SELECT oid FROM pg_database WHERE datname = current_database())";

fn asked(node: u8, held: Option<u64>, generation: u64) -> Renewal {
    Renewal { node: NodeId::from_bytes([node; 16]), held: held.map(Epoch), generation, millis: LEASE_MILLIS }
}

/// A store of epoch 7 in a database.
async fn at_epoch_seven(version: Version) -> (Database<'static>, Arc<PgStore>) {
    let database = shared(version).database().unwrap();
    let store = open(&database.url(), OpenMode::Create).await.unwrap();
    let head = "INSERT INTO keyrail.audit_head (size, root, peaks, tag, epoch, fence) \
                SELECT 0, zeros, '', zeros, 7, 0 FROM (SELECT decode(repeat('00', 32), 'hex') AS zeros) AS z";
    database.sql(head).unwrap();
    (database, store)
}

async fn epochs(leases: &PgLeases) -> Vec<u64> {
    let mut rows = leases.all().await.unwrap();
    rows.sort_by_key(|row| row.node);
    rows.iter().map(|row| row.epoch.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_processes_write_and_who_only_reads_is_refused() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let first = open(&database.url(), OpenMode::Create).await.unwrap();
        let second = open(&database.url(), OpenMode::Write).await.unwrap();
        store_number(&first, 1).await.unwrap();
        store_number(&second, 2).await.unwrap();
        assert!(matches!(store_number(&second, 1).await, Err(StoreError::Exists { .. })));
        let reader = open(&database.url(), OpenMode::Read).await.unwrap();
        assert_eq!(numbers(&reader).await.unwrap(), 2);
        assert!(matches!(store_number(&reader, 3).await, Err(StoreError::ReadOnly)));
        first.health().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_counted_and_taken_away() {
    for version in Version::ALL {
        let (_database, store) = at_epoch_seven(version).await;
        let (one, two) = (store.leases(), store.leases());
        let granted = one.renew(&asked(1, None, 0)).await.unwrap();
        let row = LeaseRow { node: NodeId::from_bytes([1; 16]), epoch: Epoch(7), millis: LEASE_MILLIS, generation: 1 };
        assert_eq!(granted, Renewed { row, epoch: Epoch(7), works: true });
        // Who asks under a former epoch has the row of that, and is granted the present one.
        let behind = two.renew(&asked(2, Some(5), 0)).await.unwrap();
        assert_eq!((behind.row.epoch, behind.epoch, behind.works), (Epoch(5), Epoch(7), false));
        assert_eq!(epochs(&one).await, [7, 5]);
        let late = two.renew(&asked(2, Some(5), 0)).await.unwrap_err();
        assert!(matches!(late, RenewError::Superseded { found: 1 }), "{late}");
        assert_eq!(two.renew(&asked(2, Some(7), 1)).await.unwrap().row.epoch, Epoch(7));
        // One that was renewed since is not taken away.
        two.remove(&behind.row).await.unwrap();
        one.remove(&granted.row).await.unwrap();
        assert_eq!(epochs(&one).await, [7]);
        let gone = one.renew(&asked(1, Some(7), 1)).await.unwrap_err();
        assert!(matches!(gone, RenewError::Superseded { found: 0 }), "{gone}");
        two.release(NodeId::from_bytes([2; 16])).await.unwrap();
        assert!(epochs(&one).await.is_empty());
    }
}

/// A renewal that comes while a change is being committed waits for it, and grants what holds then: nobody is granted a
/// former epoch whom the change does not see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_beside_a_change_grants_what_holds_after_it() {
    for version in Version::ALL {
        let (database, store) = at_epoch_seven(version).await;
        let changed = std::thread::spawn({
            let url = database.name().to_owned();
            move || {
                let sql = "BEGIN; UPDATE keyrail.audit_head SET epoch = 8; SELECT pg_sleep(1); COMMIT";
                shared(version).sql(&url, sql).unwrap();
            }
        });
        let sleeps = "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname =";
        database.cluster().wait_for(&format!("{sleeps} '{}')", database.name())).unwrap();
        let renewed = store.leases().renew(&asked(1, None, 0)).await.unwrap();
        assert_eq!((renewed.epoch, renewed.row.epoch), (Epoch(8), Epoch(8)));
        changed.join().unwrap();
    }
}

/// The work of all is one node's at a time, and another's when that is gone, was cut off, or is halted for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_does_the_work_of_all() {
    let (database, store) = at_epoch_seven(Version::V15).await;
    let (one, two) = (store.leases(), store.leases());
    assert!(one.renew(&asked(1, None, 0)).await.unwrap().works);
    assert!(!two.renew(&asked(2, None, 0)).await.unwrap().works);
    let end = format!("SELECT pg_terminate_backend(pid, 5000) FROM ({HOLDER}) AS holder");
    assert_eq!(database.sql(&end).unwrap(), "t");
    assert!(two.renew(&asked(2, Some(7), 1)).await.unwrap().works);
    assert!(!one.renew(&asked(1, Some(7), 1)).await.unwrap().works);
    // The holder says nothing any more, and its connection stays open: the server ends that.
    let waited = tokio::time::Instant::now();
    let mut generation = 2;
    while !one.renew(&asked(1, Some(7), generation)).await.unwrap().works {
        generation += 1;
        assert!(waited.elapsed() < Duration::from_secs(60), "it is never given up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(waited.elapsed() > Duration::from_secs(5), "it was taken from a node that lives");
}

/// A raised epoch is told to who listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_lease_hears_of_a_new_epoch() {
    let (database, store) = at_epoch_seven(Version::V18).await;
    let leases = store.leases();
    leases.renew(&asked(1, None, 0)).await.unwrap();
    database.sql("NOTIFY keyrail_epoch").unwrap();
    tokio::time::timeout(Duration::from_secs(30), leases.heard()).await.unwrap();
}
