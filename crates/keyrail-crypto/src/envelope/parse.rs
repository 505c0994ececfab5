//! Reading envelopes: our own layout without detours, what other COSE libraries write through `coset`.

mod reader;

use std::borrow::Cow;

use coset::iana::{self, EnumI64};
use coset::{
    CoseEncrypt, CoseRecipient, Header as CoseHeader, Label, RegisteredLabelWithPrivate, TaggedCborSerializable,
};
use reader::{Reader, is_definite};

use super::layout::{RECIPIENT_PROTECTED, SALT_LEN};
use super::{Kid, PLAINTEXT_LEN_MAX};
use crate::suite::{NONCE_LEN, Suite, TAG_LEN};

/// The longest envelope that is looked at, in bytes.
pub const ENVELOPE_LEN_MAX: usize = PLAINTEXT_LEN_MAX + 4096;

/// What an envelope says of itself in the open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The data key version it was made under.
    pub kid: Kid,
    /// Its content algorithm.
    pub suite: Suite,
}

/// Reads an envelope's header; the whole structure is checked, the ciphertext is not opened.
///
/// # Errors
/// [`EnvelopeError`] when the bytes are not one of our envelopes.
pub fn parse(envelope: &[u8]) -> Result<Header, EnvelopeError> {
    let parts = parse_parts(envelope)?;
    Ok(Header { kid: parts.kid, suite: parts.suite })
}

/// The bytes are not an envelope.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The content algorithm is not one of ours.
    #[error("the content algorithm is not known")]
    Algorithm,
    /// The text form is not `kr1.` and unpadded base64url.
    #[error("the text is not `kr1.` and base64url")]
    Encoding,
    /// A header is missing, has the wrong type or length, or is not known and critical.
    #[error("a header is missing or not of the expected form")]
    Headers,
    /// The bytes are not the COSE_Encrypt structure, or too long.
    #[error("the bytes are not a COSE_Encrypt structure")]
    Structure,
    /// There is not exactly one recipient with direct+HKDF-SHA-256.
    #[error("the envelope has not the one expected recipient")]
    Recipient,
}

/// The parts that opening needs.
pub(super) struct Parts<'a> {
    pub(super) kid: Kid,
    pub(super) suite: Suite,
    pub(super) protected: Cow<'a, [u8]>,
    pub(super) iv: Cow<'a, [u8]>,
    pub(super) ciphertext: Cow<'a, [u8]>,
    pub(super) salt: Cow<'a, [u8]>,
    pub(super) recipient_protected: Cow<'a, [u8]>,
}

pub(super) fn parse_parts(envelope: &[u8]) -> Result<Parts<'_>, EnvelopeError> {
    if envelope.len() > ENVELOPE_LEN_MAX {
        return Err(EnvelopeError::Structure);
    }
    match parse_own(envelope) {
        Some(parts) => Ok(parts),
        None => parse_any(envelope),
    }
}

/// The layout that [`super::seal`] writes; anything else is `None`.
pub(super) fn parse_own(envelope: &[u8]) -> Option<Parts<'_>> {
    let mut rest = Reader(envelope);
    rest.literal(&[0xd8, 0x60, 0x84])?;
    let protected = match rest.byte()? {
        0x55 => rest.take(21)?,
        0x56 => rest.take(22)?,
        _ => return None,
    };
    let (kid, suite) = own_protected(protected)?;
    rest.literal(&[0xa1, 0x05, 0x4c])?;
    let iv = rest.take(NONCE_LEN)?;
    let len = rest.bytes_head()?;
    let ciphertext = rest.take(len)?;
    rest.literal(&[0x81, 0x83, 0x43])?;
    rest.literal(RECIPIENT_PROTECTED)?;
    rest.literal(&[0xa1, 0x33, 0x58, 0x20])?;
    let salt = rest.take(SALT_LEN)?;
    rest.literal(&[0x40])?;
    (rest.0.is_empty() && len >= TAG_LEN).then_some(Parts {
        kid,
        suite,
        protected: Cow::Borrowed(protected),
        iv: Cow::Borrowed(iv),
        ciphertext: Cow::Borrowed(ciphertext),
        salt: Cow::Borrowed(salt),
        recipient_protected: Cow::Borrowed(RECIPIENT_PROTECTED),
    })
}

/// The protected header as we write it: {1: alg, 4: kid}.
pub(super) fn own_protected(protected: &[u8]) -> Option<(Kid, Suite)> {
    let mut rest = Reader(protected);
    rest.literal(&[0xa2, 0x01])?;
    let alg = match rest.byte()? {
        small @ 0..=23 => small,
        24 => rest.byte().filter(|alg| *alg >= 24)?,
        _ => return None,
    };
    rest.literal(&[0x04, 0x50])?;
    let kid = rest.take(16)?.try_into().ok()?;
    let suite = Suite::from_cose_alg(alg.into())?;
    rest.0.is_empty().then_some((Kid::from_bytes(kid), suite))
}

/// Any COSE_Encrypt with the same meaning, in definite lengths.
pub(super) fn parse_any(envelope: &[u8]) -> Result<Parts<'_>, EnvelopeError> {
    if !is_definite(envelope) {
        return Err(EnvelopeError::Structure);
    }
    let message = CoseEncrypt::from_tagged_slice(envelope).map_err(|_| EnvelopeError::Structure)?;
    let protected = original(message.protected.original_data).ok_or(EnvelopeError::Headers)?;
    let (suite, kid, iv) = body_headers(&message.protected.header, &message.unprotected)?;
    let ciphertext =
        message.ciphertext.filter(|ciphertext| ciphertext.len() >= TAG_LEN).ok_or(EnvelopeError::Structure)?;
    let [recipient] = <[CoseRecipient; 1]>::try_from(message.recipients).map_err(|_| EnvelopeError::Recipient)?;
    let (salt, recipient_protected) = recipient_parts(recipient)?;
    Ok(Parts {
        kid,
        suite,
        protected: Cow::Owned(protected),
        iv: Cow::Owned(iv),
        ciphertext: Cow::Owned(ciphertext),
        salt: Cow::Owned(salt),
        recipient_protected: Cow::Owned(recipient_protected),
    })
}

/// The bytes of a protected header as they came, which is what the sender authenticated.
fn original(protected: Option<Vec<u8>>) -> Option<Vec<u8>> {
    protected.filter(|bytes| is_definite(bytes))
}

/// Algorithm and kid are authenticated; a label stands in one of the two headers only (RFC 9052, section 3).
fn body_headers(protected: &CoseHeader, open: &CoseHeader) -> Result<(Suite, Kid, Vec<u8>), EnvelopeError> {
    let suite = match &protected.alg {
        Some(RegisteredLabelWithPrivate::Assigned(alg)) => {
            Suite::from_cose_alg(alg.to_i64()).ok_or(EnvelopeError::Algorithm)?
        }
        _ => return Err(EnvelopeError::Algorithm),
    };
    let critical = !protected.crit.is_empty() || !open.crit.is_empty();
    let partial_iv = !protected.partial_iv.is_empty() || !open.partial_iv.is_empty();
    if critical || partial_iv || open.alg.is_some() || !open.key_id.is_empty() {
        return Err(EnvelopeError::Headers);
    }
    let kid = protected.key_id.as_slice().try_into().map_err(|_| EnvelopeError::Headers)?;
    let iv = match (protected.iv.as_slice(), open.iv.as_slice()) {
        (iv, []) | ([], iv) if iv.len() == NONCE_LEN => iv.to_vec(),
        _ => return Err(EnvelopeError::Headers),
    };
    Ok((suite, Kid::from_bytes(kid), iv))
}

/// Salt and protected header of a recipient that says direct+HKDF-SHA-256 and nothing that would change the
/// derivation.
fn recipient_parts(recipient: CoseRecipient) -> Result<(Vec<u8>, Vec<u8>), EnvelopeError> {
    let (header, open) = (&recipient.protected.header, &recipient.unprotected);
    let direct = RegisteredLabelWithPrivate::Assigned(iana::Algorithm::Direct_HKDF_SHA_256);
    let plain = header.crit.is_empty() && open.crit.is_empty() && open.alg.is_none() && recipient.recipients.is_empty();
    let empty = recipient.ciphertext.as_ref().is_some_and(Vec::is_empty);
    let derivation = |(label, _): &(Label, _)| matches!(label, Label::Int(label) if DERIVATION.contains(label));
    let salt_label = Label::Int(iana::HeaderAlgorithmParameter::Salt.to_i64());
    let mut inputs = header.rest.iter().chain(&open.rest).filter(|entry| derivation(entry));
    let (Some((label, value)), None) = (inputs.next(), inputs.next()) else { return Err(EnvelopeError::Recipient) };
    let in_the_open = open.rest.iter().any(|(label, _)| *label == salt_label);
    if header.alg != Some(direct) || !plain || !empty || *label != salt_label || !in_the_open {
        return Err(EnvelopeError::Recipient);
    }
    let salt = value.as_bytes().filter(|salt| salt.len() == SALT_LEN).ok_or(EnvelopeError::Recipient)?.clone();
    let protected = original(recipient.protected.original_data).ok_or(EnvelopeError::Recipient)?;
    Ok((salt, protected))
}

/// Labels of what goes into the derivation of a key (RFC 9053, sections 5.1 and 5.2): the salt, -20, and what the two
/// parties say of themselves, -21 to -26, which is nothing here.
const DERIVATION: std::ops::RangeInclusive<i64> = -26..=-20;
