//! Rows of every kind: what tells them apart, what is bound to them, and that every value comes back.

use keyrail_crypto::envelope::{self, Context, KeyRef, Kid};
use keyrail_crypto::secret::{DataKey, Plaintext};
use keyrail_crypto::suite::Suite;
use keyrail_data::ops::asset::{AssetView, IdentityChoice, UpdateAsset};
use keyrail_data::value::{Binding, Class, RowIdentity, Sql};
use keyrail_engine::ops::data::{CiphertextItem, Decrypt};
use rusqlite::types::ValueRef;

use crate::support::{World, dump, key};

/// The table, and the columns of its primary key.
const TABLES: &[(&str, &[&str])] = &[
    ("CREATE TABLE people (id INTEGER PRIMARY KEY, v)", &["id"]),
    ("CREATE TABLE people (id INTEGER PRIMARY KEY DESC, v)", &["id"]),
    ("CREATE TABLE people (id TEXT PRIMARY KEY, v)", &["id"]),
    ("CREATE TABLE people (id BLOB PRIMARY KEY, v)", &["id"]),
    ("CREATE TABLE people (id REAL PRIMARY KEY, v)", &["id"]),
    ("CREATE TABLE people (id TEXT PRIMARY KEY, v) WITHOUT ROWID", &["id"]),
    ("CREATE TABLE people (id TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID", &["id"]),
    ("CREATE TABLE people (id REAL, v, rowid TEXT, PRIMARY KEY (rowid, id)) WITHOUT ROWID", &["rowid", "id"]),
    (
        "CREATE TABLE people (v, id, rowid TEXT, _rowid_ BLOB, PRIMARY KEY (id, rowid, _rowid_))",
        &["id", "rowid", "_rowid_"],
    ),
    ("CREATE TABLE people (id ANY PRIMARY KEY, v ANY) STRICT", &["id"]),
    ("PRAGMA encoding = 'UTF-16le'; CREATE TABLE people (id TEXT PRIMARY KEY, v)", &["id"]),
];

/// One value of each kind for the protected column, as SQL.
const VALUES: [&str; 12] = [
    "'text'",
    "''",
    "NULL",
    "x''",
    "x'00ff'",
    "41",
    "-9223372036854775808",
    "2.5",
    "1e300",
    "'kr1.AAAA'",
    "'Zoë 🦊'",
    "9e999",
];

/// A different key for each row, in every column of the primary key.
fn insert(app: &rusqlite::Connection, columns: &[&str]) {
    for (row, value) in VALUES.iter().enumerate() {
        let keys: Vec<_> =
            (0..columns.len()).map(|at| if at == 0 { (row + 1).to_string() } else { "7".to_owned() }).collect();
        let sql = format!("INSERT INTO people ({}, v) VALUES ({}, {value})", columns.join(", "), keys.join(", "));
        app.execute_batch(&sql).unwrap();
    }
}

/// Opens the value of every row through the engine, by the identity that the application makes of its own key.
async fn opens(world: &World, asset: &AssetView, columns: &[&str]) -> Vec<Option<Vec<u8>>> {
    let app = world.connect();
    let names: Vec<_> = columns.iter().map(|name| format!("\"{name}\"")).collect();
    let mut statement =
        app.prepare(&format!("SELECT v, {} FROM people ORDER BY {}", names.join(", "), names.join(", "))).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut found = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let sql = |at: usize| match row.get_ref(at).unwrap() {
            ValueRef::Null => Sql::Null,
            ValueRef::Integer(number) => Sql::Integer(number),
            ValueRef::Real(number) => Sql::Real(number),
            ValueRef::Text(text) => Sql::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Sql::Blob(bytes.to_vec()),
        };
        let ciphertext = match sql(0) {
            Sql::Text(text) => String::from_utf8(text).unwrap(),
            Sql::Blob(bytes) => envelope::to_text(&bytes),
            _ => {
                found.push(None);
                continue;
            }
        };
        let identity = RowIdentity::of(&(1..=columns.len()).map(sql).collect::<Vec<_>>());
        let binding = Binding { asset: &asset.id, column: &asset.columns[0].id, row: Some(&identity) };
        let mut opened = None;
        for class in [Class::Same, Class::Integer, Class::Real] {
            let context = binding.context(class).unwrap();
            let item = CiphertextItem { ciphertext: ciphertext.clone(), context };
            let answer = world.run(Decrypt { key: key(), items: vec![Ok(item)] }).await.unwrap().remove(0);
            opened = opened.or(answer.ok().map(|done| done.plaintext.as_bytes().to_vec()));
        }
        found.push(Some(opened.expect("it opens by the row's identity")));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_primary_key_and_value_survives() {
    for (sql, columns) in TABLES {
        let world = World::new().await;
        let app = world.connect();
        app.execute_batch(sql).unwrap();
        insert(&app, columns);
        let before = dump(&app, "people");
        let asset = world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        assert_eq!(asset.identity_columns, *columns, "{sql}");
        let outcome = world.protect().await;
        assert_eq!(outcome.campaign.counts.cells_moved, 11, "{sql}");
        let opened = opens(&world, &asset, columns).await;
        assert_eq!(opened.len(), 12);
        for want in ["text", "", "41", "-9223372036854775808", "2.5", "1e300", "kr1.AAAA", "Zoë 🦊", "inf"] {
            assert!(opened.contains(&Some(want.as_bytes().to_vec())), "{sql}: {want}");
        }
        let (empty, blob) = (opened.iter().filter(|value| **value == Some(Vec::new())).count(), Some(vec![0, 255]));
        assert_eq!((empty, opened.contains(&None), opened.contains(&blob)), (2, true, true), "{sql}");
        world.rotate().await;
        assert_eq!(world.reencrypt().await.campaign.counts.cells_moved, 11, "{sql}");
        world.unprotect().await;
        assert_eq!(dump(&app, "people"), before, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_opens_in_its_own_row_and_column_only() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch("CREATE TABLE people (id TEXT PRIMARY KEY, a, b); INSERT INTO people VALUES ('x', 'one', 'two'), ('y', 'three', 'four'), (NULL, 'five', 'six')").unwrap();
    let asset = world.add("people", IdentityChoice::PrimaryKey, &["a", "b"]).await.unwrap();
    assert!(asset.warnings[0].problem.contains("some rows have no value in id"), "{:?}", asset.warnings);
    world.protect().await;
    for (sql, damaged) in [
        ("UPDATE people SET a = (SELECT a FROM people WHERE id = 'x') WHERE id = 'y'", 1),
        ("UPDATE people SET b = a WHERE id = 'x'", 2),
        ("UPDATE people SET id = 'z' WHERE id IS NULL", 4),
        ("UPDATE people SET id = NULL WHERE id = 'z'", 2),
    ] {
        app.execute_batch(sql).unwrap();
        let census = world.census().await;
        assert_eq!((census.damaged, census.plaintext), (damaged, 0), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_primary_key_needs_a_declared_identity() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(
        "CREATE TABLE people (code, a, b); INSERT INTO people VALUES ('x', 'one', 'two'), ('y', 'three', 'four')",
    )
    .unwrap();
    let refused = world.add("people", IdentityChoice::PrimaryKey, &["a"]).await.unwrap_err();
    assert_eq!(refused.code(), "asset_unfit");
    assert!(refused.to_string().contains("no primary key") || format!("{refused:?}").contains("no primary key"));

    let named = world.add("people", IdentityChoice::Columns(vec!["code".to_owned()]), &["a"]).await.unwrap();
    assert_eq!((named.identity_columns.as_slice(), named.warnings.len()), (&["code".to_owned()][..], 1));
    assert!(named.warnings[0].problem.contains("VACUUM"), "{:?}", named.warnings);
    world.protect().await;
    app.execute_batch("UPDATE people SET a = (SELECT a FROM people WHERE code = 'x')").unwrap();
    assert_eq!(world.census().await.damaged, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_bound_to_no_row_are_warned_of() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch("CREATE TABLE people (a, b); INSERT INTO people VALUES ('one', 'two'), ('three', 'four')")
        .unwrap();
    let asset = world.add("people", IdentityChoice::None, &["a", "b"]).await.unwrap();
    assert!(asset.warnings[0].problem.contains("not bound to their rows"));
    world.protect().await;
    app.execute_batch("UPDATE people SET a = (SELECT a FROM people WHERE rowid = 1)").unwrap();
    assert_eq!(world.census().await.damaged, 0, "the asset declares that rows are not told apart");
    app.execute_batch("UPDATE people SET a = b").unwrap();
    assert_eq!(world.census().await.damaged, 2, "columns are still told apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_tables_columns_and_files_are_followed() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch("CREATE TABLE people (id INTEGER, region TEXT, a, b, PRIMARY KEY (id, region)); INSERT INTO people VALUES (1, 'eu', 'one', 'two')").unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["a", "b"]).await.unwrap();
    world.protect().await;
    app.execute_batch("ALTER TABLE people RENAME TO persons; ALTER TABLE persons RENAME COLUMN a TO b2; ALTER TABLE persons RENAME COLUMN region TO zone").unwrap();
    drop(app);
    let moved = world.dir.path().join("moved.sqlite");
    std::fs::rename(world.database(), &moved).unwrap();
    let census = world.run(keyrail_data::ops::asset::CensusAsset { name: "people".parse().unwrap() }).await;
    assert_eq!(census.unwrap_err().code(), "asset_file_absent");
    let name = Some("people".parse().unwrap());
    let pair = |former: &str, now: &str| (former.to_owned(), now.to_owned());
    let unknown = UpdateAsset { name: name.clone(), columns: vec![pair("c", "d")], ..UpdateAsset::default() };
    assert_eq!(world.run(unknown).await.unwrap_err().code(), "not_found");
    let update = UpdateAsset {
        name,
        url: Some(format!("sqlite:{}", moved.display())),
        schema: None,
        table: Some("persons".to_owned()),
        columns: vec![pair("a", "b2"), pair("region", "zone")],
    };
    let updated = world.run(update).await.unwrap();
    assert_eq!(
        (updated.table.as_str(), updated.identity_columns.as_slice()),
        ("persons", &["id".to_owned(), "zone".to_owned()][..])
    );
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.damaged), (2, 0));
    world.rotate().await;
    world.reencrypt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_of_somebody_elses_key_is_plaintext() {
    let world = World::new().await;
    let app = world.connect();
    let (kid, theirs) = (Kid::from_bytes([7; 16]), DataKey::generate().unwrap());
    let theirs = KeyRef { kid: &kid, key_id: &[9; 16], key: &theirs, suite: Suite::A256Gcm };
    let sealed = envelope::seal(&theirs, &Context::empty(), Plaintext::from(b"theirs".to_vec()).as_bytes()).unwrap();
    app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, v)").unwrap();
    app.execute("INSERT INTO people VALUES (1, ?), (2, ?)", rusqlite::params![envelope::to_text(&sealed), sealed])
        .unwrap();
    let before = dump(&app, "people");
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    assert_eq!(world.census().await.plaintext, 2);
    assert_eq!(world.protect().await.campaign.counts.cells_moved, 2);
    world.unprotect().await;
    assert_eq!(dump(&app, "people"), before);
}
