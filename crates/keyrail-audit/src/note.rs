//! Signed notes and checkpoints: C2SP signed-note and tlog-checkpoint, with Ed25519.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyrail_crypto::digest::Sha256;
use keyrail_crypto::secret::SigningSeed;
use keyrail_crypto::{CryptoError, sign};

use crate::tree::Hash;

/// The signature type of Ed25519 in signed notes.
const ED25519: u8 = 0x01;

/// The longest checkpoint that is looked at, in bytes.
pub(crate) const NOTE_LEN_MAX: usize = 4096;

/// The public key of a log, with its name: `<name>+<hash>+<base64>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifierKey {
    name: String,
    key: [u8; sign::PUBLIC_KEY_LEN],
}

impl VerifierKey {
    /// The key of the log called `name`.
    ///
    /// # Errors
    /// [`NoteError::Key`] for a name with spaces, a plus or control characters.
    pub fn new(name: &str, key: [u8; sign::PUBLIC_KEY_LEN]) -> Result<Self, NoteError> {
        Ok(Self { name: key_name(name)?, key })
    }

    /// The log's name, which is also its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of SHA-256(name, newline, type, key).
    fn hash(&self) -> [u8; 4] {
        key_hash(&self.name, ED25519, &self.key)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed: Vec<u8> = [ED25519].into_iter().chain(self.key).collect();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.hash()), STANDARD.encode(typed))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, hash, key) = split_key(text, ED25519)?;
        let key = Self::new(name, key)?;
        if format!("{:08x}", u32::from_be_bytes(key.hash())) != hash {
            return Err(NoteError::Key);
        }
        Ok(key)
    }
}

/// A log's signed head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Records in the log.
    pub size: u64,
    /// Root hash of the tree of that size.
    pub root: Hash,
}

impl Checkpoint {
    /// Signs the checkpoint; the text is what lies in `checkpoint`.
    ///
    /// # Errors
    /// [`CryptoError`] when signing fails.
    pub fn sign(&self, seed: &SigningSeed, key: &VerifierKey) -> Result<String, CryptoError> {
        let body = self.body();
        let mut signature = key.hash().to_vec();
        signature.extend_from_slice(&seed.sign(body.as_bytes())?);
        Ok(format!("{body}\n\u{2014} {} {}\n", key.name, STANDARD.encode(signature)))
    }

    /// Reads a checkpoint that `key` signed. Only the exact form with this one signature is accepted, so that
    /// no byte of the file can be changed.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn verify(note: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let (body, signatures) = split(note)?;
        let line = signatures.strip_suffix('\n').ok_or(NoteError::Form)?;
        Self::verify_line(body, line, key)
    }

    /// Reads a checkpoint that `key` signed, and perhaps others with it: each line is a signature, and one that is not
    /// of this log is passed over.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn verify_cosigned(note: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let (body, signatures) = split(note)?;
        let lines = signatures.strip_suffix('\n').ok_or(NoteError::Form)?;
        let mut found = Err(NoteError::Form);
        for line in lines.split('\n') {
            found = Self::verify_line(body, line, key);
            if found != Err(NoteError::OtherKey) {
                break;
            }
        }
        found
    }

    fn verify_line(body: &str, line: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let line = line.strip_prefix("\u{2014} ").ok_or(NoteError::Form)?;
        let (name, encoded) = line.split_once(' ').ok_or(NoteError::Form)?;
        let signature = STANDARD.decode(encoded).map_err(|_| NoteError::Form)?;
        let (hash, signature) = signature.split_first_chunk::<4>().ok_or(NoteError::Form)?;
        if name != key.name || *hash != key.hash() {
            return Err(NoteError::OtherKey);
        }
        if !sign::verify(&key.key, body.as_bytes(), signature) {
            return Err(NoteError::Signature);
        }
        let checkpoint = Self::parse_body(body)?;
        if checkpoint.origin != key.name {
            return Err(NoteError::OtherKey);
        }
        Ok(checkpoint)
    }

    /// Reads a checkpoint without looking at its signature: for what is not a matter of trust.
    ///
    /// # Errors
    /// [`NoteError::Form`].
    pub fn parse_unverified(note: &str) -> Result<Self, NoteError> {
        Self::parse_body(split(note)?.0)
    }

    fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    fn parse_body(body: &str) -> Result<Self, NoteError> {
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Form);
        };
        let root = STANDARD.decode(root).map_err(|_| NoteError::Form)?;
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| NoteError::Form)?,
            root: root.try_into().map_err(|_| NoteError::Form)?,
        };
        // Only the one spelling: no leading zeros, no other base64.
        if checkpoint.body() == body { Ok(checkpoint) } else { Err(NoteError::Form) }
    }
}

/// A name that a key may have: no spaces, no plus, no control characters.
pub(crate) fn key_name(name: &str) -> Result<String, NoteError> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    let usable = !name.is_empty() && name.len() <= 255 && name.chars().all(plain);
    if usable { Ok(name.to_owned()) } else { Err(NoteError::Key) }
}

/// The first four bytes of SHA-256(name, newline, type, key).
pub(crate) fn key_hash(name: &str, kind: u8, key: &[u8; sign::PUBLIC_KEY_LEN]) -> [u8; 4] {
    let [a, b, c, d, ..] = Sha256::new().with(name.as_bytes()).with(b"\n").with(&[kind]).with(key).finish();
    [a, b, c, d]
}

/// Name, hash and key of a public key of this type, as it is written.
pub(crate) fn split_key(text: &str, kind: u8) -> Result<(&str, &str, [u8; sign::PUBLIC_KEY_LEN]), NoteError> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(hash), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Key);
    };
    let typed = STANDARD.decode(encoded).map_err(|_| NoteError::Key)?;
    let (found, key) = typed.split_first().ok_or(NoteError::Key)?;
    if *found != kind {
        return Err(NoteError::Key);
    }
    Ok((name, hash, key.try_into().map_err(|_| NoteError::Key)?))
}

/// Text, empty line, signatures.
pub(crate) fn split(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > NOTE_LEN_MAX {
        return Err(NoteError::Form);
    }
    let end = note.find("\n\n").ok_or(NoteError::Form)?;
    let (body, rest) = note.split_at(end + 1);
    Ok((body, rest.strip_prefix('\n').ok_or(NoteError::Form)?))
}

/// Why a text is not a signed checkpoint, or not a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// It is not of the exact form.
    #[error("it is not a signed checkpoint of the expected form")]
    Form,
    /// It is not a log's public key.
    #[error("this is not the public key of a log")]
    Key,
    /// Another key signed it, or it is of another log.
    #[error("it is not of this log")]
    OtherKey,
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
}
