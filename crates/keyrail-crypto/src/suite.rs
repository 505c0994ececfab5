//! Content algorithms: one registry, in which a third is added in one place.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead;

/// A content algorithm of the envelope.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Suite {
    /// AES-256 in Galois/Counter Mode (NIST SP 800-38D), COSE algorithm 3.
    #[default]
    A256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), COSE algorithm 24.
    ChaCha20Poly1305,
}

/// What is known of a suite. All suites have a 32-byte key, a 12-byte nonce and a 16-byte tag.
struct Entry {
    suite: Suite,
    name: &'static str,
    cose_alg: i64,
    algorithm: &'static aead::Algorithm,
}

/// The registry: a suite is added here and in [`Suite`], nowhere else.
static REGISTRY: &[Entry] = &[
    Entry { suite: Suite::A256Gcm, name: "A256GCM", cose_alg: 3, algorithm: &aead::AES_256_GCM },
    Entry {
        suite: Suite::ChaCha20Poly1305,
        name: "ChaCha20-Poly1305",
        cose_alg: 24,
        algorithm: &aead::CHACHA20_POLY1305,
    },
];

/// Length of the nonce of every suite, in bytes.
pub const NONCE_LEN: usize = 12;

/// Length of the tag of every suite, in bytes.
pub const TAG_LEN: usize = 16;

impl Suite {
    /// Every suite.
    pub fn all() -> impl Iterator<Item = Self> {
        REGISTRY.iter().map(|entry| entry.suite)
    }

    /// The name in JSON, SQL and on the command line.
    pub fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// The algorithm's number in the COSE registry (RFC 9053).
    pub fn cose_alg(self) -> i64 {
        self.entry().cose_alg
    }

    /// The suite with this number in the COSE registry.
    pub fn from_cose_alg(alg: i64) -> Option<Self> {
        REGISTRY.iter().find(|entry| entry.cose_alg == alg).map(|entry| entry.suite)
    }

    pub(crate) fn algorithm(self) -> &'static aead::Algorithm {
        self.entry().algorithm
    }

    fn entry(self) -> &'static Entry {
        // INVARIANT: the registry has an entry for every suite (a test walks the enum); the fallback is never taken.
        static FALLBACK: Entry =
            Entry { suite: Suite::A256Gcm, name: "A256GCM", cose_alg: 3, algorithm: &aead::AES_256_GCM };
        REGISTRY.iter().find(|entry| entry.suite == self).unwrap_or(&FALLBACK)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        REGISTRY.iter().find(|entry| entry.name == text).map(|entry| entry.suite).ok_or(UnknownSuite)
    }
}

/// A text names no suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is not a suite (one of: A256GCM, ChaCha20-Poly1305)")]
pub struct UnknownSuite;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_own_entry_of_the_common_shape() {
        for suite in [Suite::A256Gcm, Suite::ChaCha20Poly1305] {
            let entry = suite.entry();
            assert_eq!(entry.suite, suite);
            assert_eq!(entry.name.parse(), Ok(suite));
            assert_eq!(Suite::from_cose_alg(entry.cose_alg), Some(suite));
            assert_eq!(
                (entry.algorithm.key_len(), entry.algorithm.nonce_len(), entry.algorithm.tag_len()),
                (32, NONCE_LEN, TAG_LEN)
            );
        }
        assert_eq!(Suite::all().count(), 2);
    }
}
