//! No secret where it does not belong: logs, errors, metrics, records, files, and the memory of an idle server.

mod keys;
mod local;
mod remote;
mod secrets;
mod table;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::Method;
use keyrail_testkit::postgres::{Database, Version, shared};
use keyrail_testkit::softhsm::{PIN, SoftHsm, TOKEN};
use keyrail_testkit::{Server, planted_forms};
use serde_json::{Value, json};

use self::keys::rows_in_database;
use self::local::use_locally;
use self::remote::Remote;
use self::secrets::{PLANTED, Secrets, files_under};
use crate::client::Http;
use crate::place::Place;

/// How long a server may take to end.
const ENDS: Duration = Duration::from_secs(60);

const PASSPHRASE: &str = "a passphrase of seven words, never told";
/// The name of a domain.
const IN_THE_HEAP: &str = "a-name-that-is-in-the-heap";

const WRONG_PIN: &str = "1618033988749894";

const WRONG_PASSPHRASE: &str = "another passphrase, of somebody else";

fn serve(place: &Place, change: impl FnOnce(&mut Command)) -> Server {
    let dir = place.data_dir();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()]);
    change(&mut command);
    place.serve_with(command)
}

fn write_private(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// Seals, fails to unseal with a wrong secret, and unseals with the right one.
fn seal_and_unseal(url: &str, token: &str, root: &Path, wrong: &[u8], secrets: &mut Secrets) {
    let owner = Http::new(url, Some(token));
    let right = std::fs::read(root).unwrap();
    for (content, action, status) in [(&right, "seal", 200), (&wrong.to_vec(), "unseal", 503), (&right, "unseal", 200)]
    {
        write_private(root, content);
        let said = owner.send(Method::POST, &format!("/v1/system/{action}"), &[], &Value::Null);
        assert_eq!(said.status, status, "{action}: {}", said.text);
        secrets.say(if status == 200 { "answers" } else { "error answers" }, &said.text);
    }
}

/// Commands that find a wrong secret, or none.
fn fail_to_open(place: &Place, root: &Path, wrong: &[u8], secrets: &mut Secrets) {
    let right = std::fs::read(root).unwrap();
    let dir = place.data_dir();
    for content in [wrong, b"".as_slice()] {
        write_private(root, content);
        let ran = place.run_traced(&["--data-dir", dir.to_str().unwrap(), "key", "list"], b"");
        assert_ne!(ran.code, 0, "a wrong root opens nothing");
        secrets.say("log of a command", &ran.stderr);
    }
    write_private(root, &right);
}

/// Everything that was said, and every file of the data directory but the root of trust itself.
fn require_secrets_absent(place: &Place, secrets: &Secrets) {
    let mut places: Vec<&str> = secrets.said.iter().map(|(place, _)| *place).collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        let texts = secrets.said.iter().filter(|(said, _)| *said == place);
        let all: Vec<&str> = texts.map(|(_, text)| text.as_str()).collect();
        secrets.require_absent(place, all.join("\n").as_bytes());
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(place.data_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.retain(|path| path.file_name().is_some_and(|name| name != "root.key"));
    let expected: &[&str] =
        if secrets.database.is_some() { &["store-url"] } else { &["audit", "journal", "store.sqlite"] };
    for name in expected {
        assert!(entries.contains(&place.data_dir().join(name)), "{name}");
    }
    if let Some(database) = secrets.database {
        let rows = rows_in_database(database);
        assert!(rows.contains("acme/prod") && rows.len() > 10_000, "the rows are there");
        secrets.require_absent("tables of the database", rows.as_bytes());
        secrets.require_absent("log of the database", database.cluster().log().as_bytes());
    }
    let size =
        |path: &PathBuf| files_under(path).iter().map(|file| std::fs::metadata(file).unwrap().len()).sum::<u64>();
    for entry in entries.iter().filter(|path| size(path) > 0) {
        secrets.require_absent_in(entry.file_name().unwrap().to_str().unwrap(), entry);
    }
}

/// A store is made and used from the command line and over HTTP, all at trace level; nothing of it shows.
fn require_nothing_leaks(place: &Place, init: &str, root: &Path, wrong: &[u8], mut secrets: Secrets) {
    let token = use_locally(place, init, &mut secrets);
    fail_to_open(place, root, wrong, &mut secrets);
    let server = serve(place, |command| {
        command.env("KEYRAIL_LOG", "trace");
    });
    Remote { place, url: server.url(), token: &token, secrets: &mut secrets }.use_all();
    let backups = place.file("backups");
    let said =
        Http::new(server.url(), Some(&token)).send(Method::POST, "/v1/system/backup", &[], &json!({ "dir": backups }));
    assert_eq!(said.status, 200, "{}", said.text);
    secrets.say("answers", &said.text);
    seal_and_unseal(server.url(), &token, root, wrong, &mut secrets);
    secrets.keep_keys_if_known(place);
    secrets.require_absent_in_backup(place, &backups);
    // While the server runs, the store's newest pages are in its WAL, and records are in the journal alone.
    require_secrets_absent(place, &secrets);
    let logs = server.into_child().stop(ENDS).unwrap();
    assert!(logs.stderr.contains("TRACE") && logs.stderr.contains("DEBUG"), "the log is at trace level");
    assert_eq!(logs.left_out, 0, "all of the log is looked at");
    secrets.say("log", &format!("{}{}", logs.stdout, logs.stderr));
    require_secrets_absent(place, &secrets);
    let count = |prefix| secrets.count(prefix);
    println!(
        "{} keys, {} values of tables, {} tokens, searched for in {} texts and {} files",
        count("root") + count("slot") + count("store") + count("log") + count("master") + count("data key"),
        count("value"),
        (count("token") + count("owner")) / 2,
        secrets.said.len(),
        files_under(&place.data_dir()).len() - usize::from(place.data_dir().join("root.key").exists())
    );
}

#[test]
fn secrets_stay_where_they_belong() {
    let place = Place::new();
    let root = place.data_dir().join("root.key");
    let wrong = [b"keyrail root key v1\n".as_slice(), &[0x5a; 32]].concat();
    require_nothing_leaks(&place, "init", &root, &wrong, Secrets::default());
}

#[test]
fn a_passphrase_stays_where_it_belongs() {
    let place = Place::new();
    let root = place.file("passphrase");
    write_private(&root, PASSPHRASE.as_bytes());
    let mut secrets = Secrets::default();
    secrets.keep("passphrase", PASSPHRASE);
    secrets.keep("wrong passphrase", WRONG_PASSPHRASE);
    let init = format!("init --root passphrase-file:{}", root.display());
    require_nothing_leaks(&place, &init, &root, WRONG_PASSPHRASE.as_bytes(), secrets);
}

/// Rows and log are in a database: no secret is in its tables, nor in what its server writes down.
#[test]
fn in_a_database_secrets_stay_where_they_belong() {
    let database: &'static Database<'static> = Box::leak(Box::new(shared(Version::V18).database().unwrap()));
    let place = Place::new();
    let root = place.data_dir().join("root.key");
    let wrong = [b"keyrail root key v1\n".as_slice(), &[0x5a; 32]].concat();
    let secrets = Secrets::in_database(database);
    let init = format!("init --accept-async-loss --store {}", database.url());
    require_nothing_leaks(&place, &init, &root, &wrong, secrets);
}

/// The root key of a store on a token is known to the test alone: it asks the token for the slot key by another tool.
#[test]
fn a_pin_and_the_keys_behind_a_token_stay_where_they_belong() {
    let hsm = SoftHsm::new().unwrap();
    let place = Place::equipped(|command| hsm.equip(command));
    let (pin, module) = (place.file("pin"), SoftHsm::module().unwrap());
    write_private(&pin, PIN.as_bytes());
    let mut secrets = Secrets::default();
    secrets.keep("PIN", PIN);
    secrets.keep("wrong PIN", WRONG_PIN);
    let (input, output) = (place.file("block"), place.file("slot-key"));
    let mut tool = Command::new("pkcs11-tool");
    hsm.equip(&mut tool);
    tool.arg("--module").arg(&module).args(["--token-label", TOKEN, "--login", "--pin", PIN, "--label", "root"]);
    tool.args(["--encrypt", "-m", "AES-ECB", "--input-file"]).arg(&input).arg("--output-file").arg(&output);
    let tool = std::cell::RefCell::new(tool);
    secrets.slot_key_of = Some(Box::new(move |head| {
        let digested = [b"keyrail/pkcs11/slot-key/v1".as_slice(), head].concat();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &digested);
        std::fs::write(&input, digest).unwrap();
        let ended = tool.borrow_mut().output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        std::fs::read(&output).unwrap().try_into().unwrap()
    }));
    let spec = format!("{}?token=keyrail%20test&object=root&pin-file={}", module.display(), pin.display());
    require_nothing_leaks(&place, &format!("init --root pkcs11:{spec}"), &pin, WRONG_PIN.as_bytes(), secrets);
}

/// Forces a core of a running server, searches it, and removes it.
fn require_clean_core(place: &Place, server: &Server, name: &str, secrets: &Secrets) {
    let (core, pid) = (place.file(name), server.child().pid());
    let made = Command::new("gcore").arg("-o").arg(&core).arg(pid.to_string()).output();
    let made = made.expect("gcore is installed (package gdb)");
    let core = place.file(&format!("{name}.{pid}"));
    assert!(core.exists(), "{}{}", String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    secrets.require_absent_in_core(&core, IN_THE_HEAP);
    std::fs::remove_file(core).unwrap();
}

#[test]
fn the_core_of_an_idle_server_holds_no_key_and_no_new_token() {
    let place = Place::new();
    let mut unsearched = Secrets::default();
    let token = use_locally(&place, "init", &mut unsearched);
    let server = serve(&place, |command| {
        for (index, (_, form)) in planted_forms(PLANTED).into_iter().enumerate() {
            command.env(format!("PLANTED_{index}"), OsString::from_vec(form));
        }
    });
    let mut keys = Secrets::default();
    keys.keep_keys(&place.data_dir());
    Remote { place: &place, url: server.url(), token: &token, secrets: &mut unsearched }.use_all();
    keys.keep_keys(&place.data_dir());
    assert!(keys.count("data key") >= 3 && keys.count("master") >= 2 && keys.count("root") == 1);
    let owner = Http::new(server.url(), Some(&token));
    for index in 0..10 {
        // Nobody shows these again, so that only what handed them out can hold them. The allocator writes over the first
        // bytes of what it is given back: the ends are looked for.
        let made = owner.post("/v1/tokens", &json!({ "role": "auditor" }));
        let (_, end) = made["token"].as_str().unwrap().split_at(20);
        keys.keep(&format!("new token {index}"), end);
    }
    owner.post("/v1/domains", &json!({ "name": IN_THE_HEAP }));
    // Idle: the second for which a label lets keys stay is over, and the background work has had its turns.
    std::thread::park_timeout(Duration::from_secs(3));
    require_clean_core(&place, &server, "unsealed", &keys);
    let sealed = Http::new(server.url(), Some(&token)).send(Method::POST, "/v1/system/seal", &[], &Value::Null);
    assert_eq!(sealed.status, 200);
    require_clean_core(&place, &server, "sealed", &keys);
    server.into_child().stop(ENDS).unwrap();
}
