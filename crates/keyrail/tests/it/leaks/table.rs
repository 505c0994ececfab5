//! A small table whose values are secrets.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::secrets::Secrets;

const ROWS: i64 = 12;

/// A table of people, every value of which is kept as a secret.
pub(super) fn make_table(path: &Path, owner: &str, secrets: &mut Secrets) -> PathBuf {
    let app = Connection::open(path).unwrap();
    app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, profile TEXT)").unwrap();
    for row in 0..ROWS {
        let (email, phone) = (format!("{owner}.person-{row}@table.example"), format!("+31-20-{owner}-{row:07}"));
        let profile = format!("{{\"phone\":\"{phone}\"}}");
        app.execute("INSERT INTO people VALUES (?1, ?2, ?3)", (row, &email, &profile)).unwrap();
        secrets.keep("value of the table", &email);
        secrets.keep("value of the table", &phone);
    }
    path.to_owned()
}

/// Alters a protected value within its nonce: it still is a ciphertext of the key, and does not open any more.
pub(super) fn damage(path: &Path) {
    let app = Connection::open(path).unwrap();
    let other = "CASE substr(email, 44, 1) WHEN 'A' THEN 'B' ELSE 'A' END";
    let sql = format!("UPDATE people SET email = substr(email, 1, 43) || {other} || substr(email, 45) WHERE id = 3");
    assert_eq!(app.execute(&sql, []).unwrap(), 1);
}

/// Every value, as the table holds it.
pub(super) fn is_plain(path: &Path) -> bool {
    let app = Connection::open(path).unwrap();
    let sql = "SELECT count(*) FROM people WHERE email LIKE '%@table.example' AND profile LIKE '%+31-20-%'";
    app.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == ROWS - 1
}
