//! No secret where it does not belong: logs, errors, metrics, records, files, and the memory of an idle server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keyrail_testkit::{Search, planted_forms};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::Place;

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";
const PLAINTEXT: &[u8] = b"the plaintext that nobody may see: 4929-1337-0042";
const PLANTED: &str = "planted-secret-0123456789abcdef";

struct Len;

impl KeyType for Len {
    fn len(&self) -> usize {
        32
    }
}

/// Opens a wrapped key by `spec/wrapped-key.md`, with code of its own.
fn unwrap(
    kek: &[u8; 32],
    purpose: &str,
    wrapped: &[u8],
    table: &str,
    id: &[u8],
    version: u32,
    generation: u64,
) -> [u8; 32] {
    let (salt, body) = wrapped[1..].split_at(32);
    let mut key = [0; 32];
    let info: [&[u8]; 2] = [b"keyrail/wrap/v1/", purpose.as_bytes()];
    Salt::new(HKDF_SHA256, salt).extract(kek).expand(&info, Len).unwrap().fill(&mut key).unwrap();
    let mut aad = Vec::new();
    for part in [purpose.as_bytes(), table.as_bytes(), id, &version.to_be_bytes(), &generation.to_be_bytes()] {
        aad.extend_from_slice(&(part.len() as u64).to_be_bytes());
        aad.extend_from_slice(part);
    }
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let mut body = body.to_vec();
    let opened = cipher
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(aad), &mut body)
        .expect("the wrapped key opens");
    opened.try_into().unwrap()
}

/// Every key of a store, by its name.
fn keys_of(data_dir: &Path) -> Vec<(String, [u8; 32])> {
    let file = std::fs::read(data_dir.join("root.key")).unwrap();
    let slot_key: [u8; 32] = file["keyrail root key v1\n".len()..][..32].try_into().unwrap();
    let store = Connection::open_with_flags(data_dir.join("store.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let slot: Vec<u8> = store.query_row("SELECT slot FROM root_slot", [], |row| row.get(0)).unwrap();
    let root = unwrap(&slot_key, "RootKey", &slot[slot.len() - 97 + 16..], "root_slot", &slot[1..17], 1, 1);
    let mut keys = vec![("slot key".to_owned(), slot_key), ("root key".to_owned(), root)];
    let rows = |sql: &str| -> Vec<(Vec<u8>, Vec<u8>, u32, i64, String)> {
        let mut statement = store.prepare(sql).unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .unwrap();
        rows.map(Result::unwrap).collect()
    };
    for (id, wrapped, version, generation, purpose) in
        rows("SELECT id, wrapped, 1, wrap_generation, purpose FROM root_secret")
    {
        let kind = if purpose == "store" { "StoreKey" } else { "SigningSeed" };
        keys.push((purpose, unwrap(&root, kind, &wrapped, "root_secret", &id, version, generation as u64)));
    }
    let mut masters = Vec::new();
    for (id, wrapped, version, generation, _) in
        rows("SELECT id, wrapped, version, wrap_generation, state FROM master_key_version")
    {
        let key = unwrap(&root, "MasterKey", &wrapped, "master_key_version", &id, version, generation as u64);
        keys.push((format!("master key version {version}"), key));
        masters.push((id, key));
    }
    for (id, wrapped, version, generation, by) in
        rows("SELECT kid, wrapped, version, wrap_generation, hex(wrapped_by) FROM data_key_version")
    {
        let master = masters
            .iter()
            .find(|(master, _)| {
                by.to_lowercase() == master.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            })
            .unwrap();
        keys.push((
            format!("data key version {version}"),
            unwrap(&master.1, "DataKey", &wrapped, "data_key_version", &id, version, generation as u64),
        ));
    }
    keys
}

/// Uses the server in many ways, rightly and wrongly; gives all answers that hold no data by design.
fn use_it(http: &Http, url: &str) -> String {
    let mut answers = String::new();
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    let sealed = http.post(
        &format!("{KEY}/encrypt"),
        &json!({ "items": [{ "plaintext": encode(PLAINTEXT), "context": { "row": "1" } }] }),
    );
    let ciphertext = sealed["items"][0]["ciphertext"].as_str().unwrap().to_owned();
    answers.push_str(&sealed.to_string());
    http.post(
        &format!("{KEY}/decrypt"),
        &json!({ "items": [{ "ciphertext": ciphertext, "context": { "row": "1" } }] }),
    );
    http.post(&format!("{KEY}/data-key"), &json!({}));
    let mut wrong = |method, path: &str, body: Value| answers.push_str(&http.send(method, path, &[], &body).text);
    wrong(
        Method::POST,
        &format!("{KEY}/decrypt"),
        json!({ "items": [{ "ciphertext": ciphertext, "context": { "row": "2" } }] }),
    );
    wrong(
        Method::POST,
        &format!("{KEY}/encrypt"),
        json!({ "items": [{ "plaintext": String::from_utf8_lossy(PLAINTEXT) }] }),
    );
    wrong(Method::POST, &format!("{KEY}/encrypt"), json!({ "items": [{ "plain": encode(PLAINTEXT) }] }));
    wrong(Method::POST, &format!("{KEY}/encrypt"), json!({ "items": encode(PLAINTEXT) }));
    wrong(
        Method::POST,
        "/v1/keys/acme/prod/crm/nothing/encrypt",
        json!({ "items": [{ "plaintext": encode(PLAINTEXT) }] }),
    );
    wrong(Method::POST, &format!("{KEY}/rotate"), Value::Null);
    wrong(Method::POST, "/v1/masters/acme/prod/rotate", Value::Null);
    wrong(Method::GET, "/v1/metrics", Value::Null);
    wrong(Method::GET, "/v1/audit/records?limit=1000", Value::Null);
    wrong(Method::POST, "/v1/system/verify", Value::Null);
    let stranger = Http::new(url, Some("krt_this-is-no-token-of-ours-at-all"));
    answers.push_str(&stranger.send(Method::GET, KEY, &[], &Value::Null).text);
    answers
}

/// A search is worth something only if it finds what was planted, in every encoding.
fn assert_finds_planted(place: &str, content: &[u8]) {
    let planted = Search::new([("planted", PLANTED.as_bytes())]).unwrap();
    for (encoding, form) in planted_forms(PLANTED.as_bytes()) {
        let with: Vec<u8> = [content, b" ", &form, b" ", content].concat();
        assert!(!planted.in_bytes(&with).is_empty(), "{place}: planted as {encoding:?} and not found");
    }
}

#[test]
fn secrets_stay_where_they_belong() {
    let place = Place::new();
    let token = place.with_key();
    let dir = place.data_dir();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()]);
    command.env("KEYRAIL_LOG", "trace");
    let server = place.serve_with(command);
    let http = Http::new(server.url(), Some(&token));
    let answers = use_it(&http, server.url());
    drop(http);
    let logs = server.child().written();
    assert!(logs.contains("TRACE") || logs.contains("DEBUG"), "the log is at trace level");
    server.into_child().stop(Duration::from_secs(30)).unwrap();

    let keys = keys_of(&dir);
    assert!(keys.len() >= 8, "{}", keys.len());
    let mut secrets: Vec<(&str, &[u8])> = keys.iter().map(|(name, key)| (name.as_str(), key.as_slice())).collect();
    secrets.push(("plaintext", PLAINTEXT));
    secrets.push(("token", token.as_bytes()));
    secrets.push(("token's secret", &token.as_bytes()[4..]));
    let search = Search::new(secrets.iter().copied()).unwrap();
    for (name, content) in [("log", logs.as_bytes()), ("answers", answers.as_bytes())] {
        assert_finds_planted(name, content);
        let hits = search.in_bytes(content);
        assert!(hits.is_empty(), "{name}: {hits:?}");
    }
    for name in ["audit", "journal", "store.sqlite", "store.sqlite-wal", "log-public-key", "root-of-trust", "lock"] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        if path.is_file() {
            assert_finds_planted(name, &std::fs::read(&path).unwrap());
        } else {
            std::fs::write(path.join("planted"), PLANTED).unwrap();
            let planted = Search::new([("planted", PLANTED.as_bytes())]).unwrap();
            assert_eq!(planted.under(&path).unwrap().len(), 1, "{name}: planted and not found");
            std::fs::remove_file(path.join("planted")).unwrap();
        }
        let hits = if path.is_dir() { search.under(&path).unwrap() } else { search.in_file(&path).unwrap() };
        assert!(hits.is_empty(), "{name}: {hits:?}");
    }
}

#[test]
fn the_core_of_an_idle_server_holds_no_key() {
    let place = Place::new();
    let token = place.with_key();
    let dir = place.data_dir();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()]);
    command.env("PLANTED", PLANTED);
    let server = place.serve_with(command);
    let http = Http::new(server.url(), Some(&token));
    use_it(&http, server.url());
    drop(http);
    // Idle: the background work has had its turns.
    std::thread::park_timeout(Duration::from_secs(2));
    let core = place.file("core");
    let made = Command::new("gcore")
        .arg("-o")
        .arg(&core)
        .arg(server.child().pid().to_string())
        .output()
        .expect("gcore is installed (package gdb)");
    let core = place.file(&format!("core.{}", server.child().pid()));
    assert!(core.exists(), "{}{}", String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    server.into_child().stop(Duration::from_secs(30)).unwrap();

    let planted = Search::new([("planted", PLANTED.as_bytes())]).unwrap();
    assert!(!planted.in_file(&core).unwrap().is_empty(), "the search does not find what is in the memory");
    let keys = keys_of(&dir);
    // The core is searched for the keys as they are: nothing keeps them in another form.
    let search = Search::new(keys.iter().map(|(name, key)| (name.as_str(), key.as_slice()))).unwrap();
    let hits = search.in_file(&core).unwrap();
    std::fs::remove_file(core).unwrap();
    assert!(hits.is_empty(), "{hits:?}");
}
