//! `testdata/vectors/root-slot.json`, each vector on real files.

use keyrail_crypto::secret::{DataKey, MasterKey, RootKey, Wraps};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use keyrail_seal::{RootKind, RootSlot, RootSpec, SealError};
use serde_json::Value;

use crate::place::{Place, word};

pub(crate) fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/root-slot.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) fn bytes(row: &Value, name: &str) -> Vec<u8> {
    hex::decode(row[name].as_str().unwrap()).unwrap()
}

/// Opens the slot of a vector with its key file or passphrase.
fn open(row: &Value) -> Result<RootKey, SealError> {
    let place = Place::new();
    let (kind, content) = match row["kind"].as_str().unwrap() {
        "keyfile" => ("keyfile", bytes(row, "key_file")),
        "passphrase" => ("passphrase-file", row["passphrase"].as_str().unwrap().as_bytes().to_vec()),
        other => panic!("{other}"),
    };
    let path = place.write("root", &content, 0o600);
    let spec: RootSpec = format!("{kind}:{}", path.display()).parse().unwrap();
    spec.resolve()?.open(&RootSlot::from_bytes(&bytes(row, "slot"))?)
}

fn unwrap<K: keyrail_crypto::secret::AsSecret>(above: &impl Wraps<K>, row: &Value) -> K {
    let id = bytes(row, "row").try_into().unwrap();
    let context = WrapContext {
        table: row["table"].as_str().unwrap(),
        id: &id,
        version: row["version"].as_u64().unwrap().try_into().unwrap(),
        generation: row["generation"].as_u64().unwrap(),
    };
    above.unwrap(&WrappedKey::from_bytes(&bytes(row, "wrapped")).unwrap(), &context).unwrap()
}

/// Comes down from the root key of a vector to its data key.
pub(crate) fn from_the_root_of(row: &Value, root: &RootKey) {
    let master: MasterKey = unwrap(root, &row["hierarchy"]["master"]);
    let data: DataKey = unwrap(&master, &row["hierarchy"]["data"]);
    let exported = data.danger_export().unwrap();
    assert_eq!(exported.as_bytes().to_vec(), bytes(&row["hierarchy"], "data_key"), "{}", row["id"]);
}

#[test]
fn from_the_secret_of_a_vector_one_comes_down_to_its_data_key() {
    let vectors = vectors();
    let valid = vectors["valid"].as_array().unwrap();
    assert_eq!(valid.len(), 4);
    for row in valid.iter().filter(|row| row["kind"] != "pkcs11") {
        from_the_root_of(row, &open(row).unwrap_or_else(|error| panic!("{}: {error}", row["id"])));
        let slot = RootSlot::from_bytes(&bytes(row, "slot")).unwrap();
        assert_eq!(slot.to_bytes(), bytes(row, "slot"), "{}", row["id"]);
        assert_eq!(slot.id.to_vec(), bytes(row, "slot_id"), "{}", row["id"]);
        assert_eq!(slot.kind() == RootKind::KeyFile, row["kind"] == "keyfile", "{}", row["id"]);
    }
}

#[test]
fn what_fails_says_why() {
    let vectors = vectors();
    let failing = vectors["failing"].as_array().unwrap();
    assert_eq!(failing.len(), 39);
    let wrong: Vec<_> = failing
        .iter()
        .filter(|row| row["kind"] != "pkcs11")
        .filter_map(|row| match open(row) {
            Ok(_) => Some(format!("{}: it opened", row["id"])),
            Err(error) if word(&error) != row["failure"] => Some(format!("{}: {}", row["id"], word(&error))),
            Err(_) => None,
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
