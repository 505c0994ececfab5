//! Every verb of the contract, once on a data directory and once on a server, with answers of the same shape.

use std::collections::BTreeMap;

use keyrail_testkit::Server;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::place::{Place, Ran};

const KEY: &str = "acme/prod/crm/customer-pii";

/// Where a command line is run.
struct Side {
    place: Place,
    /// The server, and the owner's token in a file; none acts on the data directory.
    server: Option<Server>,
    /// Texts of former answers that later lines need.
    known: BTreeMap<&'static str, String>,
}

impl Side {
    fn new(remote: bool) -> Self {
        let place = Place::new();
        let made = place.run("init --json").json();
        std::fs::write(place.file("token"), made["token"].as_str().unwrap()).unwrap();
        let app = Connection::open(place.file("app.sqlite")).unwrap();
        app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, profile TEXT); INSERT INTO people VALUES (1, 'a@example.org', '{\"phone\":\"+31\"}'), (2, NULL, NULL), (3, 'c@example.org', '{}')").unwrap();
        let server = remote.then(|| place.serve());
        Self { place, server, known: BTreeMap::new() }
    }

    fn run(&self, line: &str, stdin: &[u8]) -> Ran {
        let mut line = line.replace("{app}", &format!("sqlite:{}", self.place.file("app.sqlite").display()));
        for (name, text) in &self.known {
            line = line.replace(&format!("{{{name}}}"), text);
        }
        let (dir, token) = (self.place.data_dir(), self.place.file("token"));
        let mut args: Vec<&str> = line.split(' ').collect();
        // Global flags may stand anywhere: here at the end, in other tests at the beginning.
        match &self.server {
            Some(server) => args.extend(["--token-file", token.to_str().unwrap(), "--server", server.url()]),
            None => args.extend(["--data-dir", dir.to_str().unwrap()]),
        }
        args.push("--json");
        self.place.run_with(&args, stdin)
    }
}

/// The shape of an answer: names and kinds, not values. A list is as its first entry.
fn shape(value: &Value) -> Value {
    match value {
        // Only a caller with a token has a session.
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "session");
            fields.map(|(name, value)| (name.clone(), shape(value))).collect()
        }
        Value::Array(items) => items.first().map_or_else(|| json!([]), |first| json!([shape(first)])),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("yes or no"),
        Value::Null => Value::Null,
    }
}

/// A line, its exit code, and the name under which a part of its answer is kept for later lines.
const LINES: &[(&str, i32, Option<(&str, &str)>)] = &[
    ("domain create acme", 0, None),
    ("domain create acme", 2, None),
    ("domain list", 0, None),
    ("app create acme/prod/crm", 0, None),
    ("app create nowhere/prod/crm", 4, None),
    ("app list --limit 1", 0, None),
    ("label set confidential --write-window 1s --destroy-wait 0s", 0, None),
    ("label set confidential --write-window 400d", 2, None),
    ("label list", 0, None),
    ("token create --role app --app acme/prod/crm --ttl 1h", 0, Some(("token", "/id"))),
    ("token list", 0, None),
    ("token revoke {token}", 0, None),
    ("key create acme/prod/crm/customer-pii --label confidential", 0, None),
    ("key show acme/prod/crm/customer-pii", 0, None),
    ("key show acme/prod/crm/nothing", 4, None),
    ("key list --app acme/prod/crm", 0, None),
    ("encrypt acme/prod/crm/customer-pii --context row=1", 0, Some(("sealed", "/ciphertext"))),
    ("decrypt acme/prod/crm/customer-pii --context row=1", 0, None),
    ("decrypt acme/prod/crm/customer-pii --context row=2", 5, None),
    (
        "asset add people --url {app} --table people --id id --column email --column profile:$.phone --key acme/prod/crm/customer-pii",
        0,
        None,
    ),
    ("asset add people --url {app} --table people --column email --key acme/prod/crm/customer-pii", 2, None),
    ("asset show people", 0, None),
    ("asset list", 0, None),
    ("asset protect people --dry-run", 0, None),
    ("asset protect people", 0, None),
    ("asset census people", 0, None),
    ("key rotate acme/prod/crm/customer-pii", 0, None),
    ("master rotate acme/prod", 0, None),
    ("master show acme/prod", 0, None),
    ("reencrypt acme/prod/crm/customer-pii --context row=1", 0, None),
    ("campaign start people --dry-run", 0, None),
    ("campaign start people --rate 1000", 0, Some(("campaign", "/id"))),
    ("campaign status {campaign}", 0, None),
    ("campaign pause {campaign}", 3, None),
    ("campaign resume {campaign}", 3, None),
    ("campaign list", 0, None),
    ("asset accept-damaged people i1 --reason none", 4, None),
    ("key evidence acme/prod/crm/customer-pii@1", 0, None),
    ("key retire acme/prod/crm/customer-pii@1", 3, None),
    ("key retire acme/prod/crm/customer-pii@1 --acknowledge {who}", 0, None),
    ("decrypt acme/prod/crm/customer-pii --context row=1", 3, None),
    ("key reinstate acme/prod/crm/customer-pii@1", 0, None),
    ("campaign rollback {campaign}", 0, None),
    ("key suspend acme/prod/crm/customer-pii@2", 0, None),
    ("key resume acme/prod/crm/customer-pii@2", 0, None),
    ("key export acme/prod/crm/customer-pii@1", 0, None),
    ("key compromise acme/prod/crm/customer-pii@2", 0, None),
    ("key destroy acme/prod/crm/customer-pii@2", 3, None),
    ("key destroy acme/prod/crm/customer-pii@2 --acknowledge {who}", 0, None),
    ("asset update people --column email=email", 0, None),
    ("asset unprotect people --dry-run", 0, None),
    ("asset unprotect people", 0, None),
    ("audit show --limit 5", 0, None),
    ("audit checkpoint", 0, None),
    ("root status", 0, None),
    ("health", 0, None),
    ("setting local-operator on", 0, None),
    ("verify", 0, None),
];

#[test]
fn every_verb_works_on_a_directory_and_on_a_server_alike() {
    let (mut local, mut remote) = (Side::new(false), Side::new(true));
    local.known.insert("who", "local-operator".to_owned());
    let tokens = remote.run("token list", b"").json();
    remote.known.insert("who", format!("token:{}", tokens["tokens"][0]["id"].as_str().unwrap()));
    for (line, code, keep) in LINES {
        let mut shapes = Vec::new();
        for side in [&mut local, &mut remote] {
            let stdin =
                if line.starts_with("encrypt") { "plain" } else { side.known.get("sealed").map_or("", String::as_str) };
            let ran = side.run(line, stdin.as_bytes());
            let whose = if side.server.is_some() { "server" } else { "directory" };
            assert_eq!(ran.code, *code, "{line} ({whose}): {}{}", ran.text(), ran.stderr);
            let said = if *code == 0 { ran.text() } else { ran.stderr.clone() };
            let answers: Vec<Value> = said
                .lines()
                .filter_map(|row| serde_json::from_str(row).ok())
                // Warnings of the program's own log are no answers.
                .filter(|row: &Value| row.get("level").is_none())
                .collect();
            let last = answers.last().unwrap_or_else(|| panic!("{line} ({whose}): no JSON in {said}"));
            if *code != 0 {
                assert!(last["error"]["code"].is_string() && last["error"]["title"].is_string(), "{line}: {said}");
                assert!(last["error"]["hint"].is_string(), "{line}: {said}");
            }
            if let Some((name, pointer)) = keep {
                side.known.insert(name, last.pointer(pointer).unwrap().as_str().unwrap().to_owned());
            }
            shapes.push(answers.iter().map(shape).collect::<Vec<_>>());
        }
        // Offline, the log is verified as well, which a server cannot do for its caller.
        if *line == "verify" {
            shapes.iter_mut().flatten().for_each(|answer| answer["audit"] = Value::Null);
        }
        if code != &0 {
            let code_of = |side: &Vec<Value>| side.last().cloned();
            assert_eq!(code_of(&shapes[0]), code_of(&shapes[1]), "{line}");
            continue;
        }
        assert_eq!(shapes[0].last(), shapes[1].last(), "{line}");
    }
}

#[test]
fn what_reads_works_beside_a_server_and_what_writes_is_refused() {
    let place = Place::new();
    place.with_key();
    let sealed = place.run_in(&format!("encrypt {KEY}"), b"before").text();
    let server = place.serve();
    for line in [
        "key list",
        &format!("key show {KEY}"),
        "label list",
        "asset list",
        "campaign list",
        "root status",
        "audit show",
        "verify",
        "audit verify",
        "health",
        "token list",
        "master show acme/prod",
    ] {
        place.ok(line);
    }
    let lock = place.data_dir().join("lock");
    let held = std::fs::metadata(&lock).unwrap().modified().unwrap();
    for (line, stdin) in [
        (format!("key rotate {KEY}"), ""),
        ("domain create other".to_owned(), ""),
        (format!("encrypt {KEY}"), "data"),
        (format!("decrypt {KEY}"), sealed.as_str()),
        ("serve --listen 127.0.0.1:0".to_owned(), ""),
        ("init".to_owned(), ""),
    ] {
        let refused = place.run_in(&line, stdin.as_bytes());
        assert_eq!(refused.code, if line == "init" { refused.code } else { 6 }, "{line}: {}", refused.stderr);
        assert!(
            refused.code != 0 && refused.stderr.contains("another process uses the data directory"),
            "{line}: {}",
            refused.stderr
        );
        assert!(refused.stderr.contains("hint: name the running server with --server"), "{line}: {}", refused.stderr);
    }
    assert_eq!(std::fs::metadata(&lock).unwrap().modified().unwrap(), held);
    server.into_child().stop(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(place.run_in(&format!("decrypt {KEY}"), sealed.as_bytes()).stdout, b"before");
}

#[test]
fn tokens_come_from_a_file_or_the_environment_and_flags_stand_anywhere() {
    let place = Place::new();
    let token = place.with_key();
    let server = place.serve();
    let run = |args: &[&str], token: Option<&str>| {
        let mut command = place.command(args);
        if let Some(token) = token {
            command.env("KEYRAIL_TOKEN", token);
        }
        command.output().unwrap()
    };
    let url = server.url().to_owned();
    let url = url.as_str();
    let code = |args: &[&str], token: Option<&str>| run(args, token).status.code().unwrap();
    assert_eq!(code(&["key", "list", "--server", url], Some(&token)), 0);
    assert_eq!(code(&["--server", url, "key", "list"], None), 3);
    assert_eq!(code(&["key", "--server", url, "list"], Some("krt_wrong")), 3);
    std::fs::write(place.file("token"), format!("  {token}\n\n")).unwrap();
    // The file counts more than the environment.
    assert_eq!(code(&["key", "list", "--token-file", "token", "--server", url], Some("krt_wrong")), 0);
    assert_eq!(code(&["key", "list", "--token-file", "nothing", "--server", url], None), 4);
    assert_eq!(code(&["key", "list", "--server", "nonsense"], None), 2);
    assert_eq!(code(&["--json", "key", "--token-file", "token", "list", "--server", url], None), 0);
    for args in [
        ["--data-dir", "D", "--server", url, "key", "list"],
        ["key", "list", "--data-dir", "D", "--server", url],
        ["--data-dir", "D", "key", "list", "--server", url],
    ] {
        assert_eq!(code(&args, Some(&token)), 2, "a directory and a server: {args:?}");
    }
    drop(server);
    // Nobody listens there any more.
    let unreachable = run(&["key", "list", "--server", url, "--json"], Some(&token));
    assert_eq!(unreachable.status.code(), Some(6));
    let said: Value = serde_json::from_slice(&unreachable.stderr).unwrap();
    assert_eq!(said["error"]["code"], "unreachable");
}

#[test]
fn every_exit_code_is_shown_by_a_command() {
    let place = Place::new();
    place.with_key();
    let json_error = |line: &str| -> (i32, Value) {
        let ran = place.run(&format!("{line} --json"));
        assert!(ran.stdout.is_empty(), "{line}: {}", ran.text());
        (ran.code, serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap())
    };
    assert_eq!(place.run("key list").code, 0);
    for (line, code, word) in [
        ("key frobnicate", 2, "usage"),
        ("key show UPPER", 2, "usage"),
        ("key list --limit 0", 2, "usage"),
        ("key retire acme/prod/crm/customer-pii@1", 3, "retire_blocked"),
        ("key show acme/prod/crm/nothing", 4, "not_found"),
        (
            "asset add a --url sqlite:/nothing/there --table t --column c --key acme/prod/crm/customer-pii",
            4,
            "asset_file_absent",
        ),
    ] {
        let (got, said) = json_error(line);
        assert_eq!((got, &said["error"]["code"]), (code, &json!(word)), "{line}: {said}");
        assert!(said["error"]["hint"].is_string(), "{line}: {said}");
        let plain = place.run(line);
        assert!(plain.stderr.starts_with("error: ") && plain.stderr.contains("\nhint: "), "{line}: {}", plain.stderr);
    }
    // 5: a row of the store was altered behind Keyrail's back.
    let store = Connection::open(place.data_dir().join("store.sqlite")).unwrap();
    assert_eq!(
        store.execute("UPDATE label SET write_window_seconds = 86400 WHERE name = 'confidential'", []).unwrap(),
        1
    );
    drop(store);
    let altered = place.run("label list");
    assert_eq!(altered.code, 5, "{}", altered.stderr);
    assert_eq!(place.run("verify").code, 5);
}
