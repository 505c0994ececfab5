//! Secret types cannot be printed, cloned, serialized, or compared in variable time: this compiles only as long as
//! that is so.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::ops::Deref;

use keyrail_crypto::CryptoError;
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::{
    DataKey, Exported, MasterKey, Plaintext, RootKey, Secret32, SigningSeed, SlotKey, StoreKey, Wraps,
};
use keyrail_crypto::share::{Dealt, Share};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use serde::{Deserialize, Serialize};
use static_assertions::assert_not_impl_any;

macro_rules! secret {
    ($($name:ty),+ $(,)?) => {$(
        assert_not_impl_any!(
            $name: Debug, Display, Clone, Copy, PartialEq<$name>, PartialOrd<$name>, Ord, Hash, Default, Serialize,
            Deserialize<'static>, AsRef<[u8]>, Deref, Into<Vec<u8>>, Into<[u8; 32]>, Into<String>, IntoIterator
        );
    )+};
}

secret!(
    Secret32,
    DataKey,
    MasterKey,
    RootKey,
    SigningSeed,
    SlotKey,
    StoreKey,
    MacKey,
    Exported,
    Plaintext,
    Share,
    Dealt
);

#[test]
fn a_key_equals_itself_and_no_other() {
    let (one, two) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
    assert!(one.ct_eq(&one));
    assert!(!one.ct_eq(&two));
    let copy = DataKey::danger_import(one.danger_export().unwrap().as_bytes()).unwrap();
    assert!(one.ct_eq(&copy));
    for index in 0..32 {
        let mut altered = *one.danger_export().unwrap().as_bytes();
        altered[index] ^= 1;
        assert!(!one.ct_eq(&DataKey::danger_import(&altered).unwrap()), "byte {index}");
    }
}

#[test]
fn a_secret_that_cannot_be_made_whole_is_not_made() {
    let made = Secret32::init_with(|out| {
        out[0] = 1;
        Err(CryptoError::Parameters)
    });
    assert_eq!(made.err(), Some(CryptoError::Parameters));
}

#[test]
fn what_was_wrapped_as_one_kind_of_key_is_not_another() {
    let (root, master) = (RootKey::generate().unwrap(), MasterKey::generate().unwrap());
    let context = WrapContext { table: "table", id: &[1; 16], version: 1, generation: 1 };
    let wrapped = root.wrap(&master, &context).unwrap();
    assert!(root.unwrap_key::<MasterKey>(&wrapped, &context).unwrap().ct_eq(&master));
    assert!(root.unwrap_key::<StoreKey>(&wrapped, &context).is_err());
    assert!(root.unwrap_key::<SigningSeed>(&wrapped, &context).is_err());
    assert!(WrappedKey::from_bytes(&wrapped.as_bytes()[1..]).is_err());
}

#[test]
fn keyed_hashes_of_different_purposes_and_cuts_differ() {
    let store = StoreKey::generate().unwrap();
    let (one, two) = (store.mac_key("one").unwrap(), store.mac_key("two").unwrap());
    let tag = one.tag(&[b"ab", b"c"]);
    assert!(one.verify(&[b"ab", b"c"], &tag));
    assert!(store.mac_key("one").unwrap().verify(&[b"ab", b"c"], &tag));
    assert!(!one.verify(&[b"a", b"bc"], &tag), "parts cannot be shifted into each other");
    assert!(!one.verify(&[b"abc"], &tag));
    assert!(!one.verify(&[b"ab", b"c", b""], &tag));
    assert!(!two.verify(&[b"ab", b"c"], &tag));
}

/// One word for everything an attacker could learn from, and none of the words of a secret.
#[test]
fn errors_say_one_thing() {
    assert_eq!(CryptoError::Unopenable.to_string(), "it does not open");
    assert_eq!(format!("{:?}", CryptoError::Unopenable), "Unopenable");
}
