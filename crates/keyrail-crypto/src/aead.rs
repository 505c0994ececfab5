//! The one place where content is encrypted and decrypted: every suite goes through here.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};

use crate::CryptoError;
use crate::suite::{NONCE_LEN, Suite, TAG_LEN};

/// The library's context of a key; lives for one operation.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    /// # Errors
    /// [`CryptoError::Library`] for a key of another length than the suite's.
    pub(crate) fn new(suite: Suite, key: &[u8]) -> Result<Self, CryptoError> {
        let unbound = UnboundKey::new(suite.algorithm(), key).map_err(|_| CryptoError::Library)?;
        Ok(Self(LessSafeKey::new(unbound)))
    }

    /// Encrypts in place and gives the tag. The caller sees to it that no nonce comes twice under one key.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        in_out: &mut [u8],
    ) -> Result<[u8; TAG_LEN], CryptoError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), in_out).map_err(|_| CryptoError::Library)?;
        tag.as_ref().try_into().map_err(|_| CryptoError::Library)
    }

    /// Decrypts into `out`, which is as long as `ciphertext`; without success nothing in it may be used.
    ///
    /// # Errors
    /// [`CryptoError::Unopenable`].
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out).map_err(|_| CryptoError::Unopenable)
    }
}
