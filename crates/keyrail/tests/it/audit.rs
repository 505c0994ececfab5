//! Code that is not ours verifies the log of the binary: eighty lines of Python over SHA-256 and Ed25519.

use std::path::{Path, PathBuf};

use http::Method;
use keyrail_testkit::scale;

use crate::client::Http;
use crate::interop::script;
use crate::place::{Place, READY};

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn verified(place: &Place, public_key: &str) -> Result<serde_json::Value, String> {
    let output = script("verify_log.py").arg(place.data_dir().join("audit")).arg(public_key).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) => Err(String::from_utf8(output.stderr).unwrap()),
        code => panic!("{code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn a_verifier_that_is_not_ours_agrees() {
    let place = Place::new();
    place.with_key();
    for _ in 0..4 {
        place.ok("master rotate acme/prod");
    }
    let public_key = std::fs::read_to_string(place.data_dir().join("log-public-key")).unwrap();
    let ours = place.ok("audit verify --json").json();
    let theirs = verified(&place, public_key.trim()).unwrap();
    assert!(theirs["records"].as_u64().unwrap() > 5);
    for name in ["origin", "records", "root"] {
        assert_eq!(theirs[name], ours[name], "{name}");
    }
    let mut all = Vec::new();
    files(&place.data_dir().join("audit"), &mut all);
    assert_eq!(all.len(), 4, "{all:?}");
    for file in all {
        let whole = std::fs::read(&file).unwrap();
        let mut content = whole.clone();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&file, content).unwrap();
        assert_eq!(place.run("audit verify").code, 5, "{}", file.display());
        assert!(verified(&place, public_key.trim()).is_err(), "{}", file.display());
        std::fs::write(&file, whole).unwrap();
    }
    verified(&place, public_key.trim()).unwrap();
}

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// Encrypts until the server is gone; gives how often it was answered.
fn keep_busy(url: &str, token: &str) -> usize {
    let http = Http::new(url, Some(token));
    let body = serde_json::json!({ "items": [{ "plaintext": "c2VjcmV0" }] });
    let answers = std::iter::from_fn(|| http.try_send(Method::POST, &format!("{KEY}/encrypt"), &[], &body));
    answers.inspect(|said| assert_eq!(said.status, 200, "{}", said.text)).count()
}

/// Whoever verifies beside a server under load sees a log that verifies and grows.
#[test]
fn a_log_verifies_beside_a_busy_server_and_right_after_it_was_killed() {
    let place = Place::new();
    let token = place.with_key();
    let server = place.serve();
    let url = server.url().to_owned();
    let killed = std::thread::scope(|scope| {
        let busy: Vec<_> = (0..3).map(|_| scope.spawn(|| keep_busy(&url, &token))).collect();
        let mut last = 0;
        for round in 0..scale(400).max(12) {
            let report = place.run("audit verify --json");
            assert_eq!(report.code, 0, "round {round}: {}", report.stderr);
            let records = report.json()["records"].as_u64().unwrap();
            assert!(records >= last, "round {round}: {records} after {last}");
            last = records;
        }
        assert!(last > 100, "the server was not busy: {last} records");
        let killed = server.into_child().kill().unwrap();
        let answered: usize = busy.into_iter().map(|thread| thread.join().unwrap()).sum();
        let report = place.ok("audit verify --json").json();
        assert!(report["records"].as_u64().unwrap() >= answered as u64, "{report}: {answered} were answered");
        // An auditor has the files and the public key alone.
        let public_key = place.data_dir().join("log-public-key");
        let line = format!("audit verify --audit-dir D/audit --public-key {} --json", public_key.display());
        let auditor = place.run_with(&line.split(' ').collect::<Vec<_>>(), b"").json();
        assert_eq!((&auditor["records"], &auditor["root"]), (&report["records"], &report["root"]));
        killed
    });
    assert!(!killed.status.success());
    // The next start finds as many, and the record of nothing else.
    let before = place.ok("audit verify --json").json();
    place.serve().into_child().stop(READY).unwrap();
    let after = place.ok("audit verify --json").json();
    assert_eq!(after["not_yet_signed"], 0);
    assert!(after["records"].as_u64() >= before["records"].as_u64());
}

/// The example of `spec/audit-record.md` is a record, and written as the page writes it.
#[test]
fn the_record_of_the_page_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/audit-record.md");
    let page = std::fs::read_to_string(page).unwrap();
    let example = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap().replace('\n', "");
    let record: keyrail_core::record::Record = serde_json::from_str(&example).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), example);
    // Every member that a record of the binary has stands on the page.
    let place = Place::new();
    place.with_key();
    let shown = place.ok("audit show --json").json();
    for record in shown["records"].as_array().unwrap() {
        for member in record.as_object().unwrap().keys().filter(|member| *member != "index") {
            assert!(page.contains(&format!("`{member}`")), "{member} is not on the page");
        }
    }
}

/// An export verifies like the log, is brought up, goes over nothing else, and tells a log that was taken back.
#[test]
fn an_export_verifies_wherever_it_is_and_is_brought_up() {
    let place = Place::new();
    place.with_key();
    let to = place.data_dir().with_file_name("exported");
    let public_key = place.data_dir().join("log-public-key");
    let export = format!("audit export {} --json", to.display());
    let verify = format!("audit verify --audit-dir {} --public-key {} --json", to.display(), public_key.display());
    let first = place.ok(&export).json();
    assert_eq!(first["added"], first["records"]);
    let former = place.data_dir().with_file_name("former");
    copy(&place.data_dir(), &former);
    place.ok("master rotate acme/prod");
    let next = place.ok(&export).json();
    let number = |answer: &serde_json::Value, name: &str| answer[name].as_u64().unwrap();
    assert!(number(&next, "added") > 0);
    assert_eq!(number(&next, "records"), number(&first, "records") + number(&next, "added"));
    let (ours, theirs) = (place.ok("audit verify --json").json(), place.ok(&verify).json());
    for name in ["origin", "records", "root"] {
        assert_eq!(ours[name], theirs[name], "{name}");
    }
    // The older log has nothing that continues it.
    let older = place.run(&format!("{export} --audit-dir {}", former.join("audit").display()));
    assert_eq!(older.code, 5);
    let letter = to.join("letter");
    std::fs::write(&letter, "somebody's").unwrap();
    assert_ne!(place.run(&export).code, 0);
    assert_eq!(std::fs::read_to_string(&letter).unwrap(), "somebody's");
}

/// The log is no export of itself: what is taken away there as stale is what its checkpoint needs.
#[test]
fn an_export_into_the_log_itself_is_refused() {
    let place = Place::new();
    place.with_key();
    let (data, elsewhere) = (place.data_dir(), place.file("link"));
    std::os::unix::fs::symlink(data.join("audit"), &elsewhere).unwrap();
    // A partial tile of before, as it lies there until a running server has published the next.
    let stale = data.join("audit/tile/0/000.p/1");
    std::fs::create_dir_all(stale.parent().unwrap()).unwrap();
    std::fs::write(&stale, [0; 32]).unwrap();
    for to in [data.clone(), data.join("audit"), data.join("export"), data.join("audit/../audit/tile"), elsewhere] {
        for source in ["", &format!(" --audit-dir {}", data.join("audit").display())] {
            let ran = place.run(&format!("audit export {}{source}", to.display()));
            assert_eq!(ran.code, 2, "{}: {}", to.display(), ran.stderr);
            assert!(ran.stderr.contains("is where the log itself is"), "{}", ran.stderr);
            assert!(stale.exists(), "{}", to.display());
        }
    }
    let around = place.file("x/../D/audit");
    assert_eq!(place.run(&format!("audit export {}", around.display())).code, 4, "a way over what is not there");
    let to = place.file("exports/one");
    place.ok(&format!("audit export {}", to.display()));
}

/// Rows that a store is opened with, or that decide who may ask: it does not come to looking at all rows, and what is wrong
/// is told in the same form.
#[test]
fn a_row_that_keeps_the_store_from_being_looked_at_is_named() {
    let place = Place::new();
    place.with_key();
    let sound = place.file("sound");
    copy(&place.data_dir(), &sound);
    for (table, id, kind, sql) in [
        ("root_slot", "", "altered", "UPDATE root_slot SET slot = substr(slot, 1, length(slot) - 1)"),
        ("root_slot", "", "altered", "UPDATE root_slot SET created_at = created_at + 1"),
        ("root_secret", "store", "altered", "UPDATE root_secret SET wrapped = zeroblob(81) WHERE purpose = 'store'"),
        ("root_secret", "log-signing", "missing", "DELETE FROM root_secret WHERE purpose = 'log-signing'"),
        ("setting", "log-origin", "altered", "UPDATE setting SET value = 'keyrail/0' WHERE name = 'log-origin'"),
        ("setting", "local-operator", "altered", "UPDATE setting SET value = 'off' WHERE name = 'local-operator'"),
        ("log_head", "", "altered", "UPDATE log_head SET size = size + 1"),
    ] {
        std::fs::remove_dir_all(place.data_dir()).unwrap();
        copy(&sound, &place.data_dir());
        let store = rusqlite::Connection::open(place.data_dir().join("store.sqlite")).unwrap();
        assert!(store.execute(sql, []).unwrap() > 0, "{sql}");
        drop(store);
        let ran = place.run("verify --json");
        assert_eq!(ran.code, 5, "{sql}: {}{}", ran.text(), ran.stderr);
        let told: serde_json::Value = serde_json::from_str(ran.text().lines().next().unwrap_or_default())
            .unwrap_or_else(|_| panic!("{sql}: nothing is told: {}", ran.stderr));
        let found = &told["findings"][0];
        assert_eq!(
            (&told["ok"], &found["table"], &found["kind"]),
            (&false.into(), &table.into(), &kind.into()),
            "{told}"
        );
        assert!(!found["id"].as_str().unwrap().is_empty(), "{told}");
        assert!(id.is_empty() || found["id"] == id, "{told}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
