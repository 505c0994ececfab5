//! Rows that were altered behind Keyrail's back are told, at use and by `verify`, by table and key.

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::Campaign;
use keyrail_core::key::{App, DataKey, DataKeyVersion, Domain, MasterKey, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, ObservationRow, OutboxEntry, RootSecret, RootSlotRow, Setting, UsageMark,
};
use keyrail_core::token::Token;
use keyrail_core::usage::Usage;
use keyrail_crypto::secret::StoreKey;
use keyrail_store::{FindingKind, Row, State, StoreError, TABLES, Table};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::rows::{fill, open, outbox};

/// Reads all rows of a table as the engine does.
async fn read(state: &State, table: &Table) -> Result<usize, StoreError> {
    macro_rules! read {
        ($($row:ty),+ $(,)?) => {{
            $(if table.name == <$row as Row>::TABLE.name {
                return state.all::<$row>(Vec::new()).await.map(|rows| rows.len());
            })+
            panic!("no row type of table {}", table.name)
        }};
    }
    keyrail_store::row_types!(read)
}

/// A store with a row of every kind, and an attacker who writes its file.
struct Attacked {
    state: State,
    attacker: Connection,
    _dir: tempfile::TempDir,
}

impl Attacked {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let state = open(&path, &StoreKey::generate().unwrap());
        let change = fill(&state).await;
        state.commit(change.recorded(outbox(1))).await.unwrap();
        let attacker = Connection::open(&path).unwrap();
        let rules = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF";
        attacker.execute_batch(rules).unwrap();
        Self { state, attacker, _dir: dir }
    }

    fn rows(&self, table: &Table) -> Vec<Vec<Value>> {
        let sql = format!("SELECT {} FROM \"{}\"", columns(table), table.name);
        let mut statement = self.attacker.prepare(&sql).unwrap();
        let width = table.columns.len() + 1;
        let read = |row: &rusqlite::Row<'_>| (0..width).map(|index| row.get(index)).collect();
        statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn put(&self, table: &Table, rows: &[Vec<Value>]) {
        self.attacker.execute(&format!("DELETE FROM \"{}\"", table.name), []).unwrap();
        let marks = vec!["?"; table.columns.len() + 1].join(", ");
        for row in rows {
            let sql = format!("INSERT INTO \"{}\" ({}) VALUES ({marks})", table.name, columns(table));
            self.attacker.execute(&sql, params_from_iter(row)).unwrap();
        }
    }

    /// The altered rows of a table are refused when they are read, and named by `verify`.
    async fn require_told(&self, table: &'static Table, count: usize, what: &str) {
        assert!(read(&self.state, table).await.is_err(), "{what}: it can be used");
        let findings = self.state.verify_all().await.unwrap();
        assert_eq!(findings.len(), count, "{what}: {findings:?}");
        for finding in findings {
            assert_eq!((finding.table, &finding.kind), (table.name, &FindingKind::Altered), "{what}");
        }
    }
}

/// The columns as programs know them, the seal last.
fn columns(table: &Table) -> String {
    let quoted: Vec<_> = table.columns.iter().chain(&["seal"]).map(|column| format!("\"{column}\"")).collect();
    quoted.join(", ")
}

/// Another value of the same type, or one where there was none.
fn other(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![Value::Integer(1), Value::Text("x".to_owned()), Value::Blob(vec![1; 16])],
        Value::Integer(number) => vec![Value::Integer(number + 1), Value::Integer(number - 1)],
        Value::Text(text) => vec![Value::Text(format!("{text}x")), Value::Text(String::new())],
        Value::Blob(bytes) => {
            let mut last = bytes.clone();
            last.iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
            vec![Value::Blob(last)]
        }
        Value::Real(_) => panic!("no column of ours holds such a number"),
    }
}

#[tokio::test]
async fn every_altered_value_of_every_table_is_refused_and_named() {
    let attacked = Attacked::new().await;
    let mut altered = 0;
    for table in TABLES {
        let whole = attacked.rows(table);
        assert!(!whole.is_empty(), "the test has no row of table {}", table.name);
        for column in 0..=table.columns.len() {
            for value in other(&whole[0][column]).into_iter().chain([Value::Null]) {
                if value == whole[0][column] {
                    continue;
                }
                let sql_column = table.columns.get(column).copied().unwrap_or("seal");
                let keys: Vec<_> = table.key.iter().map(|key| format!("\"{key}\" = ?")).collect();
                let sql = format!("UPDATE \"{}\" SET \"{sql_column}\" = ? WHERE {}", table.name, keys.join(" AND "));
                let key_values = table.key.iter().map(|key| table.columns.iter().position(|name| name == key).unwrap());
                let values = [value.clone()].into_iter().chain(key_values.map(|place| whole[0][place].clone()));
                // Strict types and unique names hold against an attacker, too.
                if !attacked.attacker.execute(&sql, params_from_iter(values)).is_ok_and(|rows| rows == 1) {
                    continue;
                }
                altered += 1;
                attacked.require_told(table, 1, &format!("{}.{sql_column} = {value:?}", table.name)).await;
                attacked.put(table, &whole);
            }
        }
        assert_eq!(read(&attacked.state, table).await.unwrap(), whole.len());
    }
    assert_eq!(attacked.state.verify_all().await.unwrap(), []);
    assert!(altered > 250, "only {altered} values were altered");
}

/// Of two rows of a table, each with what belongs to the other.
#[tokio::test]
async fn a_row_does_not_pass_for_another() {
    let attacked = Attacked::new().await;
    let mut swapped = 0;
    for table in TABLES {
        let whole = attacked.rows(table);
        if whole.len() < 2 {
            continue;
        }
        let seal = table.columns.len();
        let mut rows = whole.clone();
        (rows[0][seal], rows[1][seal]) = (whole[1][seal].clone(), whole[0][seal].clone());
        attacked.put(table, &rows);
        attacked.require_told(table, 2, &format!("{}: seals exchanged", table.name)).await;
        attacked.put(table, &whole);
        swapped += 1;
    }
    assert!(swapped >= 2, "{swapped}");
    let table = DataKeyVersion::TABLE;
    let whole = attacked.rows(table);
    // The wrapped key of one version, with its state and seal, under the id of another.
    let mut rows = whole.clone();
    let kid = rows[0][0].clone();
    rows[0] = whole[1].clone();
    rows[0][0] = kid;
    rows.remove(1);
    attacked.put(table, &rows);
    attacked.require_told(table, 1, "a version under the id of another").await;
}

/// A seal of one table does not fit another with the same columns: keys and names of tables are in it.
#[tokio::test]
async fn a_seal_of_another_table_or_store_does_not_fit() {
    let attacked = Attacked::new().await;
    let other = Attacked::new().await;
    for table in TABLES {
        let whole = attacked.rows(table);
        attacked.put(table, &other.rows(table));
        attacked.require_told(table, whole.len(), &format!("{} of another store", table.name)).await;
        attacked.put(table, &whole);
    }
}

/// Text that is not UTF-8 is not taken for what it looks like.
#[tokio::test]
async fn text_of_other_bytes_is_told() {
    let attacked = Attacked::new().await;
    let sql = "UPDATE setting SET value = CAST(x'6f6eff' AS TEXT)";
    attacked.attacker.execute(sql, []).unwrap();
    attacked.require_told(Setting::TABLE, 1, "a byte behind the text").await;
}

/// Binding alone cannot see that a row is missing, or older than it should be: the limit that `SECURITY.md` tells.
#[tokio::test]
async fn a_missing_or_older_row_is_not_seen_by_seals_alone() {
    let attacked = Attacked::new().await;
    let table = Domain::TABLE;
    let before = attacked.rows(table);
    let mut renamed = crate::rows::domain();
    (renamed.name, renamed.generation) = ("other".parse().unwrap(), 2);
    let mut change = keyrail_store::Change::new();
    change.update(&renamed);
    attacked.state.commit(change.recorded(outbox(2))).await.unwrap();
    attacked.put(table, &before);
    attacked.attacker.execute("DELETE FROM token", []).unwrap();
    assert_eq!(attacked.state.verify_all().await.unwrap(), []);
}
