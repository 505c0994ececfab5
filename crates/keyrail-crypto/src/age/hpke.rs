//! HPKE (RFC 9180, base mode, one message) with the KEM of ML-KEM-768 and X25519 that age's post-quantum recipients use
//! (draft-ietf-hpke-pq; the same as X-Wing), HKDF-SHA-256 and ChaCha20-Poly1305. It seals alone.

use aws_lc_rs::digest::{SHA3_256, digest};
use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::{X25519_LEN, sealed, x25519};
use crate::CryptoError;
use crate::mac::hmac_sha256;
use crate::suite::NONCE_LEN;

const ML_KEM_PUBLIC_KEY_LEN: usize = 1184;

/// The public keys of both, in bytes.
pub(super) const PUBLIC_KEY_LEN: usize = ML_KEM_PUBLIC_KEY_LEN + X25519_LEN;

/// `HPKE`, then the KEM 0x647a, HKDF-SHA-256 and ChaCha20-Poly1305.
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\x00\x03";

/// What binds the two secrets together: the label of X-Wing.
const LABEL: &[u8] = b"\\.//^\\";

/// Encrypts to a public key: what is needed to decapsulate, and the ciphertext with its tag.
pub(super) fn seal(
    public: &[u8; PUBLIC_KEY_LEN],
    info: &[u8],
    plaintext: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
    let (encapsulated, shared) = encapsulate(public)?;
    let no_psk = labeled_extract(&[], b"psk_id_hash", &[]);
    let about = labeled_extract(&[], b"info_hash", info);
    let context = [&[0][..], no_psk.as_slice(), about.as_slice()].concat();
    let secret = labeled_extract(shared.as_slice(), b"secret", &[]);
    let key = labeled_expand::<32>(&secret, b"key", &context);
    let nonce = labeled_expand::<NONCE_LEN>(&secret, b"base_nonce", &context);
    Ok((encapsulated, sealed(key.as_slice(), *nonce, plaintext)?))
}

fn encapsulate(public: &[u8; PUBLIC_KEY_LEN]) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
    let (lattice, curve) = public.split_at(ML_KEM_PUBLIC_KEY_LEN);
    let curve: &[u8; X25519_LEN] = curve.try_into().map_err(|_| CryptoError::Library)?;
    let key = EncapsulationKey::new(&ML_KEM_768, lattice).map_err(|_| CryptoError::Parameters)?;
    let (ciphertext, first) = key.encapsulate().map_err(|_| CryptoError::Parameters)?;
    let (share, second) = x25519(curve)?;
    let parts = [first.as_ref(), second.as_slice(), &share, curve, LABEL];
    let mut both = Zeroizing::new(Vec::with_capacity(4 * 32 + LABEL.len()));
    parts.into_iter().for_each(|part| both.extend_from_slice(part));
    let mut shared = Zeroizing::new([0; 32]);
    shared.iter_mut().zip(digest(&SHA3_256, &both).as_ref()).for_each(|(to, from)| *to = *from);
    Ok(([ciphertext.as_ref(), &share].concat(), shared))
}

fn labeled_extract(salt: &[u8], label: &[u8], input: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(hmac_sha256(salt, [b"HPKE-v1", SUITE, label, input].into_iter()))
}

/// At most 32 bytes: the first block of HKDF's expansion.
fn labeled_expand<const LEN: usize>(secret: &[u8; 32], label: &[u8], context: &[u8]) -> Zeroizing<[u8; LEN]> {
    const { assert!(LEN <= 32) };
    let len = [0, LEN as u8];
    let parts = [len.as_slice(), b"HPKE-v1", SUITE, label, context, &[1]];
    let block = Zeroizing::new(hmac_sha256(secret, parts.into_iter()));
    let mut out = Zeroizing::new([0; LEN]);
    out.iter_mut().zip(block.iter()).for_each(|(to, from)| *to = *from);
    out
}
