//! What opens a store: wrapped keys, root slots, root specs, key files. The first byte chooses.

use keyrail_crypto::passphrase::Argon2Params;
use keyrail_crypto::secret::{RootKey, SlotKey, Wraps as _};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use keyrail_seal::{KeyFile, RootSlot, RootSpec, SlotParameters, TokenKey, parse_key_file};

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let wrapped = wrapped();
    let slot = |parameters, links: usize| {
        let links = vec![wrapped.clone(); links];
        RootSlot { id: [4; 16], parameters, wrapped: wrapped.clone(), links }.to_bytes()
    };
    let file = slot(SlotParameters::KeyFile { fingerprint: [5; 16] }, 0);
    let linked = slot(SlotParameters::KeyFile { fingerprint: [5; 16] }, 2);
    let passphrase = slot(SlotParameters::Passphrase { params: Argon2Params::DEFAULT, salt: [6; 16] }, 0);
    let [serial, token, object] = ["0123456789abcdef", "keyrail", "keyrail-root"].map(str::to_owned);
    let key = TokenKey { serial, token, object, key_id: vec![8; 16], fingerprint: [9; 16] };
    let token = slot(SlotParameters::Pkcs11(key), 0);
    let chosen: [(u8, &[u8]); 9] = [
        (0, wrapped.as_bytes()),
        (1, &file),
        (1, &linked),
        (1, &passphrase),
        (1, &token),
        (2, b"keyfile:/etc/keyrail/root.key"),
        (2, b"passphrase-file:pass"),
        (2, b"pkcs11:/usr/lib/softhsm/libsofthsm2.so?token=keyrail&object=a%20b&pin-file=/etc/keyrail/pin"),
        (3, &key_file()),
    ];
    chosen.iter().map(|(choice, bytes)| [&[*choice], *bytes].concat()).collect()
}

/// What is accepted reads back byte for byte.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, bytes)) = data.split_first() else { return false };
    match choice % 4 {
        0 => WrappedKey::from_bytes(bytes).is_ok_and(|wrapped| {
            assert_eq!(wrapped.as_bytes(), bytes);
            true
        }),
        1 => RootSlot::from_bytes(bytes).is_ok_and(|slot| {
            assert_eq!(slot.to_bytes(), bytes);
            true
        }),
        2 => std::str::from_utf8(bytes).ok().and_then(|text| Some((text, text.parse::<RootSpec>().ok()?))).is_some_and(
            |(text, spec)| {
                // A key on a token has many spellings, and one of ours.
                let ours = spec.to_string();
                assert!(ours == text || text.starts_with("pkcs11:"));
                assert_eq!(ours.parse::<RootSpec>().as_ref(), Ok(&spec));
                true
            },
        ),
        _ => parse_key_file(bytes).is_some(),
    }
}

fn wrapped() -> WrappedKey {
    let key = SlotKey::init_with(|out| {
        out.fill(7);
        Ok::<_, keyrail_crypto::CryptoError>(())
    });
    let context = WrapContext { table: "root_slot", id: &[4; 16], version: 1, generation: 1 };
    key.and_then(|key| key.wrap(&RootKey::generate()?, &context)).expect("a wrapped key")
}

fn key_file() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("root.key");
    KeyFile::create(&path).expect("a key file");
    std::fs::read(path).expect("its bytes")
}
