//! An older copy of the rows under the present log, and rows that the log does not tell of.

use std::path::Path;

use keyrail_core::access::Action;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::system::{SetLocalOperator, VerifyStore};
use keyrail_engine::{Access, Engine, EngineError, EngineOptions};
use rusqlite::Connection;

use crate::support::{TestClock, encrypt, open, records, run, tick, with_key};

async fn refused(dir: &Path, access: Access) -> String {
    let options = EngineOptions { data_dir: dir.to_owned(), access, clock: TestClock::new(), assets: None };
    let engine = Engine::open(options).unwrap();
    let error = engine.unseal().await.unwrap_err();
    assert!(engine.unsealed().is_err());
    format!("{}: {error}", error.code())
}

async fn close(engine: Engine) {
    engine.close().await.unwrap();
}

fn sql(dir: &Path, text: &str) {
    Connection::open(dir.join("store.sqlite")).unwrap().execute_batch(text).unwrap();
}

fn keep(dir: &Path) -> Vec<u8> {
    sql(dir, "PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::read(dir.join("store.sqlite")).unwrap()
}

fn put_back(dir: &Path, store: &[u8]) {
    for beside in ["store.sqlite-wal", "store.sqlite-shm"] {
        let _absent = std::fs::remove_file(dir.join(beside));
    }
    std::fs::write(dir.join("store.sqlite"), store).unwrap();
}

/// All tables as they were before a change, which a revoked token or a retired version would like. The log is as it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_rows_is_refused_under_the_present_log() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = with_key(dir.path(), &clock, "internal").await;
    close(engine).await;
    let before = keep(dir.path());
    let engine = open(dir.path(), &clock, Access::Write).await;
    run(&engine, SetLocalOperator { allowed: true }).await.unwrap();
    close(engine).await;
    let after = keep(dir.path());

    put_back(dir.path(), &before);
    for access in [Access::Write, Access::Read] {
        let said = refused(dir.path(), access).await;
        assert!(said.starts_with("state_older: state is older than the log: generation "), "{said}");
    }
    // What is of the same time is accepted.
    put_back(dir.path(), &after);
    let engine = open(dir.path(), &clock, Access::Write).await;
    assert_eq!(run(&engine, VerifyStore).await.unwrap().findings.len(), 0);
    close(engine).await;
}

/// A map that was ever whole stands in the log: without one it is gone, and not still to be made.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_gone_is_not_made_anew() {
    let down = include_str!("../../../keyrail-store/src/sqlite/migrations/0006-map.down.sql");
    let unfinished = "UPDATE map_head SET recorded = NULL".to_owned();
    for what in [
        "DELETE FROM map_head; DELETE FROM map_node".to_owned(),
        "DELETE FROM map_head".to_owned(),
        format!("{down} PRAGMA user_version = 5"),
        unfinished.clone(),
    ] {
        let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
        close(with_key(dir.path(), &clock, "internal").await).await;
        sql(dir.path(), &what);
        let said = refused(dir.path(), Access::Write).await;
        if what == unfinished {
            assert!(said.starts_with("store_damaged"), "{said}");
        } else {
            assert!(said.contains("generation 0, the log says"), "{what}: {said}");
        }
    }
}

/// Whoever takes the record of the last change away, from the log's end or from the outbox, is told by the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_its_record_is_refused() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = with_key(dir.path(), &clock, "internal").await;
    close(engine).await;
    let former = tempfile::tempdir().unwrap();
    for part in ["audit", "journal"] {
        copy(&dir.path().join(part), &former.path().join(part));
    }
    sql(dir.path(), "CREATE TABLE former AS SELECT * FROM log_head");
    let engine = open(dir.path(), &clock, Access::Write).await;
    run(&engine, CreateDomain { name: "later".parse().unwrap() }).await.unwrap();
    close(engine).await;
    for part in ["audit", "journal"] {
        std::fs::remove_dir_all(dir.path().join(part)).unwrap();
        copy(&former.path().join(part), &dir.path().join(part));
    }
    // The head that the store remembers tells it first. Whoever puts that back as well is told by the change.
    assert!(refused(dir.path(), Access::Write).await.starts_with("log_older"));
    sql(dir.path(), "DELETE FROM log_head; INSERT INTO log_head SELECT * FROM former; DELETE FROM outbox");
    let said = refused(dir.path(), Access::Write).await;
    assert!(said.starts_with("state_unrecorded: the state holds a change without its record: generation "), "{said}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// A row that is put back while the store is open is refused by the operation that reads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_put_back_is_refused_by_the_operation_that_reads_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = with_key(dir.path(), &clock, "internal").await;
    sql(dir.path(), "CREATE TABLE former AS SELECT * FROM setting");
    run(&engine, SetLocalOperator { allowed: true }).await.unwrap();
    sql(dir.path(), "DELETE FROM setting; INSERT INTO setting SELECT * FROM former");
    let error = run(&engine, SetLocalOperator { allowed: true }).await.unwrap_err();
    assert_eq!(error.code(), "store_damaged");
    let EngineError::Store(error) = error else { panic!("{error}") };
    assert_eq!(error.to_string(), "a row of `setting` is not the one that was last written: local-operator");
}

/// Where only bookkeeping moved the rows, the log is told of it after a minute; where nothing did, it is not.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_told_of_the_rows_also_without_a_change() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = with_key(dir.path(), &clock, "internal").await;
    let told = |engine: &Engine| {
        records(engine).into_iter().filter(|(_, record)| record.action == Action::SystemState).count()
    };
    assert!(records(&engine).iter().all(|(_, record)| record.state.is_some()), "every record so far is of a change");
    encrypt(&engine, "text").await;
    assert!(records(&engine).last().unwrap().1.state.is_none());
    tick(&engine, 70).await;
    assert_eq!(told(&engine), 1);
    let generations: Vec<_> =
        records(&engine).iter().filter_map(|(_, record)| record.state).map(|state| state.generation).collect();
    assert!(generations.is_sorted_by(|former, next| former < next), "{generations:?}");
    tick(&engine, 120).await;
    let before = told(&engine);
    tick(&engine, 120).await;
    assert_eq!(told(&engine), before, "it is told of what it knows");
    close(engine).await;
    open(dir.path(), &clock, Access::Write).await;
}
