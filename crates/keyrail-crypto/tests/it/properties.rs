//! What holds for every plaintext, context, suite and key.

use keyrail_crypto::CryptoError;
use keyrail_crypto::envelope::{
    Context, KeyRef, Kid, TEXT_PREFIX, from_text, open, open_text, parse, parse_text, peek_kid, seal, seal_text,
    text_prefix,
};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn config() -> ProptestConfig {
    let cases = keyrail_testkit::scale(5_120).try_into().unwrap();
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(31_791), ..ProptestConfig::default() }
}

fn suites() -> impl Strategy<Value = Suite> {
    proptest::sample::select(Suite::all().collect::<Vec<_>>())
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("\\PC{1,20}", "\\PC{0,40}", 0..6).prop_map(|map| map.into_iter().collect())
}

fn key() -> DataKey {
    DataKey::danger_import(&[0x42; 32]).unwrap()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_sealed_opens_with_its_context_in_any_order(
        suite in suites(), kid: [u8; 16], key_id: [u8; 16], mut pairs in pairs(),
        plaintext in prop::collection::vec(any::<u8>(), 0..2_000), rotation in 0..6_usize,
    ) {
        let (key, kid) = (key(), Kid::from_bytes(kid));
        let key = KeyRef { kid: &kid, key_id: &key_id, key: &key, suite };
        let context = Context::from_pairs(pairs.clone()).unwrap();
        let text = seal_text(&key, &context, &plaintext).unwrap();
        let turns = rotation % pairs.len().max(1);
        pairs.rotate_left(turns);
        let opened = open_text(&key, &Context::from_pairs(pairs).unwrap(), &text).unwrap();
        prop_assert_eq!(opened.as_bytes(), &plaintext);
        prop_assert_eq!(parse_text(&text).map(|header| (header.kid, header.suite)), Ok((kid, suite)));
        prop_assert_eq!(peek_kid(&text), Some(kid));
        prop_assert!(text.starts_with(&text_prefix(suite, &kid)));
        prop_assert_ne!(text, seal_text(&key, &context, &plaintext).unwrap(), "never the same twice");
    }

    #[test]
    fn an_empty_context_and_none_are_the_same_and_any_other_is_not(suite in suites(), pairs in pairs(), other in pairs()) {
        let (key, kid) = (key(), Kid::from_bytes([1; 16]));
        let key = KeyRef { kid: &kid, key_id: &[2; 16], key: &key, suite };
        let none: [(&str, &str); 0] = [];
        let text = seal_text(&key, &Context::empty(), b"data").unwrap();
        prop_assert!(open_text(&key, &Context::from_pairs(none).unwrap(), &text).is_ok());
        let (one, two) = (Context::from_pairs(pairs).unwrap(), Context::from_pairs(other).unwrap());
        let text = seal_text(&key, &one, b"data").unwrap();
        prop_assert_eq!(open_text(&key, &two, &text).is_ok(), one == two);
        prop_assert_eq!(open_text(&key, &Context::empty(), &text).is_ok(), one.is_empty());
    }

    #[test]
    fn one_changed_byte_never_opens(
        suite in suites(), plaintext in prop::collection::vec(any::<u8>(), 0..300), place: prop::sample::Index, bits in 1..=255_u8,
    ) {
        let (key, kid) = (key(), Kid::from_bytes([1; 16]));
        let key = KeyRef { kid: &kid, key_id: &[2; 16], key: &key, suite };
        let context = Context::from_pairs([("row", "7")]).unwrap();
        let mut envelope = seal(&key, &context, &plaintext).unwrap();
        let place = place.index(envelope.len());
        envelope[place] ^= bits;
        prop_assert_eq!(open(&key, &context, &envelope).err(), Some(CryptoError::Unopenable));
    }

    #[test]
    fn one_changed_letter_never_opens(
        suite in suites(), plaintext in prop::collection::vec(any::<u8>(), 0..100), place: prop::sample::Index, letter: char,
    ) {
        let (key, kid) = (key(), Kid::from_bytes([1; 16]));
        let key = KeyRef { kid: &kid, key_id: &[2; 16], key: &key, suite };
        let text = seal_text(&key, &Context::empty(), &plaintext).unwrap();
        let place = place.index(text.len());
        let altered: String = text.char_indices().map(|(index, old)| if index == place { letter } else { old }).collect();
        prop_assert_eq!(open_text(&key, &Context::empty(), &altered).is_ok(), altered == text);
    }

    #[test]
    fn another_key_version_never_opens(suite in suites(), kid: [u8; 16], key_id: [u8; 16], other: [u8; 16], other_key: [u8; 32]) {
        let (own, other_key) = (key(), DataKey::danger_import(&other_key).unwrap());
        let (kid, other_kid) = (Kid::from_bytes(kid), Kid::from_bytes(other));
        let right = KeyRef { kid: &kid, key_id: &key_id, key: &own, suite };
        let text = seal_text(&right, &Context::empty(), b"data").unwrap();
        let wrong = [
            KeyRef { kid: &other_kid, ..right },
            KeyRef { key_id: &other, ..right },
            KeyRef { key: &other_key, ..right },
        ];
        for key in wrong {
            prop_assert_eq!(open_text(&key, &Context::empty(), &text).err(), Some(CryptoError::Unopenable));
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic_and_a_peek_never_says_another_kid(
        start in prop::sample::select(vec!["", TEXT_PREFIX, "kr1.2GCEVaIBAwRQ", "kr1.2GCEVqIBGBgEUA"]),
        rest in "[A-Za-z0-9_-]{0,260}|\\PC{0,40}",
    ) {
        let text = format!("{start}{rest}");
        if let (Ok(header), Some(peeked)) = (parse_text(&text), peek_kid(&text)) {
            prop_assert_eq!(header.kid, peeked);
        }
        if let Ok(envelope) = from_text(&text) {
            prop_assert_eq!(keyrail_crypto::envelope::to_text(&envelope), text, "one text for each envelope");
            let _either = parse(&envelope);
        }
    }

    #[test]
    fn a_context_is_accepted_or_refused_and_never_changed(pairs in prop::collection::vec(("\\PC{0,3}", "\\PC{0,6}"), 0..8)) {
        let mut keys: Vec<_> = pairs.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys.dedup();
        let sound = keys.len() == pairs.len() && keys.iter().all(|key| !key.is_empty());
        let context = Context::from_pairs(pairs.clone());
        prop_assert_eq!(context.is_ok(), sound);
        if let Ok(context) = context {
            let mut kept: Vec<_> = context.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let mut given = pairs;
            kept.sort();
            given.sort();
            prop_assert_eq!(kept, given);
        }
    }
}

/// hashicorp/vault#31791: a ciphertext with context is moved to another key version and its context goes with it.
#[test]
fn re_encryption_keeps_the_context() {
    let (old, new) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
    let (old_kid, new_kid) = (Kid::from_bytes([1; 16]), Kid::from_bytes([2; 16]));
    let old = KeyRef { kid: &old_kid, key_id: &[9; 16], key: &old, suite: Suite::A256Gcm };
    let new = KeyRef { kid: &new_kid, key_id: &[9; 16], key: &new, suite: Suite::ChaCha20Poly1305 };
    let context = Context::from_pairs([("table", "people"), ("row", "7")]).unwrap();
    let before = seal_text(&old, &context, b"data").unwrap();
    let plaintext = open_text(&old, &context, &before).unwrap();
    let after = seal_text(&new, &context, plaintext.as_bytes()).unwrap();
    assert_eq!(open_text(&new, &context, &after).unwrap().as_bytes(), b"data");
    let others = [Context::empty(), Context::from_pairs([("table", "people"), ("row", "8")]).unwrap()];
    for other in &others {
        assert!(open_text(&old, other, &before).is_err(), "nor can it be moved with another");
        assert!(open_text(&new, other, &after).is_err());
    }
    assert!(open_text(&old, &context, &after).is_err());
    assert!(open_text(&new, &context, &before).is_err());
}
