//! Slots as they are stored, and roots of trust as they are named.

use keyrail_seal::{KeyFile, RootSlot, RootSpec, SealError};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::place::{Place, protected_by};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: keyrail_testkit::scale(40_000).try_into().unwrap(),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(9_106),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_a_slot_or_damage(start in prop::sample::select(vec![0_u8, 1, 2]), kind in 0..6_u8, rest in prop::collection::vec(any::<u8>(), 0..140)) {
        let bytes = [&[start][..], &rest[..rest.len().min(16)], &[kind], &rest[rest.len().min(16)..]].concat();
        match RootSlot::from_bytes(&bytes) {
            Ok(slot) => prop_assert_eq!(slot.to_bytes(), bytes),
            Err(error) => prop_assert!(matches!(error, SealError::SlotDamaged)),
        }
    }

    #[test]
    fn a_root_of_trust_is_named_in_these_ways_only(text in "(keyfile:|passphrase-file:|shares-dir:|shamir:|file:|)[a-z/:. ,]{0,12}") {
        match text.parse::<RootSpec>() {
            Ok(spec) => prop_assert_eq!(spec.to_string(), text),
            Err(error) => {
                let named = ["keyfile:", "passphrase-file:", "shares-dir:"].iter().any(|kind| text.strip_prefix(kind).is_some_and(|path| !path.is_empty()));
                let shares = text.strip_prefix("shamir:").is_some_and(|paths| paths.split(',').all(|path| !path.is_empty()));
                prop_assert!(!named && !shares, "{}: {}", text, error);
            }
        }
    }
}

#[test]
fn no_changed_byte_of_a_slot_opens_it() {
    let place = Place::new();
    let file = KeyFile::create(place.path("root.key")).unwrap();
    let (_, slot) = protected_by(&file);
    let whole = slot.to_bytes();
    assert_eq!(whole.len(), 115);
    for index in 0..whole.len() {
        let mut altered = whole.clone();
        altered[index] ^= 1;
        let opened = RootSlot::from_bytes(&altered).and_then(|slot| keyrail_seal::RootOfTrust::open(&file, &slot));
        assert!(opened.is_err(), "byte {index}");
    }
}
