//! A store whose file somebody writes to while it is open, and after.

use keyrail_crypto::secret::StoreKey;
use keyrail_store::{State, Table};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::rows::{fill, open, outbox};

/// A store with a row of every kind, and an attacker who writes its file.
pub(crate) struct Attacked {
    pub(crate) state: State,
    key: StoreKey,
    pub(crate) attacker: Connection,
    dir: tempfile::TempDir,
}

impl Attacked {
    pub(crate) async fn new() -> Self {
        let attacked = Self::empty(StoreKey::generate().unwrap());
        let change = fill(&attacked.state).await;
        attacked.state.commit(change.recorded(outbox(1))).await.unwrap();
        attacked
    }

    fn empty(key: StoreKey) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path().join("s");
        let state = open(&path, &key);
        let attacker = Connection::open(&path).unwrap();
        let rules = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF";
        attacker.execute_batch(rules).unwrap();
        Self { state, key, attacker, dir }
    }

    /// The same store as a process sees it that opens it now.
    pub(crate) fn opened_anew(&self) -> State {
        open(&self.dir.path().join("s"), &self.key)
    }

    /// Another store under the same key.
    pub(crate) fn beside(&self, dir: &std::path::Path) -> State {
        open(&dir.join("s"), &self.key)
    }

    pub(crate) fn rows(&self, table: &Table) -> Vec<Vec<Value>> {
        rows_of(&self.attacker, table)
    }

    pub(crate) fn put(&self, table: &Table, rows: &[Vec<Value>]) {
        self.attacker.execute(&format!("DELETE FROM \"{}\"", table.name), []).unwrap();
        let marks = vec!["?"; table.columns.len() + 1].join(", ");
        for row in rows {
            let sql = format!("INSERT INTO \"{}\" ({}) VALUES ({marks})", table.name, columns(table));
            self.attacker.execute(&sql, params_from_iter(row)).unwrap();
        }
    }
}

pub(crate) fn rows_of(connection: &Connection, table: &Table) -> Vec<Vec<Value>> {
    let order: Vec<_> = table.key.iter().map(|column| format!("\"{column}\"")).collect();
    let sql = format!("SELECT {} FROM \"{}\" ORDER BY {}", columns(table), table.name, order.join(", "));
    let mut statement = connection.prepare(&sql).unwrap();
    let width = table.columns.len() + 1;
    let read = |row: &rusqlite::Row<'_>| (0..width).map(|index| row.get(index)).collect();
    statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The columns as programs know them, the seal last.
fn columns(table: &Table) -> String {
    let quoted: Vec<_> = table.columns.iter().chain(&["seal"]).map(|column| format!("\"{column}\"")).collect();
    quoted.join(", ")
}
