//! Wrapping of keys: bound to table, id, version and generation. The layout is in `spec/wrapped-key.md`.

#[cfg(test)]
mod tests;

use crate::aead::Cipher;
use crate::kdf;
use crate::secret::{SECRET_LEN, Secret32};
use crate::suite::{NONCE_LEN, Suite, TAG_LEN};
use crate::{CryptoError, random};

/// What a wrapped key is bound to: it unwraps at this place and in this form only.
#[derive(Clone, Copy, Debug)]
pub struct WrapContext<'a> {
    /// The table that holds it.
    pub table: &'a str,
    /// The id of its row.
    pub id: &'a [u8; 16],
    /// The version of the key.
    pub version: u32,
    /// How often the key was wrapped.
    pub generation: u64,
}

/// A wrapped key: format version, salt, encrypted key, tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrappedKey(Vec<u8>);

/// The one format there is.
const FORMAT: u8 = 1;

const SALT_LEN: usize = 32;

/// One nonce for all, because the salt makes every wrapping key fresh.
const NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// Length of a wrapped key, in bytes.
pub const WRAPPED_LEN: usize = 1 + SALT_LEN + SECRET_LEN + TAG_LEN;

impl WrappedKey {
    /// The stored form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CryptoError::Unopenable`] for a wrong length or format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        if bytes.len() == WRAPPED_LEN && bytes.first() == Some(&FORMAT) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(CryptoError::Unopenable)
        }
    }
}

pub(crate) fn wrap(
    kek: &Secret32,
    purpose: &str,
    key: &Secret32,
    context: &WrapContext<'_>,
) -> Result<WrappedKey, CryptoError> {
    wrap_with_salt(kek, purpose, key, context, &random::array()?)
}

fn wrap_with_salt(
    kek: &Secret32,
    purpose: &str,
    key: &Secret32,
    context: &WrapContext<'_>,
    salt: &[u8; SALT_LEN],
) -> Result<WrappedKey, CryptoError> {
    let mut out = Vec::with_capacity(WRAPPED_LEN);
    out.push(FORMAT);
    out.extend_from_slice(salt);
    out.extend_from_slice(key.expose_secret());
    let cipher = wrapping_cipher(kek, purpose, salt)?;
    let body = out.get_mut(1 + SALT_LEN..).ok_or(CryptoError::Library)?;
    // The key's bytes are encrypted in place: no copy of them stays in the buffer.
    let tag = cipher.seal(NONCE, &aad(purpose, context), body)?;
    out.extend_from_slice(&tag);
    Ok(WrappedKey(out))
}

pub(crate) fn unwrap(
    kek: &Secret32,
    purpose: &str,
    wrapped: &WrappedKey,
    context: &WrapContext<'_>,
) -> Result<Secret32, CryptoError> {
    let (salt, body) =
        wrapped.0.get(1..).and_then(|rest| rest.split_at_checked(SALT_LEN)).ok_or(CryptoError::Unopenable)?;
    let (encrypted, tag) = body.split_at_checked(SECRET_LEN).ok_or(CryptoError::Unopenable)?;
    let cipher = wrapping_cipher(kek, purpose, salt)?;
    Secret32::init_with(|out| cipher.open(NONCE, &aad(purpose, context), encrypted, tag, out))
}

fn wrapping_cipher(kek: &Secret32, purpose: &str, salt: &[u8]) -> Result<Cipher, CryptoError> {
    let key = kdf::derive(kek.expose_secret(), salt, &[b"keyrail/wrap/v1/", purpose.as_bytes()])?;
    Cipher::new(Suite::A256Gcm, key.as_slice())
}

/// Each part length-prefixed, so that no two contexts have the same bytes.
fn aad(purpose: &str, context: &WrapContext<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    let parts: [&[u8]; 5] = [
        purpose.as_bytes(),
        context.table.as_bytes(),
        context.id,
        &context.version.to_be_bytes(),
        &context.generation.to_be_bytes(),
    ];
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}
