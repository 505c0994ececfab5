//! Envelopes: our reader against `coset`, the text form, and opening.

use coset::iana::EnumI64;
use coset::{CoseEncrypt, RegisteredLabelWithPrivate, TaggedCborSerializable};
use keyrail_crypto::CryptoError;
use keyrail_crypto::envelope::{self, Context, Header, KeyRef, Kid};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;

/// Envelopes of both suites, with and without context, empty and long.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for suite in [Suite::A256Gcm, Suite::ChaCha20Poly1305] {
        for len in [0, 1, 23, 24, 300] {
            seeds.push(seal(suite, &Context::empty(), &vec![b'p'; len]));
        }
        seeds.push(seal(suite, &Context::from_pairs([("row", "7")]).expect("a context"), b"Ada"));
    }
    seeds
}

/// What our reader accepts, `coset` reads alike; it has one text form; it opens with its own context alone.
pub fn check(data: &[u8]) -> bool {
    let parsed = envelope::parse(data);
    let key = key();
    let context = Context::empty();
    let Ok(header) = parsed else {
        let opened = open(&key, Suite::A256Gcm, &KID, &context, data);
        assert!(matches!(opened, Err(CryptoError::Unopenable)), "what does not parse was opened");
        return false;
    };
    agrees_with_coset(data, &header);
    let text = envelope::to_text(data);
    assert_eq!(envelope::from_text(&text).as_deref(), Ok(data));
    assert_eq!(envelope::parse_text(&text), Ok(header));
    assert!(envelope::peek_kid(&text).is_none_or(|kid| kid == header.kid));
    let opened = open(&key, header.suite, &header.kid, &context, data).is_ok();
    let other = Context::from_pairs([("row", "8")]).expect("a context");
    assert!(!(opened && open(&key, header.suite, &header.kid, &other, data).is_ok()), "two contexts open it");
    true
}

fn agrees_with_coset(data: &[u8], header: &Header) {
    let message = CoseEncrypt::from_tagged_slice(data).expect("coset reads what we accept");
    assert_eq!(message.protected.header.key_id, header.kid.as_bytes());
    let Some(RegisteredLabelWithPrivate::Assigned(alg)) = message.protected.header.alg else {
        panic!("coset finds no algorithm")
    };
    assert_eq!(Suite::from_cose_alg(alg.to_i64()), Some(header.suite));
    assert_eq!(message.recipients.len(), 1);
}

fn open(
    key: &DataKey,
    suite: Suite,
    kid: &Kid,
    context: &Context,
    data: &[u8],
) -> Result<keyrail_crypto::secret::Plaintext, CryptoError> {
    envelope::open(&KeyRef { kid, key_id: &[9; 16], key, suite }, context, data)
}

/// The one key of the targets.
pub fn key() -> DataKey {
    DataKey::danger_import(&[3; 32]).expect("a key")
}

/// Its id.
pub const KID: Kid = Kid::from_bytes(*b"0123456789abcdef");

/// An envelope under [`key`], always the same.
pub fn seal(suite: Suite, context: &Context, plaintext: &[u8]) -> Vec<u8> {
    let key = key();
    let key = KeyRef { kid: &KID, key_id: &[9; 16], key: &key, suite };
    envelope::danger_seal_deterministic(&key, context, plaintext, &[5; 32], &[6; 12]).expect("an envelope")
}
