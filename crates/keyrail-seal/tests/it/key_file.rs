//! Key files: random, private, whole, or refused.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use keyrail_seal::{KeyFile, RootKind, RootOfTrust, RootSpec};
use static_assertions::assert_not_impl_any;

use crate::place::{Place, protected_by, require_silent, set_mode, word};

assert_not_impl_any!(KeyFile: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize);

#[test]
fn a_new_key_file_is_random_private_and_never_put_over_another() {
    let place = Place::new();
    let contents: BTreeSet<_> = (0..20)
        .map(|number| {
            let path = place.path(&format!("{number}.key"));
            KeyFile::create(&path).unwrap();
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, 60));
            std::fs::read(&path).unwrap()
        })
        .collect();
    assert_eq!(contents.len(), 20);
    let path = place.path("0.key");
    let before = std::fs::read(&path).unwrap();
    let refused = KeyFile::create(&path).map(drop).unwrap_err();
    assert!(refused.to_string().ends_with("exists already"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_key_file_opens_what_it_protected_also_from_another_place() {
    let place = Place::new();
    let file = KeyFile::create(place.path("root.key")).unwrap();
    let (key, slot) = protected_by(&file);
    assert_eq!((slot.kind(), file.kind()), (RootKind::KeyFile, RootKind::KeyFile));
    assert!(file.open(&slot).unwrap().ct_eq(&key));
    std::fs::rename(place.path("root.key"), place.path("elsewhere")).unwrap();
    let spec: RootSpec = format!("keyfile:{}", place.path("elsewhere").display()).parse().unwrap();
    assert!(spec.resolve().unwrap().open(&slot).unwrap().ct_eq(&key));
    assert_eq!(word(&file.open(&slot).err().unwrap()), "file", "where it was before");
    // Two slots of one key file have nothing in common but its fingerprint.
    let (_, other) = protected_by(&*spec.resolve().unwrap());
    assert_ne!((slot.id, &slot.wrapped), (other.id, &other.wrapped));
    assert_eq!(slot.parameters, other.parameters);
}

#[test]
fn what_others_may_touch_is_refused_whatever_is_in_it() {
    let place = Place::new();
    let path = place.path("root.key");
    let file = KeyFile::create(&path).unwrap();
    let (key, slot) = protected_by(&file);
    let content = std::fs::read(&path).unwrap();
    for mode in [0o604, 0o640, 0o602, 0o620, 0o666, 0o777, 0o610, 0o601] {
        set_mode(&path, mode);
        let error = file.open(&slot).err().unwrap();
        assert_eq!(word(&error), "permissions", "{mode:o}");
        assert!(error.to_string().contains(&format!("{mode:o}")), "{error}");
        require_silent(&error, &content[20..]);
    }
    for mode in [0o600, 0o400] {
        set_mode(&path, mode);
        assert!(file.open(&slot).unwrap().ct_eq(&key), "{mode:o}");
    }
}

#[test]
fn what_is_no_key_file_is_refused() {
    let place = Place::new();
    let whole = std::fs::read(place.path("root.key")).unwrap_or_else(|_| {
        KeyFile::create(place.path("root.key")).unwrap();
        std::fs::read(place.path("root.key")).unwrap()
    });
    let (_, slot) = protected_by(&KeyFile::at(place.path("root.key")));
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), Vec::new()),
        ("a megabyte".into(), vec![7; 1024 * 1024]),
        ("twice".into(), [&whole[..], &whole[..]].concat()),
        ("a newline behind it".into(), [&whole[..], b"\n"].concat()),
        ("zeros".into(), vec![0; whole.len()]),
    ];
    cases.extend((0..whole.len()).map(|len| (format!("cut at {len}"), whole[..len].to_vec())));
    cases.extend((0..whole.len()).map(|index| {
        let mut altered = whole.clone();
        altered[index] ^= 0x20;
        (format!("byte {index}"), altered)
    }));
    for (name, content) in cases {
        let path = place.write("other.key", &content, 0o600);
        let error = KeyFile::at(&path).open(&slot).err().unwrap();
        assert_eq!(word(&error), "malformed", "{name}");
        require_silent(&error, &whole[20..]);
    }
    for path in [place.path("absent"), place.path("root.key").join("x")] {
        assert_eq!(word(&KeyFile::at(path).open(&slot).err().unwrap()), "file");
    }
    std::fs::create_dir(place.path("dir")).unwrap();
    assert_eq!(word(&KeyFile::at(place.path("dir")).open(&slot).err().unwrap()), "malformed");
    std::os::unix::fs::symlink(place.path("root.key"), place.path("link")).unwrap();
    assert_eq!(word(&KeyFile::at(place.path("link")).open(&slot).err().unwrap()), "file", "a link");
    // A pipe must not make it wait for a writer.
    let made = std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap();
    assert!(made.success());
    assert_eq!(word(&KeyFile::at(place.path("pipe")).open(&slot).err().unwrap()), "malformed");
}
