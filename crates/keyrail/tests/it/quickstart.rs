//! The quickstart, on its own table and on a database that it did not make.

use rusqlite::Connection;

use crate::place::Place;

#[test]
fn the_main_job_runs_on_the_made_up_table() {
    let place = Place::new();
    let ran = place.run_with(&["quickstart", "--json", "--rows", "2000"], b"");
    assert_eq!(ran.text().lines().count(), 1);
    let done = ran.json();
    let census = &done["census"];
    let rows = census["acme/prod/crm/customer-pii@2"].as_u64().unwrap();
    assert_eq!(
        (done["rows"].as_u64(), done["protected"].as_u64(), done["reencrypted"].as_u64()),
        (Some(2000), Some(2000), Some(2000))
    );
    assert_eq!(
        (census["acme/prod/crm/customer-pii@1"].as_u64(), census["plaintext"].as_u64(), census["damaged"].as_u64()),
        (Some(0), Some(0), Some(0))
    );
    assert!(rows >= 2000);
    assert_eq!(done["opened"].as_u64(), Some(rows));
    assert!(done["written_meanwhile"].as_u64().unwrap() > 0);
    assert_eq!(done["retired"][0], "acme/prod/crm/customer-pii@1");
    assert_eq!(done["audit"]["verified"], true);
    assert!(std::fs::read_dir(place.home.work()).unwrap().next().is_none(), "nothing in the working directory");
}

#[test]
fn the_main_job_runs_on_a_copy_of_somebodys_database() {
    let place = Place::new();
    let path = place.file("shop.sqlite");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE orders (code TEXT, region TEXT COLLATE NOCASE, customer, total REAL, note BLOB, PRIMARY KEY (code, region)) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
         INSERT INTO orders SELECT 'o' || i, CASE i % 3 WHEN 0 THEN 'EU' WHEN 1 THEN 'us' ELSE 'ü' END,
           CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN i WHEN 2 THEN i + 0.5 WHEN 3 THEN '' ELSE 'Customer ' || i END, i * 1.5, randomblob(i % 90) FROM n;",
    )
    .unwrap();
    let before: String =
        app.query_row("SELECT group_concat(quote(customer) || quote(note)) FROM orders", [], |row| row.get(0)).unwrap();
    // The connection stays open: its write-ahead log holds the rows, and the copy must have them.
    let done = place
        .run_with(
            &[
                "quickstart",
                "--json",
                "--data",
                path.to_str().unwrap(),
                "--table",
                "orders",
                "--columns",
                "customer,note",
            ],
            b"",
        )
        .json();
    assert_eq!(done["rows"].as_u64(), Some(700));
    assert_eq!(done["census"]["acme/prod/crm/customer-pii@2"].as_u64(), Some(700));
    assert_eq!(done["opened"].as_u64(), Some(700));
    let after: String =
        app.query_row("SELECT group_concat(quote(customer) || quote(note)) FROM orders", [], |row| row.get(0)).unwrap();
    assert_eq!(before, after, "the original is not touched");
}
