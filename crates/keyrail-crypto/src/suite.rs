//! Content algorithms: one table, in which a third is added in one place.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead;

/// Makes the enum, its registry and its words from one table.
macro_rules! suites {
    ($($(#[$meta:meta])* $suite:ident = $name:literal, $cose_alg:literal, $algorithm:path;)+) => {
        /// A content algorithm of the envelope.
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Suite {
            $($(#[$meta])* $suite,)+
        }

        static REGISTRY: &[Suite] = &[$(Suite::$suite),+];

        impl Suite {
            /// The names, as a hint.
            pub const CHOICES: &'static str = concat!("choose one of:" $(, " ", $name)+);

            fn entry(self) -> &'static Entry {
                match self {
                    $(Self::$suite => {
                        static ENTRY: Entry = Entry { name: $name, cose_alg: $cose_alg, algorithm: &$algorithm };
                        &ENTRY
                    })+
                }
            }
        }

        // Two bytes at most for the number: the version prefix of the text form has room for no more.
        const _: () = assert!($(0 <= $cose_alg && $cose_alg <= 255 &&)+ true);
    };
}

suites! {
    /// AES-256 in Galois/Counter Mode (NIST SP 800-38D), COSE algorithm 3.
    #[default]
    A256Gcm = "A256GCM", 3, aead::AES_256_GCM;
    /// ChaCha20-Poly1305 (RFC 8439), COSE algorithm 24.
    ChaCha20Poly1305 = "ChaCha20-Poly1305", 24, aead::CHACHA20_POLY1305;
}

/// What is known of a suite. All suites have a 32-byte key, a 12-byte nonce and a 16-byte tag.
struct Entry {
    name: &'static str,
    cose_alg: i64,
    algorithm: &'static aead::Algorithm,
}

/// Length of the nonce of every suite, in bytes.
pub const NONCE_LEN: usize = 12;

/// Length of the tag of every suite, in bytes.
pub const TAG_LEN: usize = 16;

impl Suite {
    /// Every suite.
    pub fn all() -> impl Iterator<Item = Self> {
        REGISTRY.iter().copied()
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
        Self::all().find(|suite| suite.cose_alg() == alg)
    }

    pub(crate) fn algorithm(self) -> &'static aead::Algorithm {
        self.entry().algorithm
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
        Self::all().find(|suite| suite.as_str() == text).ok_or(UnknownSuite)
    }
}

/// A text names no suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no such content algorithm")]
pub struct UnknownSuite;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_own_entry_of_the_common_shape() {
        let names: std::collections::HashSet<_> = Suite::all().map(Suite::as_str).collect();
        let numbers: std::collections::HashSet<_> = Suite::all().map(Suite::cose_alg).collect();
        assert_eq!((names.len(), numbers.len()), (REGISTRY.len(), REGISTRY.len()));
        for suite in Suite::all() {
            let algorithm = suite.algorithm();
            assert_eq!((algorithm.key_len(), algorithm.nonce_len(), algorithm.tag_len()), (32, NONCE_LEN, TAG_LEN));
            assert!(Suite::CHOICES.split(' ').any(|word| word == suite.as_str()));
        }
        assert_eq!(Suite::default(), Suite::A256Gcm);
    }
}
