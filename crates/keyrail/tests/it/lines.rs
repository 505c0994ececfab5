//! What a line may say: names in quotes, waits with a bound; and readers that go away.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::json;

use crate::place::Place;

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    place.with_key();
    let sealed = place.run_in("encrypt acme/prod/crm/customer-pii", b"data").stdout;
    for line in [
        "completions bash",
        "openapi",
        "--help",
        "label list",
        "audit show --json",
        "decrypt acme/prod/crm/customer-pii",
    ] {
        let dir = place.data_dir();
        let args: Vec<_> = ["--data-dir", dir.to_str().unwrap()].into_iter().chain(line.split(' ')).collect();
        let mut command = place.command(&args);
        std::fs::write(place.file("sealed"), &sealed).unwrap();
        command.stdin(std::fs::File::open(place.file("sealed")).unwrap());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), said.as_ref()), (Some(0), ""), "{line}");
    }
}

/// A disk that is full is not a reader that went away: who lost an answer is told, and what became of it.
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let place = Place::new();
    let full = |line: &str, stdin: &[u8]| {
        let dir = place.data_dir();
        let args: Vec<_> = ["--data-dir", dir.to_str().unwrap()].into_iter().chain(line.split(' ')).collect();
        let mut command = place.command(&args);
        std::fs::write(place.file("stdin"), stdin).unwrap();
        command.stdin(std::fs::File::open(place.file("stdin")).unwrap());
        command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
        let ended = command.output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    let (code, said) = full("init", b"");
    assert_eq!(code, Some(6), "{said}");
    assert!(
        said.contains("error: cannot write standard output") && said.contains("token create --role owner"),
        "{said}"
    );
    // What the hint says works.
    assert!(place.ok("token create --role owner --json").json()["token"].as_str().unwrap().starts_with("krt_"));
    place.ok("domain create acme");
    place.ok("app create acme/prod/crm");
    place.ok("key create acme/prod/crm/customer-pii --label confidential");
    let sealed = place.run_in("encrypt acme/prod/crm/customer-pii", b"data").stdout;
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    app.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'one')").unwrap();
    let url = format!("sqlite:{}", place.file("app.sqlite").display());
    place.ok(&format!("asset add t --url {url} --table t --column v --key acme/prod/crm/customer-pii"));
    for line in [
        "asset protect t",
        "audit checkpoint",
        "audit show --json",
        "audit verify",
        "completions bash",
        "decrypt acme/prod/crm/customer-pii",
        "decrypt acme/prod/crm/customer-pii --json",
        "health",
        "--help",
        "label list",
        "openapi",
        "reencrypt acme/prod/crm/customer-pii",
        "root status",
        "token create --role auditor",
        "verify",
        "--version",
    ] {
        let (code, said) = full(line, &sealed);
        assert_eq!(code, Some(6), "{line}: {said}");
        assert!(said.contains("cannot write standard output") && said.contains("hint"), "{line}: {said}");
    }
    let (_, said) = full("label list --json", b"");
    let said: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(said["error"]["code"], "output_failed");
}

/// What is shown once is lost with its reader, and that is told.
#[test]
fn a_token_whose_reader_went_away_is_told_as_lost() {
    let place = Place::new();
    for (line, hint) in [
        ("init", "token create --role owner"),
        ("token create --role auditor", "keyrail token list"),
        ("token create --role auditor --json", "keyrail token list"),
    ] {
        let dir = place.data_dir();
        let args: Vec<_> = ["--data-dir", dir.to_str().unwrap()].into_iter().chain(line.split(' ')).collect();
        let mut command = place.command(&args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command.stdin(Stdio::null()).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(6), "{line}: {said}");
        assert!(said.contains("cannot write standard output") && said.contains(hint), "{line}: {said}");
    }
    assert_eq!(place.ok("token list --json").json()["tokens"].as_array().unwrap().len(), 3, "they are made");
}

/// A line that stops short of its command.
#[test]
fn a_line_without_its_command_is_an_error_with_a_hint() {
    let place = Place::new();
    for (line, words) in [("key", "keyrail key"), ("audit", "keyrail audit")] {
        let ran = place.run_with(&[line], b"");
        assert_eq!((ran.code, ran.text().as_str()), (2, ""), "{line}");
        assert!(
            ran.stderr.contains(&format!("\nerror: `{words}` needs a command\nhint: `{words} --help`")),
            "{}",
            ran.stderr
        );
    }
    for args in [&["--json"][..], &["key", "--json"]] {
        let ran = place.run_with(args, b"");
        assert_eq!(ran.code, 2);
        let said: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(said["error"]["code"], "usage", "{args:?}");
        assert!(said["error"]["hint"].as_str().unwrap().contains("keyrail"), "{said}");
    }
}

/// Nothing there is exit code 4, whatever is looked for.
#[test]
fn what_is_not_there_is_absent() {
    let place = Place::new();
    let absent = |ran: &crate::place::Ran| assert_eq!(ran.code, 4, "{}", ran.stderr);
    for line in ["audit verify", "verify", "key list"] {
        absent(&place.run(line));
    }
    place.with_key();
    let nowhere = place.file("nowhere");
    absent(&place.run(&format!("audit verify --audit-dir {}", nowhere.display())));
    absent(&place.run(&format!("audit verify --journal-dir {}", nowhere.display())));
    absent(&place.run(&format!("audit verify --checkpoint {}", nowhere.display())));
    std::fs::remove_file(place.data_dir().join("log-public-key")).unwrap();
    absent(&place.run("audit verify"));
}

/// What damage a campaign leaves counts more than that its answer cannot be written.
#[test]
fn a_campaign_that_leaves_values_says_so_on_a_full_disk() {
    let place = Place::new();
    place.with_key();
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    app.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two')")
        .unwrap();
    let url = format!("sqlite:{}", place.file("app.sqlite").display());
    place.ok(&format!("asset add t --url {url} --table t --column v --key acme/prod/crm/customer-pii"));
    place.ok("asset protect t");
    app.execute_batch("UPDATE t SET v = (SELECT v FROM t WHERE id = 1) WHERE id = 2").unwrap();
    place.ok("key rotate acme/prod/crm/customer-pii");
    let dir = place.data_dir();
    let mut command = place.command(&["--data-dir", dir.to_str().unwrap(), "campaign", "start", "t"]);
    command.stdin(Stdio::null()).stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(5), "{said}");
    assert!(said.contains("keyrail asset census t"), "{said}");
}

/// A column may be called anything.
#[test]
fn names_in_quotes_may_hold_colons_commas_and_none() {
    let place = Place::new();
    place.with_key();
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    let table = r#"CREATE TABLE t ("none" TEXT PRIMARY KEY, "a:b" TEXT, "c,""d" TEXT); INSERT INTO t VALUES ('1', '{"x":"one"}', 'two')"#;
    app.execute_batch(table).unwrap();
    let url = format!("sqlite:{}", place.file("app.sqlite").display());
    let dir = place.data_dir();
    let run = |args: &[&str]| place.run_with(&[&["--data-dir", dir.to_str().unwrap(), "--json"], args].concat(), b"");
    let add = ["asset", "add", "t", "--url", &url, "--table", "t", "--key", "acme/prod/crm/customer-pii"];
    let columns = ["--column", r#""a:b":$.x"#, "--column", r#""c,""d""#, "--id", r#""none""#];
    let added = run(&[&add[..], &columns[..]].concat()).json();
    assert_eq!(added["identity_columns"], json!(["none"]), "{added}");
    assert_eq!(added["columns"][0]["column"], "a:b", "{added}");
    assert_eq!((&added["columns"][0]["json_path"], &added["columns"][1]["column"]), (&json!("$.x"), &json!("c,\"d")));
    place.ok("asset protect t");
    let census = place.ok("asset census t --json").json();
    assert_eq!((&census["plaintext"], &census["versions"][0]["values"]), (&json!(0), &json!(2)), "{census}");
    for bad in [r#""a:b"#, r#""a"b"#] {
        let refused = run(&[&add[..], &["--column", bad]].concat());
        assert_eq!(refused.code, 2, "{bad}: {}", refused.stderr);
    }
    app.execute_batch(r#"ALTER TABLE t RENAME COLUMN "a:b" TO "a=b""#).unwrap();
    assert_eq!(run(&["asset", "update", "t", "--column", r#""a:b"="a=b""#]).json()["columns"][0]["column"], "a=b");
}

/// A label may ask for a window of days: the command ends, says so, and how to go on.
#[test]
fn retiring_waits_no_longer_than_it_was_told() {
    let place = Place::new();
    place.with_key();
    place.ok("label set confidential --write-window 3d");
    place.ok("key rotate acme/prod/crm/customer-pii");
    let begun = Instant::now();
    let refused = place.run("key retire acme/prod/crm/customer-pii@1 --wait 1s");
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("write window"), "{}", refused.stderr);
    // A hundredth longer than the label says, rounded up to whole days.
    assert!(refused.stderr.contains("hint: ") && refused.stderr.contains("again in 4d"), "{}", refused.stderr);
    assert!(begun.elapsed() < Duration::from_secs(25), "it waited {:?}", begun.elapsed());
    let refused = place.run("key retire acme/prod/crm/customer-pii@1 --wait 1s --json");
    let said: serde_json::Value = serde_json::from_str(refused.stderr.lines().last().unwrap()).unwrap();
    assert!(said["error"]["seconds_left"].as_u64().unwrap() > 250_000, "{said}");
    assert_eq!(said["error"]["request_id"].as_str().unwrap().len(), 32, "{said}");
    // Who cannot have the evidence does not retire on it.
    let unknown = place.run("key retire acme/prod/crm/customer-pii@9");
    assert_eq!(unknown.code, 4, "{}", unknown.stderr);
    for wait in ["soon", "10000000000000000000s"] {
        let misread = place.run(&format!("key retire acme/prod/crm/customer-pii@1 --wait {wait}"));
        assert_eq!(misread.code, 2, "{wait}: {}", misread.stderr);
        assert!(misread.stderr.contains("hint: "), "{wait}: {}", misread.stderr);
    }
}

/// A dry run of unprotecting tells what it would decrypt, and changes nothing.
#[test]
fn unprotecting_has_a_dry_run() {
    let place = Place::new();
    place.with_key();
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    app.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, NULL)",
    )
    .unwrap();
    let url = format!("sqlite:{}", place.file("app.sqlite").display());
    place.ok(&format!("asset add t --url {url} --table t --column v --key acme/prod/crm/customer-pii"));
    place.ok("asset protect t");
    let stored = || -> String { app.query_row("SELECT group_concat(v) FROM t", [], |row| row.get(0)).unwrap() };
    let before = stored();
    let plan = place.ok("asset unprotect t --dry-run --json").json();
    assert_eq!((&plan["values"], &plan["rows"], &plan["target"]), (&json!(2), &json!(3), &json!(null)), "{plan}");
    assert!(plan["seconds"].as_f64().unwrap() > 0.0, "{plan}");
    assert_eq!(stored(), before);
}
