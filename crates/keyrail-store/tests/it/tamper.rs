//! Rows that were altered behind Keyrail's back are told, by table and key.

use keyrail_crypto::secret::StoreKey;
use keyrail_store::{FindingKind, TABLES};
use rusqlite::Connection;

use crate::rows::{fill, open, outbox};

#[tokio::test]
async fn every_altered_value_of_every_table_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let key = StoreKey::generate().unwrap();
    let state = open(&path, &key);
    let change = fill(&state).await;
    state.commit(change.recorded(outbox(1))).await.unwrap();
    drop(state);
    Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let mut altered = 0;
    for table in TABLES {
        for column in table.columns.iter().chain(&["seal"]) {
            let sql = format!(
                "UPDATE \"{0}\" SET \"{1}\" = CASE typeof(\"{1}\") WHEN 'integer' THEN \"{1}\" + 1 WHEN 'text' THEN \"{1}\" || 'x' WHEN 'blob' THEN randomblob(max(length(\"{1}\"), 1)) ELSE NULL END \
                 WHERE \"{1}\" IS NOT NULL AND (SELECT count(*) FROM \"{0}\") > 0 AND \"{2}\" = (SELECT min(\"{2}\") FROM \"{0}\" WHERE \"{1}\" IS NOT NULL)",
                table.name, column, table.key[0]
            );
            let copy = dir.path().join(format!("{}-{column}", table.name));
            std::fs::copy(&path, &copy).unwrap();
            let attacker = Connection::open(&copy).unwrap();
            attacker.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").unwrap();
            let changed = attacker.execute(&sql, []);
            drop(attacker);
            if !changed.is_ok_and(|rows| rows > 0) {
                continue;
            }
            altered += 1;
            let state = open(&copy, &key);
            let findings = state.verify_all().await.unwrap();
            drop(state);
            assert!(
                findings.iter().any(|finding| finding.table == table.name && finding.kind == FindingKind::Altered),
                "{}.{column}: {findings:?}",
                table.name
            );
        }
    }
    assert!(altered > 130, "only {altered} values were altered");
}

#[tokio::test]
async fn a_row_does_not_pass_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let key = StoreKey::generate().unwrap();
    let state = open(&path, &key);
    let change = fill(&state).await;
    state.commit(change.recorded(outbox(1))).await.unwrap();
    let attacker = Connection::open(&path).unwrap();
    // The wrapped key and seal of one version under the id of another.
    attacker
        .execute_batch("UPDATE data_key_version SET wrapped = (SELECT wrapped FROM data_key_version WHERE version = 1), seal = (SELECT seal FROM data_key_version WHERE version = 1), state = 'deactivated' WHERE version = 2")
        .unwrap();
    let findings = state.verify_all().await.unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].id, "02".repeat(16));
    assert!(state.data_key_version(&keyrail_crypto::envelope::Kid::from_bytes([2; 16])).await.is_err());
}

/// Binding alone cannot see that a row is missing, or older than it should be: the limit that `SECURITY.md` tells.
#[tokio::test]
async fn a_missing_row_is_not_seen_by_seals_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let state = open(&path, &StoreKey::generate().unwrap());
    let change = fill(&state).await;
    state.commit(change.recorded(outbox(1))).await.unwrap();
    Connection::open(&path).unwrap().execute_batch("DELETE FROM token").unwrap();
    assert_eq!(state.verify_all().await.unwrap(), []);
}
