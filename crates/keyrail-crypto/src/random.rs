//! Randomness from aws-lc's generator, which the operating system seeds.

use crate::CryptoError;

/// Fills `out` with random bytes.
///
/// # Errors
/// [`CryptoError::System`] when the operating system gives none.
pub fn fill(out: &mut [u8]) -> Result<(), CryptoError> {
    aws_lc_rs::rand::fill(out).map_err(|_| CryptoError::System { what: "randomness" })
}

/// `N` random bytes, for salts, nonces and ids; secrets are made in place instead.
///
/// # Errors
/// [`CryptoError::System`] when the operating system gives none.
pub fn array<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}
