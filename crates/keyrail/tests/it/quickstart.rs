//! The quickstart, on its own table and on a database that it did not make.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::asset_value::python;
use crate::place::{Place, Ran};

const KEY: &str = "acme/prod/crm/customer-pii";

/// Runs the quickstart on a table of somebody else.
fn on_data(place: &Place, database: &Path, table: &str, columns: &str) -> Ran {
    let database = database.to_str().unwrap();
    place.run_with(&["quickstart", "--json", "--data", database, "--table", table, "--columns", columns], b"")
}

/// What every run must say, by the contract: the counts are rows.
fn check(done: &Value, rows: u64) {
    let object = done.as_object().unwrap();
    let names: Vec<_> = object.keys().map(String::as_str).collect();
    let want = "rows protected reencrypted written_meanwhile census retired opened audit seconds";
    assert_eq!(names, want.split(' ').collect::<Vec<_>>());
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!([&done["rows"], &done["protected"], &done["reencrypted"]].map(number), [rows; 3]);
    let census = done["census"].as_object().unwrap();
    let versions = [format!("{KEY}@1"), format!("{KEY}@2")];
    assert_eq!(
        census.keys().map(String::as_str).collect::<Vec<_>>(),
        [&versions[0], &versions[1], "plaintext", "damaged"]
    );
    assert_eq!([&census[&versions[0]], &census["plaintext"], &census["damaged"]].map(number), [0; 3]);
    assert_eq!(number(&done["opened"]), number(&census[&versions[1]]));
    assert_eq!(
        (done["retired"].as_array().unwrap().len(), &done["retired"][0]),
        (1, &Value::from(versions[0].clone()))
    );
    assert!(number(&done["audit"]["records"]) > 0 && done["audit"]["verified"] == true);
    assert!(done["seconds"]["protect"].as_f64().unwrap() > 0.0 && done["seconds"]["campaign"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_main_job_runs_on_the_made_up_table() {
    let place = Place::new();
    let ran = place.run_with(&["quickstart", "--json", "--rows", "2000"], b"");
    assert_eq!(ran.text().lines().count(), 1);
    let done = ran.json();
    check(&done, 2000);
    assert!(done["opened"].as_u64().unwrap() >= 2000);
    assert!(done["written_meanwhile"].as_u64().unwrap() > 0);
    assert!(
        ran.stderr.contains("protecting: 500 of 2000 rows"),
        "plain lines where there is no terminal: {}",
        ran.stderr
    );
    assert!(!ran.stderr.contains('\r') && !ran.stderr.contains('\u{1b}'));
    let dir = place.home.path().join(".local/share/keyrail/quickstart");
    let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(std::fs::read_dir(place.home.work()).unwrap().next().is_none(), "nothing in the working directory");
}

/// Every run makes its directory anew: a link goes, and what it leads to stays.
#[test]
fn what_links_lead_to_outlives_the_directory() {
    let place = Place::new();
    let (home, outside) = (place.home.path(), place.home.path().join("outside"));
    let dir = home.join(".local/share/keyrail/quickstart");
    let kept = || {
        let names = std::fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["file", "within"]);
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"mine");
        assert_eq!(std::fs::read(outside.join("within/file")).unwrap(), b"mine");
    };
    std::fs::create_dir_all(outside.join("within")).unwrap();
    std::fs::create_dir_all(dir.join("deeper")).unwrap();
    for file in ["file", "within/file"] {
        std::fs::write(outside.join(file), "mine").unwrap();
    }
    // Links in it, also where it puts its own files.
    for (link, to) in [
        ("data", "within"),
        ("people.sqlite", "file"),
        ("deeper/link", "within"),
        ("deeper/file", "file"),
        ("nowhere", "none"),
    ] {
        symlink(outside.join(to), dir.join(link)).unwrap();
    }
    place.run_with(&["quickstart", "--json", "--rows", "100"], b"").json();
    kept();
    // The directory itself is one.
    std::fs::remove_dir_all(&dir).unwrap();
    symlink(&outside, &dir).unwrap();
    place.run_with(&["quickstart", "--json", "--rows", "100"], b"").json();
    kept();
    assert!(std::fs::symlink_metadata(&dir).unwrap().is_dir() && dir.join("data").is_dir());
}

#[test]
fn a_second_run_begins_anew_and_ends_with_what_to_do_next() {
    let place = Place::new();
    let other = place.file("other-directory");
    std::fs::create_dir(&other).unwrap();
    for _ in 0..2 {
        let mut command = place.command(&["quickstart", "--rows", "300"]);
        let output = command.current_dir(&other).output().unwrap();
        let (told, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("retired acme/prod/crm/customer-pii@1") && said.contains("verified the log offline"),
            "{said}"
        );
        assert!(told.contains("quickstart --data FILE.sqlite --table TABLE --columns a,b"), "{told}");
        // What it says to look at is there, and works as it stands.
        let dir = place.home.path().join(".local/share/keyrail/quickstart/data");
        assert!(told.contains(&format!("keyrail --data-dir {} asset census people", dir.display())), "{told}");
        let census =
            place.run_with(&["--data-dir", dir.to_str().unwrap(), "asset", "census", "people", "--json"], b"").json();
        assert!(census["rows"].as_u64().unwrap() >= 300);
        // No search path leads to the program: the printed line starts it as it was started.
        let line = told.lines().find(|line| line.ends_with("asset census people")).unwrap();
        let mut shell = std::process::Command::new("/bin/sh");
        let ran = shell.args(["-c", line]).current_dir(&other).env("PATH", "").output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    assert!(std::fs::read_dir(&other).unwrap().next().is_none());
}

#[test]
fn the_made_up_table_looks_like_production() {
    let place = Place::new();
    let ran = place.run_with(&["quickstart", "--json", "--rows", "3000"], b"");
    check(&ran.json(), 3000);
    let path = place.home.path().join(".local/share/keyrail/quickstart/people.sqlite");
    let app = Connection::open(path).unwrap();
    let count = |sql: &str| -> u64 {
        app.query_row(&format!("SELECT count(*) FROM people WHERE {sql}"), [], |row| row.get::<_, u32>(0))
            .unwrap()
            .into()
    };
    let names: String =
        app.query_row("SELECT group_concat(DISTINCT full_name) FROM people", [], |row| row.get(0)).unwrap();
    let scripts = [
        ('A', 'Z'),
        ('À', 'ÿ'),
        ('α', 'ω'),
        ('а', 'я'),
        ('א', 'ת'),
        ('ا', 'ي'),
        ('ऀ', 'ॿ'),
        ('ก', '๛'),
        ('一', '鿿'),
        ('ぁ', 'ん'),
        ('가', '힣'),
    ];
    for (from, to) in scripts {
        assert!(names.chars().any(|c| (from..=to).contains(&c)), "no name between {from} and {to}");
    }
    for column in ["email", "phone", "notes"] {
        assert!(count(&format!("{column} IS NULL")) > 100, "{column}");
        assert_eq!(count(&format!("{column} NOT LIKE 'kr1.%'")), 0, "{column} is protected");
    }
    assert!(count("email IS NULL AND phone IS NULL AND notes IS NULL") > 3);
    assert!(count("length(notes) > 4096 * 4 / 3") > 3, "notes of 4 KiB");
}

#[test]
fn a_table_that_cannot_be_protected_is_refused_with_what_to_do() {
    let place = Place::new();
    let path = place.file("shop.sqlite");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY, mail UNIQUE, name)")
        .unwrap();
    for (table, columns, code, exit) in [
        ("users", "mail", "asset_unfit", 2),
        ("nobody", "mail", "asset_absent", 4),
        ("users", "phone", "asset_absent", 4),
    ] {
        let ran = on_data(&place, &path, table, columns);
        assert_eq!((ran.code, ran.text().as_str()), (exit, ""), "{}", ran.stderr);
        let said: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
        assert_eq!(said["error"]["code"], code);
        assert!(!said["error"]["hint"].as_str().unwrap().is_empty());
    }
    assert_eq!(on_data(&place, &place.file("absent.sqlite"), "users", "name").code, 4);
    check(&on_data(&place, &path, "USERS", "NAME").json(), 0);
    check(&on_data(&place, &path, "users", "name").json(), 0);
}

/// Names are looked at before anything is made or removed, and those that are there are told.
#[test]
fn a_name_that_is_not_there_is_told_with_those_that_are() {
    let place = Place::new();
    let path = place.file("shop.sqlite");
    let shop = Connection::open(&path).unwrap();
    shop.execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY, name); CREATE INDEX i ON users (name); ANALYZE")
        .unwrap();
    let hint = |table: &str, columns: &str| {
        let ran = on_data(&place, &path, table, columns);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "nothing was begun: {}", ran.stderr);
        let said: Value = serde_json::from_str(&ran.stderr).unwrap();
        said["error"]["hint"].as_str().unwrap().to_owned()
    };
    assert_eq!(hint("nobody", "name"), "name one of its tables with --table: `users`");
    assert_eq!(hint("users", "name,phone"), "name some of its columns with --columns: `id`, `name`");
    let made = place.home.path().join(".local/share/keyrail/quickstart");
    assert!(!made.exists(), "nothing is made");
    check(&on_data(&place, &path, "users", "name").json(), 0);
    hint("nobody", "name");
    shop.execute_batch("CREATE VIEW seen AS SELECT name FROM users").unwrap();
    assert_eq!(hint("seen", "name"), "name one of its tables with --table: `users`");
    assert!(made.join("data").exists(), "what the former run left is there");
    let many: String = (0..300).map(|i| format!("CREATE TABLE t{i:03} (a);")).collect();
    shop.execute_batch(&many).unwrap();
    let listed = hint("nobody", "name");
    assert!(listed.ends_with("`t019` and 281 more"), "{listed}");
}

/// Every run makes its own directory anew: what lies there is not to be its input.
#[test]
fn a_database_in_its_own_directory_is_refused_and_stays() {
    let place = Place::new();
    let own = place.home.path().join(".local/share/keyrail/quickstart");
    std::fs::create_dir_all(&own).unwrap();
    let path = own.join("people.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, name)").unwrap();
    let link = place.file("link.sqlite");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for named in [&path, &link] {
        let ran = on_data(&place, named, "people", "name");
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("copy it elsewhere first"), "{}", ran.stderr);
        assert!(path.exists());
    }
    std::fs::copy(&path, place.file("copy.sqlite")).unwrap();
    check(&on_data(&place, &place.file("copy.sqlite"), "people", "name").json(), 0);
}

#[test]
fn the_main_job_runs_on_a_database_that_another_sqlite_made() {
    let place = Place::new();
    let path = place.file("theirs.sqlite");
    // Python brings a SQLite of its own, with its own version and options.
    let script = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1])\n\
        c.execute('CREATE TABLE \"their people\" (name text, \"e mail\" varchar(40), age, photo blob)')\n\
        c.executemany('INSERT INTO \"their people\" VALUES (?, ?, ?, ?)',\n\
          [(f'n{i}', None if i % 7 == 0 else f'm{i}@example.org', i if i % 2 else i / 3, bytes([i % 256])) for i in range(900)])\n\
        c.commit()";
    let made = python().args(["-c", script]).arg(&path).output().expect("KEYRAIL_PYTHON or python3 on PATH");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = std::fs::read(&path).unwrap();
    let ran = on_data(&place, &path, "their people", "e mail,age,photo");
    let done = ran.json();
    check(&done, 900);
    assert_eq!(done["opened"], 900, "the second writer adds no row here");
    assert!(done["written_meanwhile"].as_u64().unwrap() > 0);
    assert!(ran.stderr.contains("not bound to their rows"), "a table without a key is warned of: {}", ran.stderr);
    assert_eq!(std::fs::read(&path).unwrap(), before, "the original is not touched");
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
    let done = on_data(&place, &path, "orders", "customer,note").json();
    check(&done, 700);
    assert_eq!(done["opened"].as_u64(), Some(700));
    let after: String =
        app.query_row("SELECT group_concat(quote(customer) || quote(note)) FROM orders", [], |row| row.get(0)).unwrap();
    assert_eq!(before, after, "the original is not touched");
}
