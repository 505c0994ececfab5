//! Ed25519 signatures (RFC 8032) of the log's checkpoints.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::CryptoError;
use crate::secret::{AsSecret, SigningSeed};

/// Length of a public key, in bytes.
pub const PUBLIC_KEY_LEN: usize = 32;

/// Length of a signature, in bytes.
pub const SIGNATURE_LEN: usize = 64;

impl SigningSeed {
    /// Signs a message. The library's key pair lives for this one signature.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], CryptoError> {
        self.pair()?.sign(message).as_ref().try_into().map_err(|_| CryptoError::Library)
    }

    /// The public key.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn public_key(&self) -> Result<[u8; PUBLIC_KEY_LEN], CryptoError> {
        self.pair()?.public_key().as_ref().try_into().map_err(|_| CryptoError::Library)
    }

    fn pair(&self) -> Result<Ed25519KeyPair, CryptoError> {
        Ed25519KeyPair::from_seed_unchecked(self.secret().expose_secret()).map_err(|_| CryptoError::Library)
    }
}

/// Whether `signature` is one of `message` under `public_key`.
pub fn verify(public_key: &[u8; PUBLIC_KEY_LEN], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}
