//! Everything that is said of suites holds for each of the registry, so that a new entry is tested by itself.

use keyrail_crypto::envelope::{
    Context, KeyRef, Kid, VERSION_PREFIX_LEN, open_text, parse_text, peek_kid, seal_text, text_prefix,
};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;

use crate::testdata::{root, rows, vectors};

#[test]
fn every_suite_of_the_registry_does_everything() {
    let key = DataKey::generate().unwrap();
    let kid = Kid::from_bytes([0xc3; 16]);
    for suite in Suite::all() {
        assert_eq!(suite.as_str().parse(), Ok(suite));
        assert_eq!(Suite::from_cose_alg(suite.cose_alg()), Some(suite));
        let key = KeyRef { kid: &kid, key_id: &[2; 16], key: &key, suite };
        let text = seal_text(&key, &Context::empty(), b"plaintext").unwrap();
        assert_eq!(open_text(&key, &Context::empty(), &text).unwrap().as_bytes(), b"plaintext", "{suite}");
        assert_eq!(parse_text(&text).map(|header| (header.kid, header.suite)), Ok((kid, suite)), "{suite}");
        assert_eq!(peek_kid(&text), Some(kid), "{suite}");
        assert_eq!(text.get(..VERSION_PREFIX_LEN), Some(text_prefix(suite, &kid).as_str()), "{suite}");
        for other in Suite::all().filter(|other| *other != suite) {
            let key = KeyRef { suite: other, ..key };
            assert!(open_text(&key, &Context::empty(), &text).is_err(), "{suite} as {other}");
        }
        let vectors = vectors("envelope");
        assert!(rows(&vectors, "valid").iter().any(|row| row["suite"] == suite.as_str()), "{suite} has no vector");
    }
}

/// A suite is added in one file. Nothing else in the product may ask which suite it is; the format of age has one cipher,
/// which is no choice of ours.
#[test]
fn no_other_file_tells_one_suite_from_another() {
    let mut found = Vec::new();
    crate::exposure::each_source(&root().join("crates"), &mut |path, product| {
        let names = ["ChaCha20Poly1305", "CHACHA20_POLY1305", "AES_256_GCM", "\"A256GCM\"", "\"ChaCha20-Poly1305\""];
        if names.iter().any(|name| product.contains(name)) {
            found.push(path.to_owned());
        }
    });
    assert_eq!(found, ["crates/keyrail-crypto/src/age.rs", "crates/keyrail-crypto/src/suite.rs"]);
}
