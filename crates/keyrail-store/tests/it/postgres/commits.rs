//! Commits: what they wait for, what their errors mean, and what is called unknown.

use keyrail_store::{Durability, OpenMode, StoreError};
use keyrail_testkit::postgres::{Cluster, Version, shared};

use super::{numbers, open, open_with, store_number};

/// What the server is told to fail with, at a statement and at the commit, and what that means.
#[tokio::test]
async fn every_error_of_the_server_has_its_meaning() {
    type Is = fn(&StoreError) -> bool;
    let rows: [(&str, Is, Is); 8] = [
        ("53100", |error| matches!(error, StoreError::Full(_)), |error| matches!(error, StoreError::Full(_))),
        ("55P03", |error| matches!(error, StoreError::Busy(_)), |error| matches!(error, StoreError::Busy(_))),
        ("57014", |error| matches!(error, StoreError::Busy(_)), |error| matches!(error, StoreError::Busy(_))),
        ("40001", |error| matches!(error, StoreError::Busy(_)), |error| matches!(error, StoreError::Busy(_))),
        ("25006", |error| matches!(error, StoreError::ReadOnly), |error| matches!(error, StoreError::ReadOnly)),
        ("XX001", |error| matches!(error, StoreError::Damaged(_)), |error| matches!(error, StoreError::Damaged(_))),
        (
            "23514",
            |error| matches!(error, StoreError::Constraint { table: "usage", .. }),
            |error| matches!(error, StoreError::Constraint { .. }),
        ),
        // An error without a meaning of ours is not known to have undone a commit.
        (
            "58030",
            |error| matches!(error, StoreError::Database(_)),
            |error| matches!(error, StoreError::Indeterminate { .. }),
        ),
    ];
    let database = shared(Version::V18).database().unwrap();
    let store = open(&database.url(), OpenMode::Create).await.unwrap();
    for (code, at_statement, at_commit) in rows {
        for (kind, is_right) in [("TRIGGER t BEFORE", at_statement), ("CONSTRAINT TRIGGER t AFTER", at_commit)] {
            let deferred = if kind.starts_with('C') { "DEFERRABLE INITIALLY DEFERRED" } else { "" };
            let plant = format!(
                "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
                 $$BEGIN RAISE EXCEPTION 'a row with secret-value' USING ERRCODE = '{code}'; END$$; \
                 CREATE {kind} INSERT ON keyrail.usage {deferred} FOR EACH ROW EXECUTE FUNCTION f()"
            );
            database.sql(&plant).unwrap();
            let error = store_number(&store, 1).await.unwrap_err();
            assert!(is_right(&error), "{code} {kind}: {error:?}");
            if !matches!(code, "53100" | "55P03" | "57014" | "40001" | "58030") {
                assert!(!format!("{error:?}").contains("secret-value"), "{error:?}");
            }
            database.sql("DROP TRIGGER t ON keyrail.usage").unwrap();
            assert_eq!(numbers(&store).await.unwrap(), 0);
        }
    }
    store_number(&store, 1).await.unwrap();
}

/// A transaction that the server undid for the sake of another one is done again, a few times.
#[tokio::test]
async fn serialization_failures_are_done_again_within_a_limit() {
    let database = shared(Version::V15).database().unwrap();
    let store = open(&database.url(), OpenMode::Create).await.unwrap();
    database.sql("CREATE SEQUENCE tries; CREATE TABLE faults (n int); INSERT INTO faults VALUES (3)").unwrap();
    let plant = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
                 IF nextval('public.tries') % 100 <= (SELECT n FROM public.faults) THEN \
                 RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END IF; RETURN NEW; END$$; \
                 CREATE TRIGGER t BEFORE INSERT ON keyrail.usage FOR EACH ROW EXECUTE FUNCTION f()";
    database.sql(plant).unwrap();
    store_number(&store, 1).await.unwrap();
    assert_eq!(database.sql("SELECT last_value FROM tries").unwrap(), "4");
    database.sql("UPDATE faults SET n = 99; SELECT setval('tries', 100)").unwrap();
    let error = store_number(&store, 2).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy(_)), "{error:?}");
    let tries = 101 + keyrail_store::postgres_limits::POSTGRES_RETRIES_MAX;
    assert_eq!(database.sql("SELECT last_value FROM tries").unwrap(), tries.to_string());
}

/// With a demand for a standby a change is refused where none is waited for, and answered once one has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_its_standby_or_is_not_called_done() {
    for version in Version::ALL {
        let primary = Cluster::start(version).unwrap();
        let url = primary.url("postgres");
        let store = open_with(&url, OpenMode::Create, Durability::Standby).await.unwrap();
        assert_eq!(store.durability().await.unwrap(), Durability::LocalOnly);
        let error = store_number(&store, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::NoStandby), "{error:?}");
        assert_eq!(numbers(&store).await.unwrap(), 0);

        let standby = primary.standby("second").unwrap();
        primary.wait_on_standbys("second").unwrap();
        assert_eq!(store.durability().await.unwrap(), Durability::Standby);
        store_number(&store, 1).await.unwrap();
        let copy = "SELECT count(*) FROM keyrail.usage";
        standby.wait_for(&format!("({copy}) = 1")).unwrap();

        // A standby that is silent: the commit is there and on one disk only, which is what must not be called done.
        standby.pause().unwrap();
        let error = store_number(&store, 2).await.unwrap_err();
        assert!(matches!(error, StoreError::Indeterminate { .. }), "{error:?}");
        // Somebody breaks off the wait.
        let (result, ()) = tokio::join!(store_number(&store, 3), async {
            let waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            primary.wait_for("EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')").unwrap();
            while !primary.sql("postgres", waiting).unwrap().is_empty() {}
        });
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Indeterminate { .. }), "{error:?}");
        standby.resume().unwrap();
        store_number(&store, 4).await.unwrap();
        standby.wait_for(&format!("({copy}) = 4")).unwrap();

        // Standbys that are named no more are noticed by the next change.
        primary.wait_on_standbys("").unwrap();
        let error = store_number(&store, 5).await.unwrap_err();
        assert!(matches!(error, StoreError::NoStandby), "{error:?}");
        assert_eq!(numbers(&store).await.unwrap(), 4);
    }
}

/// Each connection waits for the disk whatever the server's default is.
#[tokio::test]
async fn a_server_that_does_not_sync_is_refused_and_a_lax_default_overruled() {
    use keyrail_testkit::postgres::Options;
    let lax = Cluster::start_with(&Options::new(Version::V18).set("fsync", "off")).unwrap();
    let error = open(&lax.url("postgres"), OpenMode::Create).await.map(drop).unwrap_err();
    assert!(matches!(error, StoreError::UnfitServer { setting: "fsync", .. }), "{error:?}");
    let database = shared(Version::V18).database().unwrap();
    let name = database.name();
    database.sql(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).unwrap();
    let store = open(&database.url(), OpenMode::Create).await.unwrap();
    let plant = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
                 IF current_setting('synchronous_commit') <> 'on' THEN RAISE EXCEPTION 'lax'; END IF; RETURN NEW; END$$; \
                 CREATE TRIGGER t BEFORE INSERT ON keyrail.usage FOR EACH ROW EXECUTE FUNCTION f()";
    database.sql(plant).unwrap();
    store_number(&store, 1).await.unwrap();
}
