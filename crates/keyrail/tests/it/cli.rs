//! The command line, by its contract.

use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use crate::anchor::copy_dir;
use crate::place::Place;

const KEY: &str = "acme/prod/crm/customer-pii";

#[test]
fn data_goes_through_every_verb_and_comes_back_exactly() {
    let place = Place::new();
    let made = place.run("init --json").json();
    assert!(made["token"].as_str().unwrap().starts_with("krt_"));
    assert!(made["public_key"].as_str().unwrap().starts_with("keyrail/"));
    assert_eq!(std::fs::metadata(place.data_dir().join("root.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(place.run("init").code, 2);
    place.ok("domain create acme");
    place.ok("app create acme/prod/crm");
    let key = place.run(&format!("key create {KEY} --label confidential --json")).json();
    assert_eq!(key["versions"][0]["state"], "active");

    let data: Vec<u8> = (0..=255).cycle().take(70_001).collect();
    let sealed = place.run_in(&format!("encrypt {KEY} --context row=7 --context table=people"), &data);
    assert!(sealed.text().starts_with("kr1.") && sealed.text().ends_with('\n'));
    place.ok(&format!("key rotate {KEY}"));
    let master = place.run("master rotate acme/prod --json").json();
    assert_eq!(master["versions"][1]["version"], 2);
    let opened = place.run_in(&format!("decrypt {KEY} --context table=people --context row=7"), &sealed.stdout);
    assert_eq!(opened.stdout, data);
    let moved = place.run_in(&format!("reencrypt {KEY} --context row=7 --context table=people"), &sealed.stdout);
    assert_ne!(moved.stdout, sealed.stdout);
    let opened = place.run_in(&format!("decrypt {KEY} --context row=7 --context table=people"), &moved.stdout);
    assert_eq!(opened.stdout, data);
    assert_eq!(place.run_in(&format!("decrypt {KEY}"), &moved.stdout).code, 5, "without its context");

    let blocked = place.run(&format!("key retire {KEY}@1"));
    assert_eq!(blocked.code, 3, "{}", blocked.stderr);
    assert!(
        blocked.stderr.contains("hint: ") && blocked.stderr.contains("--acknowledge local-operator"),
        "{}",
        blocked.stderr
    );
    let shown = place.run(&format!("key show {KEY} --json")).json();
    assert_eq!(shown["versions"][0]["state"], "deactivated");
    let exported = place.run(&format!("key export {KEY}@2 --json")).json();
    assert_eq!(exported["kid"].as_str().unwrap().len(), 32);
    place.ok("verify");
    place.ok("audit verify");
    let records = place.run("audit show --limit 100 --json").json();
    assert!(
        records["records"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["action"] == "key.export" && row["principal"] == "local-operator")
    );
}

#[test]
fn exit_codes_tell_whose_fault_it_is() {
    let place = Place::new();
    assert_eq!(place.run("key list").code, 4, "no store");
    let token = place.with_key();
    let rows = [
        ("key show acme/prod/crm/nothing", 4),
        ("key show not-a-key", 2),
        ("key create acme/prod/crm/customer-pii --label confidential", 2),
        ("key create acme/prod/crm/other --label nothing", 4),
        ("key retire acme/prod/crm/customer-pii@1", 3),
        ("key retire acme/prod/crm/customer-pii@9", 4),
        ("token create --role app", 2),
        ("label set confidential --write-window soon", 2),
        ("asset add a --url sqlite:/nothing/there.sqlite --table t --column c --key acme/prod/crm/customer-pii", 4),
        ("campaign status 00000000000000000000000000000000", 4),
        ("nonsense", 2),
    ];
    for (line, code) in rows {
        let ran = place.run(line);
        assert_eq!(ran.code, code, "{line}: {}{}", ran.text(), ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{line}: {}", ran.stderr);
    }
    // A token takes the place of the local operator.
    let app_token = place.run("token create --role auditor --json").json();
    let file = place.file("token");
    std::fs::write(&file, app_token["token"].as_str().unwrap()).unwrap();
    let refused = place.run(&format!("key rotate acme/prod/crm/customer-pii --token-file {}", file.display()));
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    std::fs::write(&file, format!("{token}\n")).unwrap();
    assert_eq!(place.run(&format!("key rotate acme/prod/crm/customer-pii --token-file {}", file.display())).code, 0);
    // The local operator can be switched off; a token still works.
    place.ok("setting local-operator off");
    assert_eq!(place.run("key list").code, 3);
    assert_eq!(place.run(&format!("--token-file {} key list", file.display())).code, 0);
}

#[test]
fn a_table_is_protected_moved_and_given_back() {
    let place = Place::new();
    place.with_key();
    let path = place.file("app.sqlite");
    let app = Connection::open(&path).unwrap();
    app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, profile TEXT); INSERT INTO people VALUES (1, 'a@example.org', '{\"phone\":\"+31\"}'), (2, NULL, NULL), (3, '', '{}')")
        .unwrap();
    drop(app);
    let add = format!(
        "asset add people --url sqlite:{} --table people --id id --column email --column profile:$.phone --key {KEY}",
        path.display()
    );
    place.ok(&add);
    let plan = place.run("asset protect people --dry-run --json").json();
    assert_eq!((plan["rows"].as_u64(), plan["values"].as_u64()), (Some(3), Some(3)));
    let protected = place.run("asset protect people --json");
    assert!(protected.text().starts_with("{\"id\":\""), "{}", protected.text());
    assert_eq!(protected.last_json()["state"], "completed");
    place.ok(&format!("key rotate {KEY}"));
    let moved = place.run("campaign start people --json").last_json();
    assert_eq!(moved["moved"], 3);
    let census = place.run("asset census people --json").json();
    assert_eq!(
        (census["versions"][0]["values"].as_u64(), census["versions"][1]["values"].as_u64()),
        (Some(0), Some(3))
    );
    // An application opens what it finds in its table, with the binding that the specification tells.
    let app = Connection::open(&path).unwrap();
    let cell: String = app.query_row("SELECT email FROM people WHERE id = 1", [], |row| row.get(0)).unwrap();
    let asset = place.run("asset show people --json").json();
    let binding = format!(
        "--context keyrail.asset={} --context keyrail.column={} --context keyrail.row=i1",
        asset["id"].as_str().unwrap(),
        asset["columns"][0]["id"].as_str().unwrap()
    );
    assert_eq!(place.run_in(&format!("decrypt {KEY} {binding}"), cell.as_bytes()).stdout, b"a@example.org");
    let back = place.run(&format!("campaign rollback {} --json", moved["id"].as_str().unwrap())).last_json();
    assert_eq!((back["state"].as_str(), back["target"].as_u64()), (Some("completed"), Some(1)));
    place.ok("asset unprotect people");
    let email: String = app.query_row("SELECT email FROM people WHERE id = 1", [], |row| row.get(0)).unwrap();
    assert_eq!(email, "a@example.org");
}

#[test]
fn a_passphrase_and_a_wrong_one() {
    let place = Place::new();
    std::fs::write(place.file("pass"), "correct horse battery staple\n").unwrap();
    std::fs::set_permissions(place.file("pass"), PermissionsExt::from_mode(0o600)).unwrap();
    let line = format!("init --root passphrase-file:{}", place.file("pass").display());
    place.ok(&line);
    assert_eq!(place.run("root status --json").json()["slots"][0]["kind"], "passphrase");
    std::fs::write(place.file("pass"), "wrong").unwrap();
    let wrong = place.run("root status --json");
    assert_eq!(wrong.code, 6);
    assert!(wrong.text().contains("\"seal\":\"wrong-secret\""), "{}", wrong.text());
}

/// What goes unseen is said where one looks whether all is well, and it is so.
#[test]
fn a_rollback_of_store_and_log_goes_unseen_and_root_status_says_so() {
    let place = Place::new();
    place.ok("init");
    let (data, copy) = (place.data_dir(), place.file("copy"));
    copy_dir(&data, &copy);
    place.ok("domain create acme");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    place.ok("verify");
    let told = place.ok("root status --json").json();
    assert_eq!((told["seal"].as_str(), told["anchor"].as_str()), (Some("unsealed"), Some("none")));
    let says = "without an anchor, a rollback of the whole store together with its log cannot be detected";
    assert!(told["hint"].as_str().unwrap().starts_with(says), "{told}");
    let text = place.ok("root status").text();
    assert!(text.contains("anchor  none\n") && text.contains(says), "{text}");
}

#[test]
fn the_log_is_verified_offline_against_a_checkpoint() {
    let place = Place::new();
    place.with_key();
    let saved = place.file("checkpoint");
    std::fs::write(&saved, place.ok("audit checkpoint --json").stdout).unwrap();
    let old = place.file("old");
    copy_dir(&place.data_dir().join("audit"), &old);
    place.ok(&format!("key rotate {KEY}"));
    let line =
        |dir: &std::path::Path| format!("audit verify --checkpoint {} --audit-dir {}", saved.display(), dir.display());
    place.ok(&line(&place.data_dir().join("audit")));
    // The plain output is the note itself, and serves as well.
    std::fs::write(&saved, place.ok("audit checkpoint").stdout).unwrap();
    let older = place.run(&line(&old));
    assert_eq!(older.code, 5, "{}", older.stderr);
    assert!(older.stderr.contains("had"), "{}", older.stderr);
    // Put back under the store, the older log is told by the head that the store remembers.
    std::fs::remove_dir_all(place.data_dir().join("audit")).unwrap();
    copy_dir(&old, &place.data_dir().join("audit"));
    assert_eq!(place.run("audit verify").code, 5);
    // Altering what the store remembers does not make it forget.
    let store = Connection::open(place.data_dir().join("store.sqlite")).unwrap();
    assert_eq!(store.execute("UPDATE log_head SET size = 1", []).unwrap(), 1);
    drop(store);
    let altered = place.run("audit verify");
    assert_eq!(altered.code, 5, "{}", altered.stderr);
    assert!(altered.stderr.contains("log_head"), "{}", altered.stderr);
    // Without the root of trust the files are verified all the same, and what was not compared is told.
    std::fs::remove_file(place.data_dir().join("root.key")).unwrap();
    let outsider = place.run("audit verify");
    assert_eq!(outsider.code, 5, "an older log beside a newer journal: {}", outsider.stderr);
    std::fs::remove_dir_all(place.data_dir().join("journal")).unwrap();
    let outsider = place.run("audit verify");
    assert_eq!(outsider.code, 0, "{}", outsider.stderr);
    assert!(outsider.stderr.contains("warning: the head that the store remembers was not compared"));
}

/// Whoever may write beside the log can put his own there, with his own key.
#[test]
fn the_store_tells_its_own_log_from_one_that_was_put_there() {
    let (place, other) = (Place::new(), Place::new());
    place.ok("init");
    other.ok("init");
    place.ok("audit verify");
    let key_file = place.data_dir().join("log-public-key");
    let own = std::fs::read(&key_file).unwrap();
    std::fs::copy(other.data_dir().join("log-public-key"), &key_file).unwrap();
    let foreign = place.run("audit verify");
    assert_eq!(foreign.code, 5, "{}", foreign.stderr);
    assert!(foreign.stderr.contains("is not the key of this log"), "{}", foreign.stderr);
    std::fs::write(&key_file, own).unwrap();
    place.ok("audit verify");
    std::fs::remove_dir_all(place.data_dir().join("journal")).unwrap();
    let gone = place.run("audit verify");
    assert_eq!(gone.code, 5, "{}", gone.stderr);
    assert!(gone.stderr.contains("journal"), "{}", gone.stderr);
}

#[test]
fn completions_manual_pages_and_the_document_are_made() {
    let place = Place::new();
    assert!(place.ok("completions bash").text().contains("_keyrail"));
    place.ok(&format!("man {}", place.file("man").display()));
    assert!(place.file("man/keyrail-campaign-start.1").exists());
    let document = place.run("openapi").json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/keys/{domain}/{environment}/{app}/{name}/encrypt"]["post"].is_object());
}
