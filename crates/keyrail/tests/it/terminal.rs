//! What a person at a terminal sees, and what a program elsewhere gets.

use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::place::Place;

const KEY: &str = "acme/prod/crm/customer-pii";

fn table(place: &Place, rows: usize) {
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT)").unwrap();
    app.execute_batch("BEGIN").unwrap();
    for row in 0..rows {
        app.execute("INSERT INTO people (email) VALUES (?1)", [format!("person-{row}@example.org")]).unwrap();
    }
    app.execute_batch("COMMIT").unwrap();
    let url = format!("sqlite:{}", place.file("app.sqlite").display());
    place.ok(&format!("asset add people --url {url} --table people --column email --key {KEY}"));
}

/// Runs a command line at a terminal of its own; gives all that the terminal showed.
fn at_a_terminal(place: &Place, line: &str) -> String {
    let dir = place.data_dir();
    let binary = keyrail_testkit::keyrail_bin().unwrap();
    let line = format!("'{}' --data-dir '{}' {line}", binary.display(), dir.display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    place.home.house(&mut command);
    let ran = command
        .env("TERM", "xterm")
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .expect("script is installed (package bsdutils)");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn progress_is_a_bar_at_a_terminal_and_lines_elsewhere() {
    let place = Place::new();
    place.with_key();
    table(&place, 3_000);
    let shown = at_a_terminal(&place, "asset protect people");
    assert!(shown.contains("\u{1b}["), "a terminal gets a bar that moves: {shown:?}");
    assert!(shown.contains("rows") && shown.contains("protecting"), "{shown:?}");
    place.ok(&format!("key rotate {KEY}"));
    let elsewhere = place.ok("campaign start people");
    assert!(!elsewhere.stderr.contains('\u{1b}') && !elsewhere.text().contains('\u{1b}'), "{}", elsewhere.stderr);
    assert!(
        elsewhere.stderr.contains("re-encrypting: ") && elsewhere.stderr.contains(" of 3000 rows"),
        "{}",
        elsewhere.stderr
    );
    assert!(elsewhere.text().starts_with("campaign "), "its id comes first: {}", elsewhere.text());
    // With --json nothing but JSON is on standard output, one object a line.
    place.ok(&format!("key rotate {KEY}"));
    let json = place.run("campaign start people --json");
    for line in json.text().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).unwrap().is_object(), "{line}");
    }
    assert_eq!(json.last_json()["state"], "completed");
}

#[test]
fn nothing_asks_where_nobody_can_answer() {
    let place = Place::new();
    place.with_key();
    table(&place, 3);
    // Each command ends by itself with an empty standard input, whatever it would like to know.
    for line in [
        "init",
        "key retire acme/prod/crm/customer-pii@1",
        "key destroy acme/prod/crm/customer-pii@1",
        "key compromise acme/prod/crm/customer-pii@1",
        "asset unprotect people",
        "setting local-operator on",
        "token create --role owner",
        "decrypt acme/prod/crm/customer-pii",
        "encrypt acme/prod/crm/customer-pii",
    ] {
        let ran = place.run(line);
        assert!([0, 2, 3, 4, 5].contains(&ran.code), "{line}: {}", ran.stderr);
        assert!(!ran.stderr.contains('?') && !ran.text().contains("[y/"), "{line}: {}", ran.stderr);
    }
}
