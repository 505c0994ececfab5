//! Pages of the adapter itself, with somebody else in between.

use keyrail_core::asset::IdentityKind;
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_data::AssetError;
use keyrail_data::adapter::{self, AssetAdapter, AssetSpec, CellSpec, ColumnUpdate, Row, RowUpdate};
use keyrail_data::value::Sql;
use keyrail_engine::EngineError;
use keyrail_testkit::postgres::{Database, Version, shared};

fn open(database: &Database<'_>) -> Box<dyn AssetAdapter> {
    adapter::open(&AssetSpec {
        asset: AssetId::from_bytes([1; 16]),
        url: database.url(),
        schema: None,
        table: "t".to_owned(),
        identity: IdentityKind::Columns,
        identity_columns: vec!["code".to_owned()],
        cells: vec![CellSpec { id: ColumnId::from_bytes([2; 16]), column: "v".to_owned(), json_path: None }],
    })
    .unwrap()
}

fn update(row: &Row, new: &str) -> RowUpdate {
    let change = ColumnUpdate { column: 0, old: row.values[0].clone(), new: Sql::Text(new.into()) };
    RowUpdate { key: row.key.clone(), guard: row.guard.clone(), name: "a row".to_owned(), changes: vec![change] }
}

fn table(version: Version) -> Database<'static> {
    let database = shared(version).database().unwrap();
    let sql = "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
               CREATE TABLE t (id int PRIMARY KEY, code text, v text COLLATE blind);
               INSERT INTO t SELECT i, 'code ' || i, 'same' FROM generate_series(1, 4) i";
    database.sql(sql).unwrap();
    database
}

#[test]
fn another_writer_wins_by_bytes_and_by_row() {
    for version in Version::ALL {
        let database = table(version);
        let mut asset = open(&database);
        let page = asset.page(None, 10).unwrap();
        // An equal value of other bytes, a row that is gone, and a row that took the place of another.
        let sql = "UPDATE t SET v = 'SAME' WHERE id = 2; DELETE FROM t WHERE id IN (3, 4); INSERT INTO t VALUES (4, 'other', 'same')";
        database.sql(sql).unwrap();
        let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
        let mut told = Vec::new();
        let written = asset.write(&updates, &mut |written| {
            told = written.to_vec();
            Ok(())
        });
        assert_eq!((written.unwrap(), told), (vec![true, false, false, false], vec![true, false, false, false]));
        assert_eq!(database.sql("SELECT id, v FROM t ORDER BY id").unwrap(), "1|new\n2|SAME\n4|same");
    }
}

/// A key that takes two texts for one: the row that it finds may be another one by now.
#[test]
fn a_key_is_compared_by_bytes_too() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let sql = "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                   CREATE TABLE t (code text COLLATE blind PRIMARY KEY, v text); INSERT INTO t VALUES ('a', 'same'), ('b', 'same')";
        database.sql(sql).unwrap();
        let mut asset = open(&database);
        let page = asset.page(None, 10).unwrap();
        assert!(page.rows.iter().all(|row| row.guard.is_empty()), "the key is the identity");
        database.sql("UPDATE t SET code = 'A' WHERE code = 'a'").unwrap();
        let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
        assert_eq!(asset.write(&updates, &mut |_| Ok(())).unwrap(), [false, true]);
        assert_eq!(database.sql("SELECT code, v FROM t ORDER BY code").unwrap(), "A|same\nb|new");
    }
}

#[test]
fn a_page_is_whole_or_not_at_all() {
    let database = table(Version::V18);
    let mut asset = open(&database);
    let page = asset.page(None, 10).unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
    let refused = asset.write(&updates, &mut |_| Err(EngineError::Contended)).unwrap_err();
    assert!(matches!(refused, AssetError::Before(_)));
    let left = || database.sql("SELECT count(*) FROM t WHERE v = 'same' COLLATE \"C\"").unwrap();
    assert_eq!(left(), "4");
    // The session is ended between writing and committing: nothing is there, and the rows are to be read again.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'keyrail' AND datname = current_database()";
    let lost = asset.write(&updates, &mut |_| {
        assert_eq!(database.sql(end).unwrap(), "1");
        Ok(())
    });
    assert!(matches!(lost.unwrap_err(), AssetError::Moved));
    assert_eq!(left(), "4");
    let page = asset.page(None, 10).unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
    assert_eq!(asset.write(&updates, &mut |_| Ok(())).unwrap(), [true; 4]);
    assert_eq!(left(), "0");
}
