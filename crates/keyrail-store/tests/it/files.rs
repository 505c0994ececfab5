//! The store's file: how it is opened, what is refused, and what another process does to it.

use std::time::{Duration, Instant};

use keyrail_core::id::RequestId;
use keyrail_core::usage::{Usage, UsageCount, UsageKey, UsagePlace};
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::secret::StoreKey;
use keyrail_store::{Change, FindingKind, LIST_ROWS_MAX, OpenMode, SCHEMA_VERSION, SqliteStore, StoreError};
use rusqlite::Connection;

use crate::rows::{AT, domain, fill, open, outbox};

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(open(&path, &StoreKey::generate().unwrap()));
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA user_version = 99").unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    for mode in [OpenMode::Create, OpenMode::Write, OpenMode::Read] {
        let error = SqliteStore::open(&path, mode).err().unwrap();
        assert!(matches!(error, StoreError::UnknownSchema { found: 99, known } if known == SCHEMA_VERSION));
        assert_eq!(
            error.to_string(),
            format!("the store has schema 99, and this program knows up to {SCHEMA_VERSION}")
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("people.sqlite");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE people (id INTEGER)").unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "not a database, but long enough to look like the header of one; ".repeat(20)).unwrap();
    for path in [&foreign, &text] {
        let before = std::fs::read(path).unwrap();
        for mode in [OpenMode::Create, OpenMode::Write, OpenMode::Read] {
            let error = SqliteStore::open(path, mode).err().unwrap();
            // A file that no SQLite reads may have been a store once.
            let refused = matches!(error, StoreError::NotAStore { .. } | StoreError::Damaged(_));
            assert!(refused, "{}: {error}", path.display());
            assert_eq!(std::fs::read(path).unwrap(), before);
        }
    }
}

/// However many wait, none waits longer than the limit for a file that another process holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_is_an_error_after_a_limit_and_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let state = open(&path, &StoreKey::generate().unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let state = state.clone();
        waiting.spawn(async move {
            let mut change = Change::new();
            change.insert(&domain());
            state.commit(change.unrecorded("a row")).await
        });
    }
    // Who only reads does not wait.
    assert!(state.domains().await.unwrap().is_empty());
    for result in waiting.join_all().await {
        assert!(matches!(result, Err(StoreError::Busy(_))), "{result:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    let mut change = Change::new();
    change.insert(&domain());
    state.commit(change.unrecorded("a row")).await.unwrap();
}

#[tokio::test]
async fn a_list_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir.path().join("s"), &StoreKey::generate().unwrap());
    let row = |number: usize| Usage {
        key: UsageKey {
            kid: Kid::from_bytes([1; 16]),
            principal: format!("token:{number}"),
            action: keyrail_core::access::Action::DataEncrypt,
            place: UsagePlace::Outside,
        },
        count: UsageCount::once(1, AT),
        generation: 1,
    };
    let mut change = Change::new();
    for number in 0..LIST_ROWS_MAX - 1 {
        change.insert(&row(number));
    }
    state.commit(change.unrecorded("many rows")).await.unwrap();
    assert_eq!(state.usage_of(&Kid::from_bytes([1; 16])).await.unwrap().len(), LIST_ROWS_MAX - 1);
    let mut change = Change::new();
    change.insert(&row(LIST_ROWS_MAX)).insert(&row(LIST_ROWS_MAX + 1));
    state.commit(change.unrecorded("two more")).await.unwrap();
    let error = state.usage_of(&Kid::from_bytes([1; 16])).await.unwrap_err();
    assert!(matches!(error, StoreError::TooMany { table: "usage", max: LIST_ROWS_MAX }));
    // A page has one too, whatever is asked for.
    let page = state.page::<Usage>(Vec::new(), &["kid", "principal"], None, usize::MAX).await.unwrap();
    assert_eq!(page.len(), keyrail_store::SELECT_ROWS_MAX);
}

/// Who changes the schema by hand is seen, also where every row is whole.
#[tokio::test]
async fn a_changed_schema_is_found() {
    for change in [
        "DROP INDEX data_key_version_one_active",
        "CREATE TRIGGER quiet BEFORE INSERT ON token BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TABLE more (id INTEGER)",
        "CREATE VIEW more AS SELECT * FROM token",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let key = StoreKey::generate().unwrap();
        let state = open(&path, &key);
        let rows = fill(&state).await;
        state.commit(rows.recorded(outbox(1))).await.unwrap();
        assert_eq!(state.verify_all().await.unwrap(), []);
        Connection::open(&path).unwrap().execute_batch(change).unwrap();
        drop(state);
        let findings = open(&path, &key).verify_all().await.unwrap();
        assert_eq!(findings.len(), 1, "{change}: {findings:?}");
        assert!(matches!(findings[0].kind, FindingKind::Database { .. }));
    }
}

/// A store of the first schema, with rows that its program sealed: after the migration each reads as it was.
#[tokio::test]
async fn rows_of_the_first_schema_keep_their_seals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let key = StoreKey::generate().unwrap();
    let state = open(&path, &key);
    let rows = crate::rows::fill_first_schema(&state).await;
    state.commit(rows.recorded(outbox(1))).await.unwrap();
    drop(state);
    let back = concat!(
        include_str!("../../src/sqlite/migrations/0006-map.down.sql"),
        include_str!("../../src/sqlite/migrations/0005-roots.down.sql"),
        include_str!("../../src/sqlite/migrations/0004-schema.down.sql"),
        include_str!("../../src/sqlite/migrations/0003-scrub.down.sql"),
        include_str!("../../src/sqlite/migrations/0002-began.down.sql")
    );
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(&format!("BEGIN; {back} PRAGMA user_version = 1; COMMIT")).unwrap();
    drop(connection);
    let read = SqliteStore::open(&path, OpenMode::Read).err().unwrap();
    assert!(matches!(read, StoreError::OldSchema { found: 1, known } if known == SCHEMA_VERSION), "{read}");
    let state = open(&path, &key);
    let request = RequestId::from_bytes([9; 16]);
    let staged = state.build_map(request).await.unwrap();
    state.commit_staged(staged, &outbox(9)).await.unwrap();
    assert_eq!(state.verify_all().await.unwrap(), []);
    let (_, keyring) = state.keyrings_page(None, None, 10).await.unwrap().remove(0);
    let wait = keyring.versions[0].destroy.unwrap();
    assert_eq!((wait.observed_seconds, wait.began_at), (3, None));
    // A value where there was none is an altered row.
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE data_key_version SET destroy_began_at = 1 WHERE version = 1", []).unwrap();
    let findings = state.verify_all().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].table, &findings[0].kind), ("data_key_version", &FindingKind::Altered));
}

#[test]
fn a_file_that_is_not_there_is_not_made_by_reading() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [OpenMode::Read, OpenMode::Write] {
        assert!(matches!(SqliteStore::open(&dir.path().join("s"), mode), Err(StoreError::File { .. })));
        assert!(!dir.path().join("s").exists());
    }
}
