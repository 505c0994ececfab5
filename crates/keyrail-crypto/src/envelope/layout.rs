//! The bytes of an envelope, written straight into one buffer in RFC 8949 deterministic encoding.
//!
//! A test holds every function here against what a general COSE library encodes.

use super::{Context, Kid};
use crate::suite::Suite;

/// Length of the salt of a message, in bytes.
pub(super) const SALT_LEN: usize = 32;

/// What an envelope adds to its plaintext at most, in bytes.
pub(super) const OVERHEAD_LEN_MAX: usize = 128;

/// Length of the body's protected header at most, in bytes.
pub(super) const PROTECTED_LEN_MAX: usize = 24;

/// The recipient's protected header: {1: -10}, direct+HKDF-SHA-256.
pub(super) const RECIPIENT_PROTECTED: &[u8] = &[0xa1, 0x01, 0x29];

/// Names the format in the external AAD, so that no other use of COSE with the same key is confused with it.
const FORMAT_TAG: &str = "keyrail.envelope.v1";

/// Tag, array, protected and unprotected header, and the head of the ciphertext of `ciphertext_len` bytes.
pub(super) fn begin(out: &mut Vec<u8>, suite: Suite, kid: &Kid, iv: &[u8], ciphertext_len: usize) {
    out.extend_from_slice(&[0xd8, 0x60, 0x84]);
    let protected_len = if suite.cose_alg() < 24 { 21 } else { 22 };
    out.push(0x40 | protected_len);
    protected(out, suite, kid);
    out.extend_from_slice(&[0xa1, 0x05, 0x4c]);
    out.extend_from_slice(iv);
    bytes_head(out, ciphertext_len);
}

/// The recipients, after the ciphertext.
pub(super) fn end(out: &mut Vec<u8>, salt: &[u8]) {
    out.extend_from_slice(&[0x81, 0x83, 0x43]);
    out.extend_from_slice(RECIPIENT_PROTECTED);
    out.extend_from_slice(&[0xa1, 0x33, 0x58, 0x20]);
    out.extend_from_slice(salt);
    out.push(0x40);
}

/// The body's protected header: {1: alg, 4: kid}.
pub(super) fn protected(out: &mut Vec<u8>, suite: Suite, kid: &Kid) {
    out.extend_from_slice(&[0xa2, 0x01]);
    int(out, suite.cose_alg());
    out.extend_from_slice(&[0x04, 0x50]);
    out.extend_from_slice(kid.as_bytes());
}

/// Enc_structure of RFC 9052, section 5.3: what the content cipher authenticates.
pub(super) fn enc_structure(protected: &[u8], external_aad: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(external_aad.len() + protected.len() + 24);
    out.push(0x83);
    text(&mut out, "Encrypt");
    bytes_head(&mut out, protected.len());
    out.extend_from_slice(protected);
    bytes_head(&mut out, external_aad.len());
    out.extend_from_slice(external_aad);
    out
}

/// The external AAD: [format tag, data key id, context].
pub(super) fn external_aad(key_id: &[u8; 16], context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + context.encoded_len_max());
    out.push(0x83);
    text(&mut out, FORMAT_TAG);
    bytes_head(&mut out, key_id.len());
    out.extend_from_slice(key_id);
    context.encode(&mut out);
    out
}

/// COSE_KDF_Context of RFC 9053, section 5.2: [alg, [nil, nil, nil], [nil, nil, nil], [256, recipient protected]].
pub(super) fn kdf_context(suite: Suite, recipient_protected: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + recipient_protected.len());
    out.push(0x84);
    int(&mut out, suite.cose_alg());
    out.extend_from_slice(&[0x83, 0xf6, 0xf6, 0xf6, 0x83, 0xf6, 0xf6, 0xf6, 0x82, 0x19, 0x01, 0x00]);
    bytes_head(&mut out, recipient_protected.len());
    out.extend_from_slice(recipient_protected);
    out
}

/// A text string.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    head(out, 0x60, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The head of a map.
pub(super) fn map_head(out: &mut Vec<u8>, pairs: usize) {
    head(out, 0xa0, pairs as u64);
}

fn bytes_head(out: &mut Vec<u8>, len: usize) {
    head(out, 0x40, len as u64);
}

fn int(out: &mut Vec<u8>, value: i64) {
    match u64::try_from(value) {
        Ok(value) => head(out, 0x00, value),
        Err(_) => head(out, 0x20, !value as u64),
    }
}

/// The shortest head of a major type, as deterministic encoding demands.
fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let bytes = value.to_be_bytes();
    let (mark, len) = match value {
        0..=23 => {
            out.push(major | value as u8);
            return;
        }
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(major | mark);
    out.extend(bytes.iter().skip(8 - len));
}
