//! Errors that tell an attacker nothing.

/// Why a cryptographic operation gave no result.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// Wrong key, wrong context or altered data: deliberately one case with one message.
    #[error("it does not open")]
    Unopenable,
    /// The plaintext is longer than an envelope may hold.
    #[error("the plaintext has {len} bytes, and may have {max} at most")]
    PlaintextTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Parameters of a key derivation are outside what is accepted.
    #[error("the parameters of the key derivation are out of range")]
    Parameters,
    /// The operating system gave no randomness or no memory.
    #[error("the operating system gave no {what}")]
    System {
        /// What was asked for.
        what: &'static str,
    },
    /// The library refused an operation that cannot fail with the arguments given.
    #[error("the cryptographic library failed")]
    Library,
}
