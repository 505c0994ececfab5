//! Recovery shares: dealt, given back in files, and named when they are bad.

use keyrail_crypto::secret::RootKey;
use keyrail_crypto::share::SHARE_TEXT_LEN;
use keyrail_seal::{
    DealtShare, KeyFile, RootKind, RootOfTrust, RootSlot, RootSpec, SealError, ShareProblem, ShareText, Shares, deal,
};
use static_assertions::assert_not_impl_any;

use crate::place::{Place, protected_by, require_silent, word};

assert_not_impl_any!(Shares: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize);
assert_not_impl_any!(ShareText: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize);
assert_not_impl_any!(DealtShare: Clone, std::fmt::Debug, std::fmt::Display, serde::Serialize);

/// A set of three of five, and its shares in files `1.txt` to `5.txt`.
struct Set {
    place: Place,
    root: RootKey,
    slot: RootSlot,
    texts: Vec<String>,
}

fn set() -> Set {
    let (place, root) = (Place::new(), RootKey::generate().unwrap());
    let (slot, shares) = deal("shamir:3/5".parse().unwrap(), &[], &root).unwrap();
    let texts: Vec<String> = shares.iter().map(|share| share.text.to_string()).collect();
    for (text, number) in texts.iter().zip(1..) {
        assert_eq!(text.len(), SHARE_TEXT_LEN);
        place.write(&format!("{number}.txt"), format!("# share {number} of 5\n\n{text}\n").as_bytes(), 0o600);
    }
    Set { place, root, slot: RootSlot::from_bytes(&slot.to_bytes()).unwrap(), texts }
}

impl Set {
    /// Opens the slot with the shares in these files.
    fn open(&self, files: &[&str]) -> Result<RootKey, SealError> {
        let paths: Vec<_> = files.iter().map(|file| self.place.path(file).display().to_string()).collect();
        let spec: RootSpec = format!("shamir:{}", paths.join(",")).parse().unwrap();
        assert!(spec.is_recovery());
        let root = spec.resolve()?;
        assert_eq!(root.kind(), RootKind::Shamir);
        root.open(&self.slot)
    }

    /// What is wrong with the share that is named, and how it is named.
    fn named(&self, files: &[&str]) -> (ShareProblem, String) {
        let error = self.open(files).err().unwrap();
        for text in &self.texts {
            require_silent(&error, text.as_bytes());
        }
        match error {
            SealError::Share { share, problem } => (problem, share),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn any_three_of_five_open_what_was_protected() {
    let set = set();
    for files in [["1.txt", "2.txt", "3.txt"], ["5.txt", "1.txt", "4.txt"], ["4.txt", "2.txt", "5.txt"]] {
        assert!(set.open(&files).unwrap().ct_eq(&set.root));
    }
    set.place.write("all", format!("\n{}\n", set.texts.join("\n")).to_uppercase().as_bytes(), 0o600);
    assert!(set.open(&["all"]).unwrap().ct_eq(&set.root), "in one file, in capital letters");
    let dir: RootSpec = format!("shares-dir:{}", set.place.path("").display()).parse().unwrap();
    assert!(dir.resolve().unwrap().open(&set.slot).unwrap().ct_eq(&set.root), "all of a directory");
    let few = set.open(&["1.txt", "4.txt"]).err().unwrap();
    assert_eq!((word(&few), few.to_string()), ("too-few-shares", "there are 2 shares, and it takes 3".to_owned()));
}

#[test]
fn a_bad_share_is_named_with_its_number_and_its_file() {
    let set = set();
    let other = self::set();
    let put = |name: &str, text: &str| set.place.write(name, text.as_bytes(), 0o600);
    put("other.txt", &other.texts[1]);
    let (problem, share) = set.named(&["1.txt", "other.txt", "3.txt"]);
    assert_eq!(problem, ShareProblem::OtherSet);
    assert!(share.starts_with("share 2 (`") && share.ends_with("other.txt`, line 1)"), "{share}");
    let (problem, share) = set.named(&["1.txt", "3.txt", "4.txt", "1.txt"]);
    assert_eq!(problem, ShareProblem::Twice);
    assert!(share.starts_with("share 1 (`") && share.ends_with("1.txt`, line 3)"), "{share}");
    let mut typo = set.texts[2].clone();
    let sign = if &typo[20..21] == "7" { "8" } else { "7" };
    typo.replace_range(20..21, sign);
    put("typo.txt", &typo);
    let (problem, share) = set.named(&["1.txt", "typo.txt", "4.txt"]);
    assert_eq!(problem, ShareProblem::Checksum);
    assert!(share.ends_with("typo.txt`, line 1"), "{share}");
    put("cut.txt", &set.texts[2][..60]);
    assert_eq!(set.named(&["cut.txt"]).0, ShareProblem::Malformed);
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
    let (_, shares) = deal(
        "shamir:2/2".parse().unwrap(),
        &[recipient, "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap()],
        &set.root,
    )
    .unwrap();
    put("share-1.age", &shares[0].text);
    assert_eq!(set.named(&["share-1.age"]).0, ShareProblem::Encrypted);
}

#[test]
fn shares_of_another_slot_say_so_and_files_are_private() {
    let (set, other) = (set(), set());
    let error = Shares::new(&read(&other)).unwrap().open(&set.slot).err().unwrap();
    assert_eq!(word(&error), "wrong-secret");
    let (_, by_file) = protected_by(&KeyFile::create(set.place.path("root.key")).unwrap());
    assert_eq!(word(&Shares::new(&read(&set)).unwrap().open(&by_file).err().unwrap()), "other-kind");
    for mode in [0o640, 0o604] {
        crate::place::set_mode(&set.place.path("2.txt"), mode);
        assert_eq!(word(&set.open(&["1.txt", "2.txt", "3.txt"]).err().unwrap()), "permissions", "{mode:o}");
    }
    set.place.write("empty", b"# nothing\n", 0o600);
    set.place.write("long", &[b'x'; 20_000], 0o600);
    for file in ["empty", "long"] {
        assert_eq!(word(&set.open(&[file]).err().unwrap()), "malformed", "{file}");
    }
    assert_eq!(word(&set.open(&["absent"]).err().unwrap()), "file");
}

fn read(set: &Set) -> Vec<ShareText> {
    let texts = set.texts.iter().take(3);
    texts.map(|text| ShareText { from: "here".to_owned(), text: text.clone().into() }).collect()
}

#[test]
fn an_altered_slot_opens_with_no_shares() {
    let set = set();
    let shares = Shares::new(&read(&set)).unwrap();
    let whole = set.slot.to_bytes();
    assert_eq!(whole.len(), 1 + 16 + 1 + 34 + 81);
    for index in 0..whole.len() {
        let mut altered = whole.clone();
        altered[index] ^= 1;
        let opened = RootSlot::from_bytes(&altered).and_then(|slot| shares.open(&slot));
        assert!(opened.is_err(), "byte {index}");
    }
}

/// A new root key under the shares that are there already; and no other root takes shares for a new slot.
#[test]
fn the_same_shares_can_protect_another_root_key() {
    let set = set();
    let shares = Shares::new(&read(&set)).unwrap();
    let other = RootKey::generate().unwrap();
    let renewed = shares.renew(&set.slot, &other).unwrap();
    assert!(shares.open(&renewed).unwrap().ct_eq(&other));
    assert_eq!((&renewed.parameters, renewed.id == set.slot.id), (&set.slot.parameters, false));
    assert!(matches!(shares.protect(&other), Err(SealError::SharesAreDealt)));
    assert!(Shares::new(&read(&set)[..2]).unwrap().renew(&set.slot, &other).is_err());
}

#[test]
fn there_is_one_recipient_for_each_share_or_none() {
    let root = RootKey::generate().unwrap();
    let recipient = || "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
    for (count, right) in [(0, true), (1, false), (4, false), (5, true), (6, false)] {
        let recipients: Vec<_> = (0..count).map(|_| recipient()).collect();
        assert_eq!(deal("shamir:3/5".parse().unwrap(), &recipients, &root).is_ok(), right, "{count}");
    }
    for text in ["", "shamir:", "shamir:1/3", "shamir:3/2", "shamir:2/17", "3/5", "keyfile:/f", "shamir:3/5 "] {
        assert!(text.parse::<keyrail_seal::RecoverySpec>().is_err(), "{text}");
    }
    let spec: keyrail_seal::RecoverySpec = "shamir:3/5".parse().unwrap();
    assert_eq!(spec.to_string(), "shamir:3/5");
}

/// `testdata/vectors/recovery-share.json`: dealt by code that is not ours.
#[test]
fn the_vectors_open_and_what_fails_says_why() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/recovery-share.json");
    let vectors: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let slot = |row: &serde_json::Value| RootSlot::from_bytes(&hex::decode(row["slot"].as_str().unwrap()).unwrap());
    let given = |texts: &[String]| {
        let named = texts.iter().zip(0..);
        let texts: Vec<_> =
            named.map(|(text, at)| ShareText { from: format!("at {at}"), text: text.clone().into() }).collect();
        Shares::new(&texts)
    };
    let valid = vectors["valid"].as_array().unwrap();
    let mut roots = Vec::new();
    for row in valid {
        let threshold = usize::try_from(row["threshold"].as_u64().unwrap()).unwrap();
        let all: Vec<String> = (1..=row["total"].as_u64().unwrap())
            .map(|number| row[format!("share_{number}")].as_str().unwrap().to_owned())
            .collect();
        let slot = slot(row).unwrap();
        assert_eq!(hex::encode(slot.to_bytes()), row["slot"]);
        let last: Vec<_> = all.iter().rev().take(threshold).map(|text| text.to_uppercase().replace('-', " ")).collect();
        let misread: Vec<_> =
            all.iter().map(|text| format!("krs1.{}", text[5..].replace('0', "o").replace('1', "l"))).collect();
        for texts in [&all[..threshold], &all, &last, &misread] {
            roots.push(given(texts).unwrap().open(&slot).unwrap_or_else(|error| panic!("{}: {error}", row["id"])));
        }
    }
    assert!(roots.iter().all(|root| root.ct_eq(&roots[0])), "one root key in all of them");
    let failing = vectors["failing"].as_array().unwrap();
    assert_eq!((valid.len(), failing.len()), (3, 21));
    for row in failing {
        let texts: Vec<String> = serde_json::from_value(row["shares"].clone()).unwrap();
        let opened = given(&texts).and_then(|shares| shares.open(&slot(row)?));
        let error = opened.err().unwrap_or_else(|| panic!("{}: it opened", row["id"]));
        assert_eq!(word(&error), row["failure"].as_str().unwrap(), "{}: {error}", row["id"]);
        if let Some(at) = row["named"].as_u64() {
            assert!(error.to_string().contains(&format!("at {at}")), "{}: {error}", row["id"]);
        }
    }
}
