//! Our own reader and writer against the general COSE library.

use coset::{CborSerializable, CoseEncryptBuilder, CoseRecipientBuilder, HeaderBuilder, TaggedCborSerializable, iana};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::parse::{Parts, parse_any, parse_own};
use super::*;

fn config() -> ProptestConfig {
    let cases = keyrail_testkit::scale(10_240).try_into().unwrap();
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(9_052), ..ProptestConfig::default() }
}

fn suites() -> impl Strategy<Value = Suite> {
    proptest::sample::select(Suite::all().collect::<Vec<_>>())
}

fn sealed(suite: Suite, kid: [u8; 16], plaintext: &[u8], fresh: &[u8; SALT_LEN + NONCE_LEN]) -> Vec<u8> {
    let key = DataKey::danger_import(&[9; 32]).unwrap();
    let key = KeyRef { kid: &Kid::from_bytes(kid), key_id: &[1; 16], key: &key, suite };
    seal_with(&key, &Context::empty(), plaintext, fresh).unwrap()
}

fn same(one: &Parts<'_>, two: &Parts<'_>) -> bool {
    one.kid == two.kid
        && one.suite == two.suite
        && one.protected == two.protected
        && one.iv == two.iv
        && one.ciphertext == two.ciphertext
        && one.salt == two.salt
        && one.recipient_protected == two.recipient_protected
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_our_reader_accepts_the_general_one_reads_alike(
        suite in suites(), kid: [u8; 16], len in 0..70_000_usize, fresh: [u8; SALT_LEN + NONCE_LEN],
        place: prop::sample::Index, bits: u8,
    ) {
        // Mostly short ones: a change then falls into the structure.
        let plaintext = vec![0x5a; if len % 8 == 0 { len } else { len % 300 }];
        let mut envelope = sealed(suite, kid, &plaintext, &fresh);
        prop_assert!(same(&parse_own(&envelope).unwrap(), &parse_any(&envelope).unwrap()));
        let place = place.index(envelope.len());
        envelope[place] ^= bits;
        if let Some(own) = parse_own(&envelope) {
            prop_assert!(same(&own, &parse_any(&envelope).unwrap()), "byte {} by {:02x}", place, bits);
        }
    }

    #[test]
    fn what_we_write_is_what_the_general_library_writes(
        suite in suites(), kid: [u8; 16], plaintext in prop::collection::vec(any::<u8>(), 0..600), fresh: [u8; SALT_LEN + NONCE_LEN],
    ) {
        let ours = sealed(suite, kid, &plaintext, &fresh);
        let parts = parse_own(&ours).unwrap();
        let (salt, iv) = fresh.split_at(SALT_LEN);
        let alg = coset::iana::EnumI64::from_i64(suite.cose_alg()).unwrap();
        let protected = HeaderBuilder::new().algorithm(alg).key_id(kid.to_vec()).build();
        let recipient = CoseRecipientBuilder::new()
            .protected(HeaderBuilder::new().algorithm(iana::Algorithm::Direct_HKDF_SHA_256).build())
            .unprotected(HeaderBuilder::new().value(-20, ciborium::Value::Bytes(salt.to_vec())).build())
            .ciphertext(Vec::new())
            .build();
        let theirs = CoseEncryptBuilder::new()
            .protected(protected.clone())
            .unprotected(HeaderBuilder::new().iv(iv.to_vec()).build())
            .ciphertext(parts.ciphertext.to_vec())
            .add_recipient(recipient)
            .build();
        prop_assert_eq!(&ours, &theirs.to_tagged_vec().unwrap());
        let structure = coset::enc_structure_data(
            coset::EncryptionContext::CoseEncrypt,
            coset::ProtectedHeader { original_data: None, header: protected.clone() },
            b"aad",
        );
        prop_assert_eq!(layout::enc_structure(&protected.to_vec().unwrap(), b"aad"), structure);
    }

    #[test]
    fn the_external_aad_and_the_derivation_are_deterministic_cbor(
        suite in suites(), key_id: [u8; 16], pairs in prop::collection::btree_map(".{1,30}", ".{0,300}", 0..6),
    ) {
        use ciborium::Value;
        let context = Context::from_pairs(pairs.clone()).unwrap();
        let mut sorted: Vec<_> = pairs.into_iter().map(|(key, value)| (Value::Text(key), Value::Text(value))).collect();
        sorted.sort_by_key(|(key, _)| encoded(key));
        let value = Value::Array(vec![Value::Text("keyrail.envelope.v1".into()), Value::Bytes(key_id.to_vec()), Value::Map(sorted)]);
        prop_assert_eq!(external_aad(&key_id, &context), encoded(&value));
        let party = || Value::Array(vec![Value::Null; 3]);
        let public = Value::Array(vec![256.into(), Value::Bytes(layout::RECIPIENT_PROTECTED.to_vec())]);
        let value = Value::Array(vec![suite.cose_alg().into(), party(), party(), public]);
        prop_assert_eq!(layout::kdf_context(suite, layout::RECIPIENT_PROTECTED), encoded(&value));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), place: prop::sample::Index, cut: prop::sample::Index) {
        let _any = (parse(&bytes), parse_own(&bytes).is_some());
        // Random bytes in a sound envelope come further.
        let mut envelope = sealed(Suite::A256Gcm, [3; 16], b"plaintext", &[4; SALT_LEN + NONCE_LEN]);
        let place = place.index(envelope.len());
        let end = (place + bytes.len().min(8)).min(envelope.len());
        envelope.splice(place..end, bytes.into_iter().take(8));
        envelope.truncate(cut.index(envelope.len() + 1));
        let _any = (parse(&envelope), parse_own(&envelope).is_some());
    }
}

fn encoded(value: &ciborium::Value) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).unwrap();
    out
}

/// RFC 9052, section 5.3 and RFC 9053, section 5.2: the steps of the vectors, one by one.
#[test]
fn each_step_of_the_vectors_is_ours() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/envelope.json");
    let vectors: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut seen = 0;
    for row in vectors["valid"].as_array().unwrap().iter().filter(|row| row["salt"].is_string()) {
        let bytes = |name: &str| hex::decode(row[name].as_str().unwrap()).unwrap();
        let suite: Suite = row["suite"].as_str().unwrap().parse().unwrap();
        let envelope = bytes("envelope");
        let parts = parse_own(&envelope).unwrap();
        let pairs =
            row["context"].as_object().unwrap().iter().map(|(key, value)| (key.clone(), value.as_str().unwrap()));
        let aad = external_aad(&bytes("key_id").try_into().unwrap(), &Context::from_pairs(pairs).unwrap());
        let info = layout::kdf_context(suite, &parts.recipient_protected);
        let key = kdf::derive(&bytes("key").try_into().unwrap(), &parts.salt, &[&info]).unwrap();
        assert_eq!(parts.protected.as_ref(), bytes("protected"), "{}", row["id"]);
        assert_eq!(aad, bytes("external_aad"), "{}", row["id"]);
        assert_eq!(layout::enc_structure(&parts.protected, &aad), bytes("enc_structure"), "{}", row["id"]);
        assert_eq!(info, bytes("kdf_context"), "{}", row["id"]);
        assert_eq!(key.as_slice(), bytes("content_key"), "{}", row["id"]);
        assert_eq!(parts.ciphertext.as_ref(), bytes("ciphertext"), "{}", row["id"]);
        seen += 1;
    }
    assert_eq!(seen, 9);
}
