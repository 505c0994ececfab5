#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use super::*;

/// The recipient of the example in the specification (c2sp.org/age).
const X25519_RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[test]
fn a_file_has_the_form_of_the_specification() {
    let recipient: Recipient = X25519_RECIPIENT.parse().unwrap();
    assert_eq!(recipient.to_string(), X25519_RECIPIENT);
    for len in [0, 1, 43, 60, 1_000, AGE_PLAINTEXT_LEN_MAX] {
        let text = recipient.encrypt(&vec![b'x'; len]).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
        assert_eq!((*first, *last), ("-----BEGIN AGE ENCRYPTED FILE-----", "-----END AGE ENCRYPTED FILE-----"));
        assert!(lines.iter().all(|line| line.len() <= LINE_LEN && !line.is_empty()), "{len}");
        assert!(text.ends_with('\n'));
    }
    let long = recipient.encrypt(&vec![0; AGE_PLAINTEXT_LEN_MAX + 1]).err();
    assert_eq!(
        long,
        Some(CryptoError::PlaintextTooLong { len: AGE_PLAINTEXT_LEN_MAX + 1, max: AGE_PLAINTEXT_LEN_MAX })
    );
}

#[test]
fn what_is_no_recipient_is_refused() {
    let altered = X25519_RECIPIENT.replace("aqmc", "aqmd");
    let upper = X25519_RECIPIENT.replace("age1", "AGE1");
    for text in [
        "",
        "age1",
        "alice@example.org",
        &altered,
        &upper,
        &X25519_RECIPIENT.replace("age1", "age1pq1"),
        "ssh-ed25519 AAAA",
    ] {
        assert_eq!(text.parse::<Recipient>(), Err(RecipientError), "{text}");
    }
}

/// The secret that a point of small order gives is known to everybody.
#[test]
fn nothing_is_encrypted_to_a_key_of_small_order() {
    let recipient = Recipient { text: String::new(), key: PublicKey::X25519([0; X25519_LEN]) };
    assert_eq!(recipient.encrypt(b"share").err(), Some(CryptoError::Parameters));
}
