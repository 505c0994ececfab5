//! The text form for columns and JSON: `kr1.` and base64url without padding.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::parse::own_protected;
use super::{Context, ENVELOPE_LEN_MAX, EnvelopeError, Header, KeyRef, Kid, open, parse, seal};
use crate::CryptoError;
use crate::secret::Plaintext;
use crate::suite::Suite;

/// Every text form begins so.
pub const TEXT_PREFIX: &str = "kr1.";

/// How many characters of the text form tell the key version to a census or an SQL index. With
/// ChaCha20-Poly1305 they hold all but the last four bits of the kid.
pub const VERSION_PREFIX_LEN: usize = 38;

/// The longest base64url that is decoded, in characters.
const ENCODED_LEN_MAX: usize = ENVELOPE_LEN_MAX.div_ceil(3) * 4;

/// Bytes of an envelope that the version prefix is made of, and a little more so that the kid is whole.
const HEAD_LEN: usize = 27;

/// The text form of an envelope.
pub fn to_text(envelope: &[u8]) -> String {
    let mut out = String::with_capacity(TEXT_PREFIX.len() + envelope.len().div_ceil(3) * 4);
    out.push_str(TEXT_PREFIX);
    URL_SAFE_NO_PAD.encode_string(envelope, &mut out);
    out
}

/// The envelope of a text form. Only the one canonical text of an envelope is accepted.
///
/// # Errors
/// [`EnvelopeError::Encoding`]; [`EnvelopeError::Structure`] for a text that is too long to be decoded.
pub fn from_text(text: &str) -> Result<Vec<u8>, EnvelopeError> {
    let encoded = text.strip_prefix(TEXT_PREFIX).ok_or(EnvelopeError::Encoding)?;
    if encoded.len() > ENCODED_LEN_MAX {
        return Err(EnvelopeError::Structure);
    }
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| EnvelopeError::Encoding)
}

/// Encrypts into the text form.
///
/// # Errors
/// Those of [`seal`].
pub fn seal_text(key: &KeyRef<'_>, context: &Context, plaintext: &[u8]) -> Result<String, CryptoError> {
    Ok(to_text(&seal(key, context, plaintext)?))
}

/// Decrypts a text form.
///
/// # Errors
/// [`CryptoError::Unopenable`].
pub fn open_text(key: &KeyRef<'_>, context: &Context, text: &str) -> Result<Plaintext, CryptoError> {
    open(key, context, &from_text(text).map_err(|_| CryptoError::Unopenable)?)
}

/// The header of a text form; the whole of it is checked.
///
/// # Errors
/// [`EnvelopeError`].
pub fn parse_text(text: &str) -> Result<Header, EnvelopeError> {
    parse(&from_text(text)?)
}

/// The kid that a text form of our own layout begins with, from its first characters alone; the rest may be
/// anything. What other libraries wrote may need [`parse_text`].
pub fn peek_kid(text: &str) -> Option<Kid> {
    let encoded = text.strip_prefix(TEXT_PREFIX)?.as_bytes().get(..HEAD_LEN / 3 * 4)?;
    let mut head = [0; HEAD_LEN];
    let len = URL_SAFE_NO_PAD.decode_slice(encoded, &mut head).ok()?;
    let rest = head.get(..len)?.strip_prefix(&[0xd8, 0x60, 0x84])?;
    let protected = match rest.split_first()? {
        (0x55, rest) => rest.get(..21),
        (0x56, rest) => rest.get(..22),
        _ => None,
    };
    own_protected(protected?).map(|(kid, _)| kid)
}

/// The first [`VERSION_PREFIX_LEN`] characters of every text form under this suite and version.
pub fn text_prefix(suite: Suite, kid: &Kid) -> String {
    let mut head = Vec::with_capacity(64);
    super::layout::begin(&mut head, suite, kid, &[0; 12], 0);
    let mut text = to_text(&head);
    text.truncate(VERSION_PREFIX_LEN);
    text
}
