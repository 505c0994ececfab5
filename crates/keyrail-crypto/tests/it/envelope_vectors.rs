//! `testdata/vectors/envelope.json`: what must open, what is written byte for byte, what must be refused.

use keyrail_crypto::CryptoError;
use keyrail_crypto::envelope::{
    self, Context, EnvelopeError, KeyRef, Kid, VERSION_PREFIX_LEN, danger_seal_deterministic, from_text, open,
    open_text, parse_text, peek_kid, text_prefix, to_text,
};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;
use serde_json::Value;

use crate::testdata::{array, bytes, rows, vectors};

/// A caller with a key, and what he expects.
struct Caller {
    kid: Kid,
    key_id: [u8; 16],
    key: DataKey,
    suite: Suite,
    context: Context,
    reversed: Context,
}

impl Caller {
    fn of(row: &Value) -> Self {
        let pairs = row["context"].as_object().unwrap();
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect();
        Self {
            kid: Kid::from_bytes(array(row, "kid")),
            key_id: array(row, "key_id"),
            key: DataKey::danger_import(&array(row, "key")).unwrap(),
            suite: row["suite"].as_str().unwrap().parse().unwrap(),
            context: Context::from_pairs(pairs.clone()).unwrap(),
            reversed: Context::from_pairs(pairs.into_iter().rev()).unwrap(),
        }
    }

    fn key(&self) -> KeyRef<'_> {
        KeyRef { kid: &self.kid, key_id: &self.key_id, key: &self.key, suite: self.suite }
    }
}

fn text(row: &Value) -> String {
    match row["text_repeated"].as_array().map(Vec::as_slice) {
        Some([start, part, times]) => {
            let part = part.as_str().unwrap().repeat(times.as_u64().unwrap().try_into().unwrap());
            format!("{}{part}", start.as_str().unwrap())
        }
        _ => row["text"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn what_is_valid_opens() {
    let vectors = vectors("envelope");
    let valid = rows(&vectors, "valid");
    assert_eq!(valid.len(), 16);
    for row in valid {
        let (id, caller, text) = (&row["id"], Caller::of(row), text(row));
        let header = parse_text(&text).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!((header.kid, header.suite), (caller.kid, caller.suite), "{id}");
        assert_eq!(from_text(&text).unwrap(), bytes(row, "envelope"), "{id}");
        assert_eq!(to_text(&bytes(row, "envelope")), text, "{id}");
        for context in [&caller.context, &caller.reversed] {
            let opened = open_text(&caller.key(), context, &text).unwrap_or_else(|error| panic!("{id}: {error}"));
            assert_eq!(opened.as_bytes(), bytes(row, "plaintext"), "{id}");
        }
    }
}

#[test]
fn what_we_write_is_what_the_vectors_say() {
    let vectors = vectors("envelope");
    let own: Vec<_> = rows(&vectors, "valid").iter().filter(|row| row["salt"].is_string()).collect();
    assert_eq!(own.len(), 9);
    assert_eq!(own.iter().filter(|row| row["suite"] == "ChaCha20-Poly1305").count(), 3);
    for row in own {
        let (id, caller) = (&row["id"], Caller::of(row));
        let plaintext = bytes(row, "plaintext");
        let made = danger_seal_deterministic(
            &caller.key(),
            &caller.reversed,
            &plaintext,
            &array(row, "salt"),
            &array(row, "iv"),
        );
        assert_eq!(made.unwrap(), bytes(row, "envelope"), "{id}");
        let text = text(row);
        assert_eq!(peek_kid(&text), Some(caller.kid), "{id}");
        assert_eq!(text_prefix(caller.suite, &caller.kid), row["version_prefix"].as_str().unwrap(), "{id}");
        assert_eq!(text.get(..VERSION_PREFIX_LEN), row["version_prefix"].as_str(), "{id}");
        assert_eq!(envelope::external_aad(&caller.key_id, &caller.context), bytes(row, "external_aad"), "{id}");
    }
}

/// Where our reader refuses; the opener says one thing, whatever it was.
fn failure(text: &str) -> &'static str {
    match parse_text(text) {
        Ok(_) => "unopenable",
        Err(EnvelopeError::Algorithm) => "algorithm",
        Err(EnvelopeError::Encoding) => "encoding",
        Err(EnvelopeError::Headers) => "headers",
        Err(EnvelopeError::Recipient) => "recipient",
        Err(EnvelopeError::Structure) => "structure",
        Err(other) => panic!("{other:?} has no word in the vectors"),
    }
}

#[test]
fn what_fails_is_refused_where_the_vectors_say_and_always_with_one_error() {
    let vectors = vectors("envelope");
    let failing = rows(&vectors, "failing");
    assert_eq!(failing.len(), 98);
    let mut wrong = Vec::new();
    for row in failing {
        let (caller, text) = (Caller::of(row), text(row));
        let found = failure(&text);
        if found != row["failure"] {
            wrong.push(format!("{}: {found}, not {}", row["id"], row["failure"]));
        }
        let opened = open_text(&caller.key(), &caller.context, &text);
        if opened.err() != Some(CryptoError::Unopenable) {
            wrong.push(format!("{}: not refused as it should be", row["id"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_cut_of_an_envelope_is_refused() {
    let vectors = vectors("envelope");
    for row in rows(&vectors, "valid") {
        let (caller, envelope) = (Caller::of(row), bytes(row, "envelope"));
        for len in 0..envelope.len() {
            let opened = open(&caller.key(), &caller.context, &envelope[..len]);
            assert_eq!(opened.err(), Some(CryptoError::Unopenable), "{} at {len}", row["id"]);
        }
    }
}

#[test]
fn limits_are_where_the_specification_puts_them() {
    use keyrail_crypto::envelope::{KEY_LEN_MAX, PAIRS_MAX, PLAINTEXT_LEN_MAX, VALUE_LEN_MAX, seal_text};
    assert_eq!((PLAINTEXT_LEN_MAX, PAIRS_MAX, KEY_LEN_MAX, VALUE_LEN_MAX), (16 * 1024 * 1024, 32, 128, 4096));
    let key = DataKey::generate().unwrap();
    let key = KeyRef { kid: &Kid::from_bytes([1; 16]), key_id: &[2; 16], key: &key, suite: Suite::A256Gcm };
    let pairs = (0..PAIRS_MAX).map(|number| (format!("{number:0128}"), "v".repeat(VALUE_LEN_MAX)));
    let context = Context::from_pairs(pairs).unwrap();
    let mut plaintext = vec![7; PLAINTEXT_LEN_MAX];
    let text = seal_text(&key, &context, &plaintext).unwrap();
    assert_eq!(open_text(&key, &context, &text).unwrap().as_bytes(), plaintext);
    plaintext.push(7);
    let refused = seal_text(&key, &context, &plaintext);
    assert_eq!(
        refused.err(),
        Some(CryptoError::PlaintextTooLong { len: PLAINTEXT_LEN_MAX + 1, max: PLAINTEXT_LEN_MAX })
    );
}
