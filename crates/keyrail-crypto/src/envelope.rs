//! The envelope: COSE_Encrypt (RFC 9052) with one recipient `direct+HKDF-SHA-256` (RFC 9053, section 6.1.2).
//!
//! Every message has its own content key, derived from the data key version and a fresh salt, so that no number
//! of messages exhausts a key. `spec/envelope.md` has the layout and a worked example.

mod context;
mod kid;
mod layout;
mod parse;
#[cfg(test)]
mod tests;
mod text;

pub use context::{Context, ContextError, KEY_LEN_MAX, PAIRS_MAX, VALUE_LEN_MAX};
pub use kid::{KID_LEN, Kid, KidError};
pub use parse::{ENVELOPE_LEN_MAX, EnvelopeError, Header, parse};
pub use text::{
    TEXT_PREFIX, VERSION_PREFIX_LEN, from_text, open_text, parse_text, peek_kid, seal_text, text_prefix, to_text,
};

use crate::aead::Cipher;
use crate::secret::{AsSecret, DataKey, Plaintext};
use crate::suite::{NONCE_LEN, Suite, TAG_LEN};
use crate::{CryptoError, kdf, random};
use layout::SALT_LEN;

/// The longest plaintext of one envelope, in bytes.
pub const PLAINTEXT_LEN_MAX: usize = 16 * 1024 * 1024;

/// A data key version, ready for use.
#[derive(Clone, Copy)]
pub struct KeyRef<'a> {
    /// The version's id; stands in every envelope.
    pub kid: &'a Kid,
    /// The data key's id; every envelope is bound to it.
    pub key_id: &'a [u8; 16],
    /// The key.
    pub key: &'a DataKey,
    /// The content algorithm.
    pub suite: Suite,
}

/// Encrypts `plaintext`, bound to `context`.
///
/// # Errors
/// [`CryptoError::PlaintextTooLong`], [`CryptoError::System`] without randomness.
pub fn seal(key: &KeyRef<'_>, context: &Context, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut fresh = [0; SALT_LEN + NONCE_LEN];
    random::fill(&mut fresh)?;
    seal_with(key, context, plaintext, &fresh)
}

/// The deterministic part: salt and IV come from the caller.
fn seal_with(
    key: &KeyRef<'_>,
    context: &Context,
    plaintext: &[u8],
    fresh: &[u8; SALT_LEN + NONCE_LEN],
) -> Result<Vec<u8>, CryptoError> {
    if plaintext.len() > PLAINTEXT_LEN_MAX {
        return Err(CryptoError::PlaintextTooLong { len: plaintext.len(), max: PLAINTEXT_LEN_MAX });
    }
    let (salt, iv) = fresh.split_at(SALT_LEN);
    let mut out = Vec::with_capacity(plaintext.len() + layout::OVERHEAD_LEN_MAX);
    layout::begin(&mut out, key.suite, key.kid, iv, plaintext.len() + TAG_LEN);
    let start = out.len();
    out.extend_from_slice(plaintext);
    let mut protected = Vec::with_capacity(layout::PROTECTED_LEN_MAX);
    layout::protected(&mut protected, key.suite, key.kid);
    let aad = layout::enc_structure(&protected, &layout::external_aad(key.key_id, context));
    let cipher = content_cipher(key, salt, layout::RECIPIENT_PROTECTED)?;
    let nonce = iv.try_into().map_err(|_| CryptoError::Library)?;
    let tag = cipher.seal(nonce, &aad, out.get_mut(start..).ok_or(CryptoError::Library)?)?;
    out.extend_from_slice(&tag);
    layout::end(&mut out, salt);
    Ok(out)
}

/// Decrypts an envelope that was made under this key version with the same context.
///
/// # Errors
/// [`CryptoError::Unopenable`] for everything that an attacker could learn from: another key, another
/// context, altered bytes.
pub fn open(key: &KeyRef<'_>, context: &Context, envelope: &[u8]) -> Result<Plaintext, CryptoError> {
    let parsed = parse::parse_parts(envelope).map_err(|_| CryptoError::Unopenable)?;
    if parsed.kid != *key.kid || parsed.suite != key.suite {
        return Err(CryptoError::Unopenable);
    }
    let aad = layout::enc_structure(&parsed.protected, &layout::external_aad(key.key_id, context));
    let cipher = content_cipher(key, &parsed.salt, &parsed.recipient_protected)?;
    let nonce = parsed.iv.as_ref().try_into().map_err(|_| CryptoError::Unopenable)?;
    let (body, tag) = parsed
        .ciphertext
        .len()
        .checked_sub(TAG_LEN)
        .and_then(|len| parsed.ciphertext.split_at_checked(len))
        .ok_or(CryptoError::Unopenable)?;
    let mut plaintext = vec![0; body.len()];
    cipher.open(nonce, &aad, body, tag, &mut plaintext)?;
    Ok(Plaintext::new(plaintext))
}

/// The content key of one message: HKDF over the data key with the COSE_KDF_Context of RFC 9053, section 5.2.
fn content_cipher(key: &KeyRef<'_>, salt: &[u8], recipient_protected: &[u8]) -> Result<Cipher, CryptoError> {
    let info = layout::kdf_context(key.suite, recipient_protected);
    let content_key = kdf::derive(key.key.secret().expose_secret(), salt, &[&info])?;
    Cipher::new(key.suite, content_key.as_slice())
}

/// What a holder of an exported key needs besides it: the external AAD of an envelope.
pub fn external_aad(key_id: &[u8; 16], context: &Context) -> Vec<u8> {
    layout::external_aad(key_id, context)
}

/// [`seal`] with chosen salt and IV, for vectors. Never for data: a repeated pair reveals plaintexts.
///
/// # Errors
/// Those of [`seal`].
#[doc(hidden)]
pub fn danger_seal_deterministic(
    key: &KeyRef<'_>,
    context: &Context,
    plaintext: &[u8],
    salt: &[u8; 32],
    iv: &[u8; 12],
) -> Result<Vec<u8>, CryptoError> {
    let mut fresh = [0; SALT_LEN + NONCE_LEN];
    for (to, from) in fresh.iter_mut().zip(salt.iter().chain(iv)) {
        *to = *from;
    }
    seal_with(key, context, plaintext, &fresh)
}
