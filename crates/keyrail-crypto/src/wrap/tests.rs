//! Wrapping, by the vectors that other code made, and by every way to get it wrong.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;

use super::*;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/wrapped-key.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    hex::decode(vector[name].as_str().unwrap()).unwrap()
}

fn secret(bytes: &[u8]) -> Secret32 {
    Secret32::init_with(|out| -> Result<(), CryptoError> {
        out.copy_from_slice(bytes);
        Ok(())
    })
    .unwrap()
}

struct Vector {
    kek: Secret32,
    purpose: String,
    table: String,
    row: [u8; 16],
    version: u32,
    generation: u64,
    wrapped: Vec<u8>,
}

impl Vector {
    fn of(vector: &Value) -> Self {
        Self {
            kek: secret(&bytes(vector, "kek")),
            purpose: vector["key_type"].as_str().unwrap().to_owned(),
            table: vector["table"].as_str().unwrap().to_owned(),
            row: bytes(vector, "row").try_into().unwrap(),
            version: vector["version"].as_u64().unwrap().try_into().unwrap(),
            generation: vector["generation"].as_u64().unwrap(),
            wrapped: bytes(vector, "wrapped"),
        }
    }

    fn context(&self) -> WrapContext<'_> {
        WrapContext { table: &self.table, id: &self.row, version: self.version, generation: self.generation }
    }

    fn unwrap(&self) -> Result<Secret32, CryptoError> {
        super::unwrap(&self.kek, &self.purpose, &WrappedKey::from_bytes(&self.wrapped)?, &self.context())
    }
}

#[test]
fn the_vectors_unwrap_and_are_what_we_write() {
    let vectors = vectors();
    let valid = vectors["valid"].as_array().unwrap();
    assert_eq!(valid.len(), 6);
    for row in valid {
        let (vector, key) = (Vector::of(row), secret(&bytes(row, "key")));
        assert!(vector.unwrap().unwrap().ct_eq(&key), "{}", row["id"]);
        let salt = bytes(row, "salt").try_into().unwrap();
        let made = wrap_with_salt(&vector.kek, &vector.purpose, &key, &vector.context(), &salt).unwrap();
        assert_eq!(hex::encode(made.as_bytes()), row["wrapped"], "{}", row["id"]);
        assert_eq!(hex::encode(aad(&vector.purpose, &vector.context())), row["aad"], "{}", row["id"]);
    }
}

#[test]
fn the_failing_vectors_fail_all_alike() {
    let vectors = vectors();
    let failing = vectors["failing"].as_array().unwrap();
    assert_eq!(failing.len(), 16);
    for row in failing {
        assert_eq!(Vector::of(row).unwrap().err(), Some(CryptoError::Unopenable), "{}", row["id"]);
    }
}

/// The words stand in stored bytes: a renamed type must keep its word.
#[test]
fn the_purposes_are_the_words_of_the_vectors() {
    use crate::secret::{AsSecret, DataKey, MasterKey, RootKey, SigningSeed, StoreKey};
    let ours = [DataKey::PURPOSE, MasterKey::PURPOSE, RootKey::PURPOSE, SigningSeed::PURPOSE, StoreKey::PURPOSE];
    let vectors = vectors();
    let mut used: Vec<&str> =
        vectors["valid"].as_array().unwrap().iter().map(|row| row["key_type"].as_str().unwrap()).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, ours);
}

#[test]
fn the_same_key_is_never_wrapped_to_the_same_bytes() {
    let context = WrapContext { table: "t", id: &[7; 16], version: 1, generation: 1 };
    let (kek, key) = (Secret32::generate().unwrap(), Secret32::generate().unwrap());
    let one = wrap(&kek, "DataKey", &key, &context).unwrap();
    assert_ne!(one, wrap(&kek, "DataKey", &key, &context).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: keyrail_testkit::scale(2_560).try_into().unwrap(),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5_869),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_wrapped_key_is_bound_to_each_part_of_its_place(
        table in "[a-z_]{1,12}", row: [u8; 16], version: u32, generation: u64,
        other_table in "[a-z_]{1,12}", other_row: [u8; 16], other_version: u32, other_generation: u64,
        place in 0..WRAPPED_LEN, bit in 0..8_u8,
    ) {
        let (kek, key) = (Secret32::generate().unwrap(), Secret32::generate().unwrap());
        let context = WrapContext { table: &table, id: &row, version, generation };
        let wrapped = wrap(&kek, "DataKey", &key, &context).unwrap();
        prop_assert!(unwrap(&kek, "DataKey", &wrapped, &context).unwrap().ct_eq(&key));
        prop_assert!(!wrapped.as_bytes().windows(8).any(|part| key.expose_secret().windows(8).any(|secret| secret == part)));
        let changed = [
            WrapContext { table: &other_table, ..context },
            WrapContext { id: &other_row, ..context },
            WrapContext { version: other_version, ..context },
            WrapContext { generation: other_generation, ..context },
        ];
        let same = [other_table == table, other_row == row, other_version == version, other_generation == generation];
        for (context, same) in changed.into_iter().zip(same) {
            prop_assert_eq!(unwrap(&kek, "DataKey", &wrapped, &context).is_ok(), same);
        }
        prop_assert!(unwrap(&kek, "MasterKey", &wrapped, &context).is_err());
        prop_assert!(unwrap(&Secret32::generate().unwrap(), "DataKey", &wrapped, &context).is_err());
        let mut bytes = wrapped.as_bytes().to_vec();
        bytes[place] ^= 1 << bit;
        let altered = WrappedKey::from_bytes(&bytes).and_then(|wrapped| unwrap(&kek, "DataKey", &wrapped, &context));
        prop_assert_eq!(altered.err(), Some(CryptoError::Unopenable));
    }
}
