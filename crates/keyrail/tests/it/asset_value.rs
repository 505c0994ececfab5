//! Cells of a protected table, opened with an exported key by code that is not ours.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::place::Place;

/// The Python that has the packages of the interoperability checks.
pub(crate) fn python() -> Command {
    let command = std::env::var_os("KEYRAIL_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(command);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path)
}

/// Runs the script; what is missing on this machine fails the test and names itself.
fn script(args: &[&str], stdin: &str) -> String {
    let mut child = python()
        .arg(testdata("interop/asset_value.py"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("KEYRAIL_PYTHON or python3 on PATH");
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "it needs cbor2 and cryptography: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_vectors_hold_elsewhere() {
    let checked: Value =
        serde_json::from_str(&script(&["vectors", testdata("vectors/asset-value.json").to_str().unwrap()], ""))
            .unwrap();
    assert_eq!(checked, json!({ "rows": 20, "cells": 11, "failing": 9 }));
}

#[test]
fn a_protected_table_opens_elsewhere_with_an_exported_key() {
    let place = Place::new();
    place.with_key();
    let path = place.file("app.sqlite");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(
        "CREATE TABLE people (region TEXT, id INTEGER, v, p TEXT, PRIMARY KEY (region, id));
         INSERT INTO people VALUES ('eu', 1, 'zoë@example.org', '{\"phone\":\"+31 6\"}'), ('üs', 2, '', NULL), ('eu', 3, 41, '{}'),
           ('eu', 4, 2.5, '{\"phone\":[1, 2.50]}'), ('eu', 5, x'00ff', NULL), ('eu', 6, NULL, NULL), ('eu', 7, 'kr1.', NULL)",
    )
    .unwrap();
    let key = "acme/prod/crm/customer-pii";
    place.ok(&format!(
        "asset add people --url sqlite:{} --table people --column v --column p:$.phone --key {key}",
        path.display()
    ));
    place.ok("asset protect people");
    let (asset, shown) =
        (place.run("asset show people --json").json(), place.run(&format!("key show {key} --json")).json());
    let exported = place.run(&format!("key export {key}@1 --json")).json();
    let open = |column: usize, member: Option<&str>| -> Vec<(String, Value, Value)> {
        let name = asset["columns"][column]["column"].clone();
        let asked = json!({
            "database": path, "table": "people", "name": name, "id_columns": ["region", "id"], "member": member,
            "asset": asset["id"], "column": asset["columns"][column]["id"],
            "key": exported["key"], "kid": exported["kid"], "key_id": shown["id"],
        });
        let told = script(&["table"], &asked.to_string());
        let rows = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| (row["row"].as_str().unwrap().to_owned(), row["class"].clone(), row["value"].clone())).collect()
    };
    let row = |row: &str, class: &str, value: Value| (row.to_owned(), Value::from(class), value);
    let values = [
        row("teu,i1", "text", json!("zoë@example.org")),
        row("xc3bc73,i2", "text", json!("")),
        row("teu,i3", "integer", json!(41)),
        row("teu,i4", "real", json!(2.5)),
        row("teu,i5", "blob", json!("00ff")),
        row("teu,i6", "null", Value::Null),
        row("teu,i7", "text", json!("kr1.")),
    ];
    assert_eq!(open(0, None), values);

    app.execute_batch("DELETE FROM people WHERE id NOT IN (1, 4)").unwrap();
    let members = [row("teu,i1", "text", json!("+31 6")), row("teu,i4", "json", json!("[1, 2.50]"))];
    assert_eq!(open(1, Some("phone")), members);
    // A value in another row does not open elsewhere either.
    app.execute_batch("UPDATE people SET v = (SELECT v FROM people WHERE id = 1)").unwrap();
    assert_eq!(open(0, None)[1], ("teu,i4".to_owned(), Value::Null, Value::Null));
}
