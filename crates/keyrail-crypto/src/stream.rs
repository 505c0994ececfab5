//! Data of any length, sealed in chunks: each stands in its place, and the last one says that it is the last.
//!
//! The STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár ("Online Authenticated-Encryption and its
//! Nonce-Reuse Misuse-Resistance", 2015) with AES-256-GCM: the nonce is the place of the chunk and whether it is the
//! last, under a key that is fresh for each stream.

use crate::aead::Cipher;
use crate::digest::SHA256_LEN;
use crate::secret::{AsSecret, RootKey, Secret32};
use crate::suite::{NONCE_LEN, Suite, TAG_LEN};
use crate::{CryptoError, kdf};

/// Length of the salt of a stream, in bytes.
pub const STREAM_SALT_LEN: usize = 32;

/// The most bytes of one chunk before it is sealed.
pub const CHUNK_LEN_MAX: usize = 64 * 1024;

/// How many bytes a sealed chunk is longer.
pub const CHUNK_TAG_LEN: usize = TAG_LEN;

/// Whether more chunks follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// At least one.
    More,
    /// None.
    Last,
}

/// The key of one stream.
pub struct StreamKey(Secret32);

impl RootKey {
    /// Derives the key of one backup. Whoever can open the store can derive it; `header` is the digest of what stands in
    /// front of the chunks, so that nothing opens behind another header.
    ///
    /// # Errors
    /// [`CryptoError::System`] when there is no memory.
    pub fn backup_key(
        &self,
        salt: &[u8; STREAM_SALT_LEN],
        header: &[u8; SHA256_LEN],
    ) -> Result<StreamKey, CryptoError> {
        let info: [&[u8]; 2] = [b"keyrail/backup/v1/", header];
        let derived = Secret32::init_with(|out| kdf::derive_into(self.secret().expose_secret(), salt, &info, out));
        Ok(StreamKey(derived?))
    }
}

impl StreamKey {
    /// Seals a chunk in place, and puts its tag behind it. The caller sees to it that each place is sealed once.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn seal_chunk(&self, index: u32, ending: Ending, chunk: &mut Vec<u8>) -> Result<(), CryptoError> {
        let tag = self.cipher()?.seal(nonce(index, ending), &[], chunk)?;
        chunk.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens the chunk of a place.
    ///
    /// # Errors
    /// [`CryptoError::Unopenable`] if it was altered, or is not the one of this place.
    pub fn open_chunk(&self, index: u32, ending: Ending, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let len = sealed.len().checked_sub(TAG_LEN).ok_or(CryptoError::Unopenable)?;
        let (body, tag) = sealed.split_at_checked(len).ok_or(CryptoError::Unopenable)?;
        let mut out = vec![0; len];
        self.cipher()?.open(nonce(index, ending), &[], body, tag, &mut out)?;
        Ok(out)
    }

    fn cipher(&self) -> Result<Cipher, CryptoError> {
        Cipher::new(Suite::A256Gcm, self.0.expose_secret())
    }
}

/// Seven zeros, the place, and 1 for the last chunk.
fn nonce(index: u32, ending: Ending) -> [u8; NONCE_LEN] {
    let [a, b, c, d] = index.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, a, b, c, d, u8::from(ending == Ending::Last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(byte: u8) -> RootKey {
        RootKey::from_secret(
            Secret32::init_with(|out| -> Result<(), CryptoError> {
                out.fill(byte);
                Ok(())
            })
            .unwrap(),
        )
    }

    fn sealed(key: &StreamKey, index: u32, ending: Ending, text: &[u8]) -> Vec<u8> {
        let mut chunk = text.to_vec();
        key.seal_chunk(index, ending, &mut chunk).unwrap();
        chunk
    }

    #[test]
    fn a_chunk_opens_in_its_place_alone() {
        let key = root(1).backup_key(&[2; 32], &[3; 32]).unwrap();
        let chunk = sealed(&key, 7, Ending::More, b"rows");
        assert_eq!(key.open_chunk(7, Ending::More, &chunk).unwrap(), b"rows");
        assert!(key.open_chunk(8, Ending::More, &chunk).is_err());
        assert!(key.open_chunk(7, Ending::Last, &chunk).is_err());
        let mut altered = chunk.clone();
        altered[0] ^= 1;
        assert!(key.open_chunk(7, Ending::More, &altered).is_err());
        assert!(key.open_chunk(7, Ending::More, &chunk[..CHUNK_TAG_LEN - 1]).is_err());
    }

    #[test]
    fn another_root_salt_or_header_gives_another_key() {
        let chunk = sealed(&root(1).backup_key(&[2; 32], &[3; 32]).unwrap(), 0, Ending::Last, b"rows");
        for (byte, salt, header) in [(9, [2; 32], [3; 32]), (1, [9; 32], [3; 32]), (1, [2; 32], [9; 32])] {
            let other = root(byte).backup_key(&salt, &header).unwrap();
            assert!(other.open_chunk(0, Ending::Last, &chunk).is_err());
        }
    }
}
