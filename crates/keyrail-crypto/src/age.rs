//! Encryption to the holder of an age key (c2sp.org/age), for shares that are sent to people: a file for one recipient,
//! X25519 or post-quantum (ML-KEM-768 with X25519), as armored text. What is encrypted here is opened with `age`,
//! `rage` or any other implementation; nothing is opened here.

mod bech32;
mod hpke;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

use crate::aead::Cipher;
use crate::kdf::hkdf_sha256;
use crate::mac::hmac_sha256;
use crate::suite::{NONCE_LEN, Suite};
use crate::{CryptoError, random};

/// The most bytes that are encrypted at a time: one chunk of the format.
pub const AGE_PLAINTEXT_LEN_MAX: usize = 64 * 1024;

/// Length of the key of one file, in bytes.
const FILE_KEY_LEN: usize = 16;

const X25519_LEN: usize = 32;

/// How many characters of base64 stand on a line.
const LINE_LEN: usize = 64;

/// Whoever can open a file: a public key of age.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recipient {
    text: String,
    key: PublicKey,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum PublicKey {
    X25519([u8; X25519_LEN]),
    Hybrid(Box<[u8; hpke::PUBLIC_KEY_LEN]>),
}

/// A text is no recipient that can be encrypted to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an age recipient is age1… or, post-quantum, age1pq1…")]
pub struct RecipientError;

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let (kind, bytes) = bech32::decode(text).ok_or(RecipientError)?;
        let key = match kind.as_str() {
            "age" => PublicKey::X25519(bytes.try_into().map_err(|_| RecipientError)?),
            "age1pq" => PublicKey::Hybrid(bytes.into_boxed_slice().try_into().map_err(|_| RecipientError)?),
            _ => return Err(RecipientError),
        };
        Ok(Self { text: text.to_owned(), key })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Recipient {
    /// Encrypts at most [`AGE_PLAINTEXT_LEN_MAX`] bytes, as armored text.
    ///
    /// # Errors
    /// [`CryptoError::PlaintextTooLong`]; [`CryptoError::Parameters`] if the public key is no usable one;
    /// [`CryptoError::System`] without randomness.
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<String, CryptoError> {
        if plaintext.len() > AGE_PLAINTEXT_LEN_MAX {
            return Err(CryptoError::PlaintextTooLong { len: plaintext.len(), max: AGE_PLAINTEXT_LEN_MAX });
        }
        let mut file_key = Zeroizing::new([0; FILE_KEY_LEN]);
        random::fill(file_key.as_mut_slice())?;
        let mut file = format!("age-encryption.org/v1\n{}---", self.stanza(&file_key)?).into_bytes();
        let mut mac_key = Zeroizing::new([0; 32]);
        hkdf_sha256(file_key.as_slice(), &[], &[b"header"], mac_key.as_mut_slice())?;
        let mac = hmac_sha256(mac_key.as_slice(), [file.as_slice()].into_iter());
        file.extend_from_slice(format!(" {}\n", STANDARD_NO_PAD.encode(mac)).as_bytes());
        append_payload(&mut file, file_key.as_slice(), plaintext)?;
        Ok(armored(&file))
    }

    /// The file key, encrypted to the recipient.
    fn stanza(&self, file_key: &[u8; FILE_KEY_LEN]) -> Result<String, CryptoError> {
        let (kind, share, body) = match &self.key {
            PublicKey::X25519(public) => {
                let (share, body) = wrap_x25519(public, file_key)?;
                ("X25519", share.to_vec(), body)
            }
            PublicKey::Hybrid(public) => {
                let (share, body) = hpke::seal(public, b"age-encryption.org/mlkem768x25519", file_key)?;
                ("mlkem768x25519", share, body)
            }
        };
        // A body of 32 bytes is one short line.
        Ok(format!("-> {kind} {}\n{}\n", STANDARD_NO_PAD.encode(share), STANDARD_NO_PAD.encode(body)))
    }
}

fn wrap_x25519(
    public: &[u8; X25519_LEN],
    file_key: &[u8; FILE_KEY_LEN],
) -> Result<([u8; X25519_LEN], Vec<u8>), CryptoError> {
    let (share, secret) = x25519(public)?;
    let mut key = Zeroizing::new([0; 32]);
    let salt = [share, *public].concat();
    hkdf_sha256(secret.as_slice(), &salt, &[b"age-encryption.org/v1/X25519"], key.as_mut_slice())?;
    Ok((share, sealed(key.as_slice(), [0; NONCE_LEN], file_key)?))
}

/// A new key share, and the secret that it has in common with a public key.
fn x25519(public: &[u8; X25519_LEN]) -> Result<([u8; X25519_LEN], Zeroizing<[u8; X25519_LEN]>), CryptoError> {
    let ours = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
        .map_err(|_| CryptoError::System { what: "randomness" })?;
    let share = ours.compute_public_key().map_err(|_| CryptoError::Library)?;
    let share = share.as_ref().try_into().map_err(|_| CryptoError::Library)?;
    let mut secret = Zeroizing::new([0; X25519_LEN]);
    let theirs = UnparsedPublicKey::new(&X25519, public);
    // A public key of small order gives zeros, which the library refuses.
    agree_ephemeral(ours, theirs, CryptoError::Parameters, |agreed| {
        secret.iter_mut().zip(agreed).for_each(|(to, from)| *to = *from);
        Ok(())
    })?;
    Ok((share, secret))
}

/// Encrypts a short text under a key of one use.
fn sealed(key: &[u8], nonce: [u8; NONCE_LEN], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut out = Vec::with_capacity(plaintext.len() + crate::suite::TAG_LEN);
    out.extend_from_slice(plaintext);
    // Encrypted in place: no copy of the plaintext stays in the buffer.
    let tag = Cipher::new(Suite::ChaCha20Poly1305, key)?.seal(nonce, &[], &mut out)?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// A nonce, and the one chunk.
fn append_payload(file: &mut Vec<u8>, file_key: &[u8], plaintext: &[u8]) -> Result<(), CryptoError> {
    let nonce = random::array::<16>()?;
    let mut key = Zeroizing::new([0; 32]);
    hkdf_sha256(file_key, &nonce, &[b"payload"], key.as_mut_slice())?;
    file.extend_from_slice(&nonce);
    // Chunk number 0, and it is the last.
    file.extend_from_slice(&sealed(key.as_slice(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], plaintext)?);
    Ok(())
}

fn armored(file: &[u8]) -> String {
    let mut text = "-----BEGIN AGE ENCRYPTED FILE-----\n".to_owned();
    let encoded = STANDARD.encode(file);
    let mut rest = encoded.as_str();
    while let Some((line, after)) = rest.split_at_checked(LINE_LEN) {
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text.push_str("-----END AGE ENCRYPTED FILE-----\n");
    text
}
