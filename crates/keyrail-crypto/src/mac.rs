//! Keyed hashes: seals of rows, hashes of tokens, the journal's guard. HMAC-SHA-256 (RFC 2104).

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

use crate::secret::{AsSecret, Secret32, StoreKey};
use crate::{CryptoError, kdf};

/// Length of a tag, in bytes.
pub const TAG_LEN: usize = 32;

/// A key for keyed hashes of one purpose.
pub struct MacKey(Secret32);

impl StoreKey {
    /// Derives the key for one purpose; different purposes give independent keys.
    ///
    /// # Errors
    /// [`CryptoError::System`] when there is no memory.
    pub fn mac_key(&self, purpose: &str) -> Result<MacKey, CryptoError> {
        let info: [&[u8]; 2] = [b"keyrail/mac/v1/", purpose.as_bytes()];
        Ok(MacKey(Secret32::init_with(|out| kdf::derive_into(self.secret().expose_secret(), &[], &info, out))?))
    }
}

impl MacKey {
    /// The tag of the parts, each with its length, so that parts cannot be shifted into each other.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_LEN] {
        let lens: Vec<[u8; 8]> = parts.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
        hmac_sha256(self.0.expose_secret(), lens.iter().zip(parts).flat_map(|(len, part)| [len.as_slice(), part]))
    }

    /// Whether `tag` is the tag of the parts, in constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8; TAG_LEN]) -> bool {
        self.tag(parts).ct_eq(tag).into()
    }
}

/// HMAC-SHA-256 over the parts as they come. The library's context of the key lives for this one tag.
pub(crate) fn hmac_sha256<'a>(key: &[u8], parts: impl Iterator<Item = &'a [u8]>) -> [u8; TAG_LEN] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    parts.for_each(|part| context.update(part));
    let mut out = [0; TAG_LEN];
    for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    out
}
