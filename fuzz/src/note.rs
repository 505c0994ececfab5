//! Checkpoints, signed notes and verifier keys.

use std::sync::OnceLock;

use keyrail_audit::{Checkpoint, VerifierKey};
use keyrail_crypto::secret::SigningSeed;

/// Signed checkpoints of small and great logs, and a key.
pub fn seeds() -> Vec<Vec<u8>> {
    let (seed, key) = signer();
    let note =
        |size| Checkpoint { origin: key.name().to_owned(), size, root: [8; 32] }.sign(seed, key).expect("a note");
    [note(0), note(7), note(u64::MAX), key.to_string()].into_iter().map(String::into_bytes).collect()
}

/// A note has one spelling, and a signed one is read by both readers alike.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (seed, ours) = signer();
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text, "a second spelling of a key");
        return true;
    }
    let verified = Checkpoint::verify(text, ours).ok();
    let Ok(parsed) = Checkpoint::parse_unverified(text) else {
        assert_eq!(verified, None, "a note that does not parse was verified");
        return false;
    };
    if let Some(verified) = verified {
        assert_eq!(verified, parsed);
        assert_eq!(parsed.sign(seed, ours).expect("a note"), text, "a second spelling of a note");
    }
    if let Ok(key) = VerifierKey::new(&parsed.origin, seed.public_key().expect("a public key")) {
        let signed = parsed.sign(seed, &key).expect("a note");
        assert_eq!(Checkpoint::verify(&signed, &key), Ok(parsed));
    }
    true
}

fn signer() -> &'static (SigningSeed, VerifierKey) {
    static SIGNER: OnceLock<(SigningSeed, VerifierKey)> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let seed = SigningSeed::generate().expect("a seed");
        let key = VerifierKey::new("keyrail/example", seed.public_key().expect("a public key")).expect("a key");
        (seed, key)
    })
}
