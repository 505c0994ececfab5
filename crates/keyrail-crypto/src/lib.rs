//! Secret types, suites, wrapping and the envelope: the only crate that knows the ciphers.
//!
//! No IO, no clocks, no names of the domain. Everything that Keyrail itself encrypts, signs and hashes goes
//! through aws-lc; Argon2id alone comes from RustCrypto. Contexts of the library exist during one operation
//! only; between operations a key is in locked memory and nowhere else.

mod aead;
pub mod age;
pub mod digest;
pub mod envelope;
mod error;
mod kdf;
pub mod locked;
pub mod mac;
pub mod passphrase;
#[cfg(test)]
mod primitives;
pub mod process;
pub mod random;
pub mod secret;
pub mod share;
pub mod sign;
pub mod stream;
pub mod suite;
pub mod wrap;

pub use error::CryptoError;
