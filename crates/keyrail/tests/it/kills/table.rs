//! The application's table, whose every value is known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::world::wait_for;

pub(super) const ROWS: u32 = 4_000;

/// What a row holds in plaintext.
const EMAIL: &str = "'p' || id || '@example.org'";
const NOTE: &str = "CASE id % 7 WHEN 0 THEN NULL ELSE 'note ' || id END";

/// Characters in which ciphertexts of one key version are the same: the prefix and all before the nonce.
const ALIKE: u32 = 38;

pub(super) struct Table {
    path: PathBuf,
}

/// How many rows begin alike: all of them where nothing is moved or all is.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) plain: u32,
    pub(super) versions: u32,
}

impl Moved {
    /// Some rows are as they will be, and some as they were.
    pub(super) const fn is_mixed(&self) -> bool {
        self.versions > 1 || (self.versions == 1 && self.plain > 0)
    }
}

impl Table {
    pub(super) fn new(path: &Path) -> Self {
        let app = Connection::open(path).unwrap();
        app.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, note TEXT);
             WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {ROWS}) INSERT INTO people SELECT id, {EMAIL}, {NOTE} FROM n"
        ))
        .unwrap();
        Self { path: path.to_owned() }
    }

    pub(super) fn url(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    fn count(&self, which: &str) -> u32 {
        let sql = format!("SELECT count(*) FROM people WHERE {which}");
        Connection::open(&self.path).unwrap().query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    /// Runs `begin`, and returns as soon as somebody else has committed something here.
    pub(super) fn wait_first_commit(&self, begin: impl FnOnce()) {
        let app = Connection::open(&self.path).unwrap();
        app.busy_timeout(Duration::from_secs(10)).unwrap();
        let version = || app.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
        let before = version();
        begin();
        wait_for("the first page of a campaign", || version() != before);
    }

    pub(super) fn moved(&self) -> Moved {
        let app = Connection::open(&self.path).unwrap();
        let sql = format!("SELECT count(DISTINCT substr(email, 1, {ALIKE})) FROM people WHERE email LIKE 'kr1.%'");
        let versions = app.query_row(&sql, [], |row| row.get(0)).unwrap();
        Moved { plain: self.count("email NOT LIKE 'kr1.%'"), versions }
    }

    /// No row is half done: both of its values are plaintext, exactly as they were, or both under one version.
    pub(super) fn require_whole_rows(&self) {
        let plain = format!("(email = {EMAIL} AND note IS {NOTE})");
        let note = format!("substr(note, 1, {ALIKE})");
        let sealed = format!(
            "(email LIKE 'kr1.%' AND ((note IS NULL AND id % 7 = 0) OR (id % 7 <> 0 AND {note} = substr(email, 1, {ALIKE}))))"
        );
        assert_eq!(self.count(&format!("{plain} OR {sealed}")), ROWS, "a row is half done");
    }

    /// Every value is there again, exactly as it was.
    pub(super) fn require_plain(&self) {
        assert_eq!(self.count(&format!("email = {EMAIL} AND note IS {NOTE}")), ROWS, "a value is not as it was");
    }
}
