//! Rows that were altered behind Keyrail's back are told, at use and by `verify`, by table and key.

use std::sync::Arc;

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::Campaign;
use keyrail_core::key::{App, DataKey, DataKeyVersion, Domain, MasterKey, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, MapHead, MapNode, ObservationRow, OutboxEntry, RootSecret, RootSlotRow, Setting,
    UsageMark,
};
use keyrail_core::token::Token;
use keyrail_core::usage::Usage;
use keyrail_store::{FindingKind, OpenMode, Row, State, Store, StoreError, TABLES, Table, Value};

use crate::rows::{fill, outbox};
use crate::stores::{Attacker, TestStore, on_every_store, rows};

on_every_store!(
    every_altered_value_of_every_table_is_refused_and_named,
    a_row_does_not_pass_for_another,
    a_seal_of_another_table_or_store_does_not_fit,
);

/// Reads all rows of a table as the engine does.
pub(crate) async fn read(state: &State, table: &Table) -> Result<usize, StoreError> {
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

/// A store with a row of every kind, and an attacker who writes to its database.
struct Attacked {
    state: State,
    store: Arc<dyn Store>,
    attacker: Attacker,
    place: TestStore,
}

impl Attacked {
    async fn new(place: TestStore) -> Self {
        let store = place.open(OpenMode::Create).await.unwrap();
        let state = place.sealed(Arc::clone(&store));
        let change = fill(&state).await;
        state.commit(change.recorded(outbox(1))).await.unwrap();
        let attacker = place.attacker().await;
        Self { state, store, attacker, place }
    }

    async fn rows(&self, table: &'static Table) -> Vec<Vec<Value>> {
        rows(self.store.as_ref(), table).await
    }

    async fn put(&self, table: &Table, rows: &[Vec<Value>]) {
        self.attacker.put(table, rows).await;
    }

    /// Something of a table is refused when it is read, and `verify` names these rows and nothing else.
    async fn require_told(&self, table: &'static Table, kinds: &[FindingKind], what: &str) {
        assert!(read(&self.state, table).await.is_err(), "{what}: it can be used");
        let findings = self.state.verify_all().await.unwrap();
        let mut found: Vec<_> = findings.iter().map(|finding| finding.kind.clone()).collect();
        found.sort();
        assert_eq!(found, kinds, "{what}: {findings:?}");
        assert!(findings.iter().all(|finding| finding.table == table.name), "{what}: {findings:?}");
    }
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
    }
}

async fn every_altered_value_of_every_table_is_refused_and_named(store: TestStore) {
    let attacked = Attacked::new(store).await;
    let mut altered = 0;
    for table in TABLES {
        let whole = attacked.rows(table).await;
        assert!(!whole.is_empty(), "the test has no row of table {}", table.name);
        for column in 0..=table.columns.len() {
            for value in other(&whole[0][column]).into_iter().chain([Value::Null]) {
                if value == whole[0][column] {
                    continue;
                }
                let sql_column = table.columns.get(column).copied().unwrap_or("seal");
                let keys = table.key.iter().map(|key| {
                    let place = table.columns.iter().position(|name| name == key).unwrap();
                    format!("\"{key}\" = {}", attacked.attacker.literal(&whole[0][place]))
                });
                let sql = format!(
                    "UPDATE \"{}\" SET \"{sql_column}\" = {} WHERE {}",
                    table.name,
                    attacked.attacker.literal(&value),
                    keys.collect::<Vec<_>>().join(" AND ")
                );
                // Strict types and unique names hold against an attacker, too.
                if attacked.attacker.execute(&sql).await != Some(1) {
                    continue;
                }
                altered += 1;
                let told: &[FindingKind] = match table.key.contains(&sql_column) {
                    // Under another id there is a row that is none, and under its own there is none.
                    true if !["outbox", "map_head"].contains(&table.name) => {
                        &[FindingKind::Altered, FindingKind::Missing]
                    }
                    _ => &[FindingKind::Altered],
                };
                attacked.require_told(table, told, &format!("{}.{sql_column} = {value:?}", table.name)).await;
                attacked.put(table, &whole).await;
            }
        }
        assert_eq!(read(&attacked.state, table).await.unwrap(), whole.len());
    }
    assert_eq!(attacked.state.verify_all().await.unwrap(), []);
    assert!(altered > 250, "only {altered} values were altered");
}

/// Of two rows of a table, each with what belongs to the other.
async fn a_row_does_not_pass_for_another(store: TestStore) {
    let attacked = Attacked::new(store).await;
    let mut swapped = 0;
    for table in TABLES {
        let whole = attacked.rows(table).await;
        if whole.len() < 2 {
            continue;
        }
        let seal = table.columns.len();
        let mut rows = whole.clone();
        (rows[0][seal], rows[1][seal]) = (whole[1][seal].clone(), whole[0][seal].clone());
        attacked.put(table, &rows).await;
        let told = [FindingKind::Altered, FindingKind::Altered];
        attacked.require_told(table, &told, &format!("{}: seals exchanged", table.name)).await;
        attacked.put(table, &whole).await;
        swapped += 1;
    }
    assert!(swapped >= 2, "{swapped}");
    let table = DataKeyVersion::TABLE;
    let whole = attacked.rows(table).await;
    // The wrapped key of one version, with its state and seal, under the id of another.
    let mut rows = whole.clone();
    let kid = rows[0][0].clone();
    rows[0] = whole[1].clone();
    rows[0][0] = kid;
    rows.remove(1);
    attacked.put(table, &rows).await;
    let told = [FindingKind::Altered, FindingKind::Missing];
    attacked.require_told(table, &told, "a version under the id of another").await;
}

/// A seal of one table does not fit another with the same columns: keys and names of tables are in it.
async fn a_seal_of_another_table_or_store_does_not_fit(store: TestStore) {
    let attacked = Attacked::new(store).await;
    let other = Attacked::new(attacked.place.another()).await;
    for table in TABLES {
        let whole = attacked.rows(table).await;
        attacked.put(table, &other.rows(table).await).await;
        let told = vec![FindingKind::Altered; whole.len()];
        attacked.require_told(table, &told, &format!("{} of another store", table.name)).await;
        attacked.put(table, &whole).await;
    }
}

/// Text that is not UTF-8 is not taken for what it looks like. PostgreSQL lets nobody write such text.
#[tokio::test]
async fn text_of_other_bytes_is_told() {
    let attacked = Attacked::new(TestStore::sqlite()).await;
    attacked.attacker.execute("UPDATE setting SET value = CAST(x'6f6eff' AS TEXT)").await.unwrap();
    attacked.require_told(Setting::TABLE, &[FindingKind::Altered], "a byte behind the text").await;
}
