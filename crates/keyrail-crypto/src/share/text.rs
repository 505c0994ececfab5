//! The text of a share: one line to print, and to type in again.

use zeroize::{Zeroize, Zeroizing};

use super::{Share, SharePolicy, VALUE_LEN};
use crate::CryptoError;
use crate::digest::Sha256;
use crate::secret::Secret32;

/// What the text begins with.
const PREFIX: &str = "krs1.";

/// The alphabet of Crockford's base 32: no letter in it looks like another sign.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// How many signs stand between two hyphens.
const GROUP_LEN: usize = 6;

/// Format, set, threshold, total, index.
const HEAD_LEN: usize = 1 + 16 + 3;

/// The checksum tells a share that was copied wrong.
const CHECKSUM_LEN: usize = 8;

const BYTES_LEN: usize = HEAD_LEN + VALUE_LEN + CHECKSUM_LEN;

/// 5 bits a sign.
const SIGNS: usize = BYTES_LEN * 8 / 5;

/// Length of a share's text, in characters.
pub const SHARE_TEXT_LEN: usize = PREFIX.len() + SIGNS + SIGNS / GROUP_LEN - 1;

/// The one format there is.
const FORMAT: u8 = 1;

/// Why a text is no share.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is something else, or a part of it is missing.
    #[error("it is not a share: that is `krs1.` and 96 letters and digits")]
    Malformed,
    /// A sign was read or copied wrong.
    #[error("its checksum is wrong: a sign of it was copied wrong")]
    Checksum,
    /// It is whole, and says what no share says.
    #[error("it is a share of an unknown kind")]
    Unknown,
    /// There is no memory for it.
    #[error("it could not be read")]
    Crypto(#[source] CryptoError),
}

impl From<CryptoError> for ShareError {
    fn from(error: CryptoError) -> Self {
        Self::Crypto(error)
    }
}

impl Share {
    /// The text, for whoever is to keep the share. It is wiped when it is dropped.
    ///
    /// # Errors
    /// [`CryptoError::Library`], never in practice.
    pub fn danger_text(&self) -> Result<Zeroizing<String>, CryptoError> {
        let bytes = self.to_bytes()?;
        // Allocated at full size: a text that grows leaves copies.
        let mut text = Zeroizing::new(String::with_capacity(SHARE_TEXT_LEN));
        text.push_str(PREFIX);
        for position in 0..SIGNS {
            if position > 0 && position % GROUP_LEN == 0 {
                text.push('-');
            }
            let sign = ALPHABET.get(usize::from(five_bits(bytes.as_slice(), position))).ok_or(CryptoError::Library)?;
            text.push(char::from(*sign));
        }
        Ok(text)
    }

    /// Reads a text. Upper case, spaces and missing hyphens do no harm, nor does an `o` or an `l` for a digit.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let (prefix, signs) = text.trim().split_at_checked(PREFIX.len()).ok_or(ShareError::Malformed)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(ShareError::Malformed);
        }
        let mut bytes = Zeroizing::new([0; BYTES_LEN]);
        let mut count = 0;
        for sign in signs.bytes().filter(|sign| !matches!(sign, b'-' | b' ')) {
            put_five_bits(bytes.as_mut_slice(), count, value_of(sign).ok_or(ShareError::Malformed)?);
            count += 1;
        }
        if count != SIGNS {
            return Err(ShareError::Malformed);
        }
        Self::from_bytes(&bytes)
    }

    pub(super) fn to_bytes(&self) -> Result<Zeroizing<[u8; BYTES_LEN]>, CryptoError> {
        let mut bytes = Zeroizing::new([0; BYTES_LEN]);
        let (body, checksum) = bytes.split_at_mut(BYTES_LEN - CHECKSUM_LEN);
        let numbers = [self.policy.threshold(), self.policy.total(), self.index];
        let parts = [&[FORMAT][..], &self.set, &numbers, self.value.expose_secret()];
        body.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        checksum.copy_from_slice(&checksum_of(body)?);
        Ok(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8; BYTES_LEN]) -> Result<Self, ShareError> {
        let (body, checksum) = bytes.split_at(BYTES_LEN - CHECKSUM_LEN);
        if checksum_of(body)? != checksum {
            return Err(ShareError::Checksum);
        }
        let [FORMAT, rest @ ..] = body else { return Err(ShareError::Unknown) };
        let Some((set, [threshold, total, index, value @ ..])) = rest.split_first_chunk::<16>() else {
            return Err(ShareError::Malformed);
        };
        let policy = SharePolicy::new(*threshold, *total).ok_or(ShareError::Unknown)?;
        if !(1..=policy.total()).contains(index) {
            return Err(ShareError::Unknown);
        }
        let value = Secret32::init_with(|out| -> Result<(), ShareError> {
            out.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            Ok(())
        })?;
        Ok(Self { set: *set, policy, index: *index, value })
    }
}

fn checksum_of(body: &[u8]) -> Result<[u8; CHECKSUM_LEN], CryptoError> {
    let mut digest = Sha256::new().with(b"keyrail/share/checksum/v1").with(body).finish();
    let checksum = digest.first_chunk().copied().ok_or(CryptoError::Library);
    digest.zeroize();
    checksum
}

/// The five bits that stand for a sign.
fn five_bits(bytes: &[u8], position: usize) -> u8 {
    (0..5).fold(0, |value, bit| {
        let at = position * 5 + bit;
        let byte = bytes.get(at / 8).copied().unwrap_or_default();
        (value << 1) | ((byte >> (7 - at % 8)) & 1)
    })
}

fn put_five_bits(bytes: &mut [u8], position: usize, value: u8) {
    for bit in 0..5 {
        let at = position * 5 + bit;
        if let Some(byte) = bytes.get_mut(at / 8) {
            *byte |= ((value >> (4 - bit)) & 1) << (7 - at % 8);
        }
    }
}

fn value_of(sign: u8) -> Option<u8> {
    let sign = match sign.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|known| *known == sign).and_then(|value| u8::try_from(value).ok())
}
