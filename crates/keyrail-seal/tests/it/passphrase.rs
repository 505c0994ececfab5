//! Passphrases: stretched with the parameters of their slot, read from private files only.

use keyrail_crypto::passphrase::Argon2Params;
use keyrail_seal::{Passphrase, PipeWait, RootOfTrust, RootSpec, SlotParameters};
use static_assertions::assert_not_impl_any;

use crate::place::{Place, protected_by, require_silent, word};

assert_not_impl_any!(Passphrase: Clone, std::fmt::Debug, std::fmt::Display, PartialEq, std::hash::Hash, serde::Serialize);

/// The smallest that is accepted, so that tests are quick.
const SMALL: Argon2Params = Argon2Params { memory_kib: 8 * 1024, passes: 1, lanes: 1 };

fn passphrase(place: &Place, content: &[u8]) -> Passphrase {
    Passphrase::from_file(&place.write("pass", content, 0o600), PipeWait::Limited).unwrap().with_params(SMALL)
}

#[test]
fn a_passphrase_opens_with_the_parameters_of_its_slot() {
    let place = Place::new();
    let (key, slot) = protected_by(&passphrase(&place, b"correct horse\n"));
    let SlotParameters::Passphrase { params, .. } = slot.parameters else { panic!("{slot:?}") };
    assert_eq!(params, SMALL, "the parameters are stored");
    // Other defaults than the slot's do not matter, nor does how the line ends.
    for content in ["correct horse", "correct horse\n", "correct horse\r\n"] {
        let path = place.write("pass", content.as_bytes(), 0o600);
        assert!(
            Passphrase::from_file(&path, PipeWait::Limited).unwrap().open(&slot).unwrap().ct_eq(&key),
            "{content:?}"
        );
    }
    for content in ["correct horse\n\n", "correct horse\r", " correct horse", "Correct horse", "correct hors", "wrong"]
    {
        let error = passphrase(&place, content.as_bytes()).open(&slot).err().unwrap();
        assert_eq!(word(&error), "wrong-secret", "{content:?}");
        require_silent(&error, content.as_bytes());
    }
}

#[test]
fn new_slots_have_the_defaults_and_a_salt_of_their_own() {
    let place = Place::new();
    let path = place.write("pass", b"correct horse", 0o600);
    let (_, one) = protected_by(&Passphrase::from_file(&path, PipeWait::Limited).unwrap());
    let (_, two) = protected_by(&Passphrase::from_file(&path, PipeWait::Limited).unwrap());
    match (one.parameters, two.parameters) {
        (
            SlotParameters::Passphrase { params, salt },
            SlotParameters::Passphrase { params: other, salt: other_salt },
        ) => {
            assert_eq!((params, other), (Argon2Params::DEFAULT, Argon2Params::DEFAULT));
            assert_ne!(salt, other_salt);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_no_private_passphrase_is_refused() {
    let place = Place::new();
    let rows: [(&str, &[u8], u32, &str); 8] = [
        ("empty", b"", 0o600, "malformed"),
        ("only a newline", b"\n", 0o600, "malformed"),
        ("1025 bytes", &[b'x'; 1025], 0o600, "malformed"),
        ("1025 bytes and a newline", &[&[b'x'; 1025][..], b"\n"].concat(), 0o600, "malformed"),
        ("a megabyte", &vec![b'x'; 1024 * 1024], 0o600, "malformed"),
        ("for the group", b"correct horse", 0o640, "permissions"),
        ("for all", b"correct horse", 0o644, "permissions"),
        ("writable for all", b"correct horse", 0o602, "permissions"),
    ];
    for (name, content, mode, expected) in rows {
        let error =
            Passphrase::from_file(&place.write("pass", content, mode), PipeWait::Limited).map(drop).unwrap_err();
        assert_eq!(word(&error), expected, "{name}");
        require_silent(&error, content);
    }
    assert_eq!(word(&Passphrase::from_file(&place.path("absent"), PipeWait::Limited).map(drop).unwrap_err()), "file");
    std::fs::create_dir(place.path("dir")).unwrap();
    assert_eq!(word(&Passphrase::from_file(&place.path("dir"), PipeWait::Limited).map(drop).unwrap_err()), "malformed");
}

#[test]
fn the_longest_passphrase_and_a_pipe_work() {
    let place = Place::new();
    for end in ["", "\n", "\r\n"] {
        let path = place.write("pass", format!("{}{end}", "x".repeat(1024)).as_bytes(), 0o600);
        assert!(Passphrase::from_file(&path, PipeWait::Limited).is_ok(), "{end:?}");
    }
    let (key, slot) = protected_by(&passphrase(&place, b"through a pipe"));
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::write(pipe, "through a pipe\n").unwrap())
    };
    let spec: RootSpec = format!("passphrase-file:{}", pipe.display()).parse().unwrap();
    assert!(spec.resolve().unwrap().open(&slot).unwrap().ct_eq(&key));
    writer.join().unwrap();
}
