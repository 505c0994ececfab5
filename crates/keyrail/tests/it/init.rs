//! What `init` removes: what a killed one left, and nothing else.

use crate::place::{Place, Ran};

fn refused(ran: &Ran, code: i32, hint: &str) {
    assert_eq!(ran.code, code, "{}{}", ran.text(), ran.stderr);
    assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(hint), "{}", ran.stderr);
}

/// A project may have folders of these names.
#[test]
fn folders_of_somebody_else_stay() {
    for name in ["journal/2026/monday.txt", "audit/report.pdf", "journal/journal-00000000000000000002", "audit/tile/0"]
    {
        let place = Place::new();
        let path = place.data_dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "theirs").unwrap();
        refused(&place.run("init"), 2, "hint: choose another --data-dir");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
        assert!(!place.data_dir().join("store.sqlite").exists(), "{name}: nothing is begun");
        // Out of the way, a store is made.
        let first = place.data_dir().join(name.split('/').next().unwrap());
        std::fs::rename(&first, place.file("elsewhere")).unwrap();
        place.ok("init");
    }
    let place = Place::new();
    std::fs::create_dir(place.data_dir()).unwrap();
    std::fs::write(place.data_dir().join("journal"), "a file").unwrap();
    refused(&place.run("init"), 2, "hint: choose another --data-dir");
}

/// A log is evidence, also when the store beside it is lost.
#[test]
fn a_log_whose_store_is_gone_stays() {
    let place = Place::new();
    place.with_key();
    let (store, away) = (place.data_dir().join("store.sqlite"), place.file("away.sqlite"));
    std::fs::rename(&store, &away).unwrap();
    for line in ["init", "key list", "domain create other", "verify", "root status"] {
        refused(&place.run(line), 5, "hint: put `store.sqlite` back");
    }
    assert!(!store.exists(), "nothing that looks like a store is made");
    // Records may be durable before a checkpoint covers them.
    std::fs::rename(place.data_dir().join("audit"), place.file("audit-away")).unwrap();
    refused(&place.run("init"), 5, "hint: put `store.sqlite` back");
    // A journal whose beginning is damaged is not one that was only begun.
    let journal = place.data_dir().join("journal/journal-00000000000000000001");
    let whole = std::fs::read(&journal).unwrap();
    for damaged in [[&whole[..26], &[0x10], &whole[27..]].concat(), [&[0; 24], &whole[24..]].concat()] {
        std::fs::write(&journal, damaged).unwrap();
        refused(&place.run("init"), 5, "hint: put `store.sqlite` back");
        assert!(journal.exists(), "it is evidence");
    }
    std::fs::write(&journal, whole).unwrap();
    std::fs::rename(place.file("audit-away"), place.data_dir().join("audit")).unwrap();
    // An empty file in its place changes nothing.
    std::fs::write(&store, "").unwrap();
    refused(&place.run("init"), 5, "hint: put `store.sqlite` back");
    std::fs::rename(&away, &store).unwrap();
    for line in ["key list", "verify", "audit verify"] {
        place.ok(line);
    }
}

/// As a kill at each of its steps leaves it.
#[test]
fn what_a_killed_one_left_is_made_good() {
    for (left, content) in [
        ("audit", None),
        ("journal", None),
        // A power cut keeps names without what was in the files.
        ("audit/checkpoint", Some("")),
        ("audit/checkpoint", Some("\0\0\0")),
        ("journal/beginning", Some("half an edge")),
        ("journal/publishing", Some("half a checkpoint")),
        // Former builds named a journal file before its beginning was durable.
        ("journal/journal-00000000000000000001", Some("")),
        ("journal/journal-00000000000000000001", Some("\0\0\0")),
        ("journal/journal-00000000000000000001", Some("keyrail audit jou")),
        ("journal/journal-00000000000000000001", Some("keyrail audit journal 1\n\u{1}\0\0\0\u{9}\0\0")),
        ("store.sqlite", Some("")),
        ("root-of-trust.new", Some("key")),
    ] {
        let place = Place::new();
        let path = place.data_dir().join(left);
        std::fs::create_dir_all(if content.is_some() { path.parent().unwrap() } else { &path }).unwrap();
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        place.ok("init");
        place.ok("audit verify");
        assert!(!place.data_dir().join("journal/publishing").exists());
    }
}
