//! The log against vectors that code which is not ours made, and against published ones.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyrail_audit::{Keys, Log, LogError, LogOptions, VerifierKey, verify};
use keyrail_crypto::CryptoError;
use keyrail_crypto::secret::{RootKey, SigningSeed, SlotKey, StoreKey};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use serde_json::Value;

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn put(dir: &Path, file: &str, content: &str) {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, STANDARD.decode(content).unwrap()).unwrap();
}

fn log_of(vectors: &Value, id: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = list(vectors, "valid").iter().find(|log| log["id"] == id).unwrap();
    for (file, content) in log["files"].as_object().unwrap() {
        put(dir.path(), file, content.as_str().unwrap());
    }
    dir
}

#[test]
fn logs_that_others_made_verify_and_altered_ones_do_not() {
    let vectors = vectors("audit-log.json");
    let key: VerifierKey = text(&vectors, "public_key").parse().unwrap();
    assert_eq!(key.to_string(), text(&vectors, "public_key"));
    for log in list(&vectors, "valid") {
        let dir = log_of(&vectors, text(log, "id"));
        let report = verify(dir.path(), &key, &[]).unwrap();
        assert_eq!((report.records, report.origin.as_str()), (log["records"].as_u64().unwrap(), key.name()));
    }
    for case in list(&vectors, "failing") {
        let dir = log_of(&vectors, text(case, "of"));
        match case["content"].as_str() {
            Some(content) => put(dir.path(), text(case, "file"), content),
            None => std::fs::remove_file(dir.path().join(text(case, "file"))).unwrap(),
        }
        let failure = verify(dir.path(), &key, &[]).expect_err(text(case, "id"));
        assert_eq!(failure.file.as_deref(), Some(Path::new(text(case, "named"))), "{}: {failure}", text(case, "id"));
    }
}

/// The note of Go's checksum database: the key's id, and the signature over the text.
#[test]
fn a_published_note_has_the_signature_it_should() {
    let published = &vectors("audit-log.json")["published"];
    let key: VerifierKey = text(published, "public_key").parse().unwrap();
    assert_eq!(key.to_string(), text(published, "public_key"));
    let (body, line) = text(published, "note").split_once("\n\n").unwrap();
    let signature = STANDARD.decode(line.trim_end().rsplit_once(' ').unwrap().1).unwrap();
    let (_, encoded) = text(published, "public_key").rsplit_once('+').unwrap();
    let public: [u8; 32] = STANDARD.decode(encoded).unwrap()[1..].try_into().unwrap();
    assert!(keyrail_crypto::sign::verify(&public, format!("{body}\n").as_bytes(), &signature[4..]));
    assert_eq!(signature[..4], hex(text(published, "public_key").split('+').nth(1).unwrap())[..]);
    // It is a note and no checkpoint: only checkpoints are taken.
    assert!(keyrail_audit::Checkpoint::verify(text(published, "note"), &key).is_err());
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn keys(vectors: &Value) -> Keys {
    const CONTEXT: WrapContext<'_> = WrapContext { table: "test", id: &[0; 16], version: 1, generation: 1 };
    let wrapped = |name| WrappedKey::from_bytes(&hex(text(&vectors["keys"], name))).unwrap();
    let slot = SlotKey::init_with(|bytes| -> Result<(), CryptoError> {
        bytes.copy_from_slice(&hex(text(&vectors["keys"], "slot_key")));
        Ok(())
    })
    .unwrap();
    let root: RootKey = slot.unwrap_key(&wrapped("root_key"), &CONTEXT).unwrap();
    let seed: SigningSeed = root.unwrap_key(&wrapped("signing_seed"), &CONTEXT).unwrap();
    let store: StoreKey = root.unwrap_key(&wrapped("store_key"), &CONTEXT).unwrap();
    Keys { seed, journal: store.mac_key("journal").unwrap() }
}

#[test]
fn journals_that_others_made_are_read_and_altered_ones_refused() {
    let vectors = vectors("journal.json");
    let open = |content: &str| {
        let dir = tempfile::tempdir().unwrap();
        let (audit, journal) = (dir.path().join("audit"), dir.path().join("journal"));
        std::fs::create_dir(&audit).and_then(|()| std::fs::create_dir(&journal)).unwrap();
        std::fs::write(journal.join(text(&vectors, "file_name")), hex(content)).unwrap();
        (Log::open(LogOptions::new(audit, journal, "keyrail.example/log".to_owned()), keys(&vectors)), dir)
    };
    for case in list(&vectors, "valid") {
        let (opened, dir) = open(text(case, "content"));
        let (log, recovered) = opened.unwrap_or_else(|error| panic!("{}: {error}", text(case, "id")));
        assert_eq!(log.size(), case["records"].as_u64().unwrap(), "{}", text(case, "id"));
        assert_eq!(recovered.torn_len, case["torn"].as_u64().unwrap(), "{}", text(case, "id"));
        let bodies: Vec<_> = log.read(0, 10).unwrap().into_iter().map(|record| record.body).collect();
        let expected = (0..log.size()).map(|index| format!("record {index}").into_bytes());
        assert_eq!(bodies, expected.collect::<Vec<_>>());
        log.close().unwrap();
        verify(&dir.path().join("audit"), log.verifier_key(), &[]).unwrap();
    }
    for case in list(&vectors, "failing") {
        let (opened, _dir) = open(text(case, "content"));
        let refused =
            matches!(opened, Err(LogError::JournalAltered { offset, .. }) if Some(offset) == case["offset"].as_u64());
        assert!(refused, "{}", text(case, "id"));
    }
}

/// Every vector is named by its page, and every test that a page names is there.
#[test]
fn pages_vectors_and_tests_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let mut sources = read("src/log/tests.rs") + &read("src/journal/tests.rs");
    for entry in std::fs::read_dir(root.join("tests/it")).unwrap() {
        sources.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for (page, file) in [("audit-log.md", "audit-log.json"), ("journal.md", "journal.json")] {
        let page = read(&format!("../../spec/{page}"));
        let vectors = vectors(file);
        for vector in list(&vectors, "valid").iter().chain(list(&vectors, "failing")) {
            assert!(page.contains(&format!("`{}`", text(vector, "id"))), "{} is not named", vector["id"]);
        }
        let words = page.split('`').skip(1).step_by(2);
        for name in words.filter(|word| word.matches('_').count() > 3 && !word.contains(' ')) {
            assert!(sources.contains(&format!("fn {name}(")), "there is no test `{name}`");
        }
    }
}
