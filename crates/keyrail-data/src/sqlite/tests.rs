use keyrail_core::asset::IdentityKind;
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_engine::EngineError;

use super::*;
use crate::adapter::{CellSpec, ColumnUpdate};

struct Db {
    dir: tempfile::TempDir,
    app: Connection,
}

impl Db {
    fn new(sql: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.sqlite")).unwrap();
        app.execute_batch(sql).unwrap();
        Self { dir, app }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.sqlite")
    }

    fn asset(&self) -> SqliteAsset {
        let cell = CellSpec { id: ColumnId::from_bytes([2; 16]), column: "v".to_owned(), json_path: None };
        let spec = AssetSpec {
            asset: AssetId::from_bytes([1; 16]),
            url: format!("sqlite:{}", self.path().display()),
            schema: None,
            table: "t".to_owned(),
            identity: IdentityKind::PrimaryKey,
            identity_columns: Vec::new(),
            cells: vec![cell],
        };
        SqliteAsset::open(&self.path(), &spec).unwrap()
    }

    fn values(&self) -> Vec<String> {
        let mut statement = self.app.prepare("SELECT id || '=' || v FROM t ORDER BY 1").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn update(row: &Row, new: &str) -> RowUpdate {
    let change = ColumnUpdate { column: 0, old: row.values[0].clone(), new: Sql::Text(new.into()) };
    RowUpdate { key: row.key.clone(), guard: row.guard.clone(), name: "a row".to_owned(), changes: vec![change] }
}

#[test]
fn a_row_that_took_the_place_of_another_is_not_written() {
    let db = Db::new("CREATE TABLE t (id TEXT PRIMARY KEY, v); INSERT INTO t VALUES ('a', 'same'), ('b', 'same')");
    let mut asset = db.asset();
    let page = asset.page(None, 10).unwrap();
    // The rowid of `b` comes back with another identity and the same value.
    db.app.execute_batch("DELETE FROM t WHERE id = 'b'; INSERT INTO t VALUES ('c', 'same')").unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
    assert_eq!(asset.write(&updates, &mut |_| Ok(())).unwrap(), [true, false]);
    assert_eq!(db.values(), ["a=new", "c=same"]);
}

#[test]
fn a_key_is_walked_by_the_collation_that_makes_it_unique() {
    let db = Db::new(
        "CREATE TABLE t (id TEXT COLLATE NOCASE, v, PRIMARY KEY (id COLLATE BINARY)) WITHOUT ROWID;
         INSERT INTO t VALUES ('a', 1), ('A', 2), ('b', 3), ('B', 4)",
    );
    let mut asset = db.asset();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = asset.page(after.as_deref(), 1).unwrap();
        seen.extend(page.rows.iter().map(|row| row.identity.clone().unwrap().to_string()));
        after = page.rows.last().map(|row| row.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, ["tA", "tB", "ta", "tb"]);
    let page = asset.page(None, 10).unwrap();
    assert_eq!(asset.write(&[update(&page.rows[0], "new")], &mut |_| Ok(())).unwrap(), [true]);
    assert_eq!(db.values(), ["A=new", "B=4", "a=1", "b=3"]);
}

#[test]
fn another_writer_wins_by_bytes_and_by_class() {
    let db =
        Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v COLLATE NOCASE); INSERT INTO t VALUES (1, 'a'), (2, 5)");
    let mut asset = db.asset();
    let page = asset.page(None, 10).unwrap();
    db.app.execute_batch("UPDATE t SET v = 'A' WHERE id = 1; UPDATE t SET v = 5.0 WHERE id = 2").unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
    assert_eq!(asset.write(&updates, &mut |_| Ok(())).unwrap(), [false, false]);
}

#[test]
fn a_page_is_whole_or_not_at_all() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let mut asset = db.asset();
    let page = asset.page(None, 10).unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, "new")).collect();
    let refused = asset.write(&updates, &mut |_| Err(EngineError::Contended)).unwrap_err();
    assert!(matches!(refused, AssetError::Before(_)));
    assert_eq!(db.values(), ["1=a", "2=b"]);

    db.app.execute_batch("CREATE TRIGGER lower AFTER UPDATE ON t WHEN NEW.id = 2 BEGIN UPDATE t SET v = lower(NEW.v) WHERE id = 2; END").unwrap();
    assert!(matches!(asset.write(&updates, &mut |_| Ok(())), Err(AssetError::Moved)), "the schema is read again first");
    asset.page(None, 10).unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, "NEW")).collect();
    assert!(matches!(asset.write(&updates, &mut |_| Ok(())), Err(AssetError::Altered { .. })));
    assert_eq!(db.values(), ["1=a", "2=b"]);
}

#[test]
fn a_full_disk_leaves_the_page_as_it_was() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let mut asset = db.asset();
    let page = asset.page(None, 10).unwrap();
    asset.connection.pragma_update(None, "max_page_count", 2).unwrap();
    let updates: Vec<_> = page.rows.iter().map(|row| update(row, &"x".repeat(20_000))).collect();
    assert!(matches!(asset.write(&updates, &mut |_| Ok(())), Err(AssetError::Full(_))));
    assert_eq!(db.values(), ["1=a", "2=b"]);
    asset.connection.pragma_update(None, "max_page_count", 1_000).unwrap();
    assert_eq!(asset.write(&updates, &mut |_| Ok(())).unwrap(), [true, true]);
}

#[test]
fn a_file_that_lost_its_name_is_not_written() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')");
    let mut asset = db.asset();
    let page = asset.page(None, 10).unwrap();
    let updates = [update(&page.rows[0], "new")];
    let away = db.dir.path().join("away.sqlite");
    std::fs::rename(db.path(), &away).unwrap();
    let problem = |error: AssetError| match error {
        AssetError::Changed { problem } => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(asset.write(&updates, &mut |_| Ok(())).unwrap_err()), FILE_GONE);
    std::fs::copy(&away, db.path()).unwrap();
    assert!(problem(asset.page(None, 10).unwrap_err()).contains("another file"));
    assert!(problem(asset.scrub().unwrap_err()).contains("another file"));
    assert_eq!(db.values(), ["1=a"]);
}

#[test]
fn what_is_no_database_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sqlite");
    std::fs::write(
        &path,
        "nothing of the kind, and long enough to be looked at as a header of one hundred bytes, which it has",
    )
    .unwrap();
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");
    let spec = db.asset().spec;
    assert!(matches!(SqliteAsset::open(&path, &spec), Err(AssetError::Open(_))));
    assert!(matches!(SqliteAsset::open(&dir.path().join("absent.sqlite"), &spec), Err(AssetError::NoFile { .. })));
    assert!(!dir.path().join("absent.sqlite").exists(), "nothing is made");
    assert!(matches!(copy_database(&path, &dir.path().join("copy.sqlite")), Err(AssetError::Open(_))));
}

#[test]
fn a_database_that_was_left_in_a_transaction_is_not_copied() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, left) = (dir.path().join("app.sqlite"), dir.path().join("left.sqlite"));
        let app = Connection::open(&path).unwrap();
        app.execute_batch(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA cache_size = 5; CREATE TABLE t (id INTEGER PRIMARY KEY, v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, 'old' FROM n;
             BEGIN; UPDATE t SET v = 'new'"
        ))
        .unwrap();
        // What is on the disk now is what a kill would leave.
        std::fs::copy(&path, &left).unwrap();
        std::fs::copy(dir.path().join("app.sqlite-journal"), dir.path().join("left.sqlite-journal")).unwrap();
        drop(app);
        let copy = dir.path().join("copy.sqlite");
        let error = copy_database(&left, &copy).unwrap_err();
        assert!(matches!(error, AssetError::Unfinished(_)), "{mode}: {error:?}");
        assert!(error.hint().contains("right to write") && !copy.exists(), "{mode}");
        // As the hint says.
        let app = Connection::open(&left).unwrap();
        let new =
            |db: &Connection| db.query_row("SELECT count(*) FROM t WHERE v = 'new'", [], |row| row.get::<_, i64>(0));
        assert_eq!(new(&app).unwrap(), 0, "{mode}");
        copy_database(&left, &copy).unwrap();
        assert_eq!(new(&Connection::open(&copy).unwrap()).unwrap(), 0, "{mode}");
    }
}

#[test]
fn a_database_where_nothing_can_be_made_is_copied_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("100% theirs?.sqlite"), dir.path().join("copy.sqlite"));
    let app = Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (v); INSERT INTO t VALUES (7)").unwrap();
    drop(app);
    // A directory stands where the shared memory would be made, as in a directory that may not be written.
    std::fs::create_dir(dir.path().join("100% theirs?.sqlite-shm")).unwrap();
    copy_database(&path, &copy).unwrap();
    let found: i64 = Connection::open(&copy).unwrap().query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 7);

    // Rows that only the log holds are not left out.
    let app = Connection::open(dir.path().join("busy.sqlite")).unwrap();
    app.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (v); INSERT INTO t VALUES (8)").unwrap();
    let (away, copy) = (dir.path().join("away"), dir.path().join("other.sqlite"));
    std::fs::create_dir_all(away.join("busy.sqlite-shm")).unwrap();
    for name in ["busy.sqlite", "busy.sqlite-wal"] {
        std::fs::copy(dir.path().join(name), away.join(name)).unwrap();
    }
    copy_database(&away.join("busy.sqlite"), &copy).unwrap();
    let found: i64 = Connection::open(&copy).unwrap().query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 8);
}
