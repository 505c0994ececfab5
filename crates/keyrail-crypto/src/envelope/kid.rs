//! The id of a data key version.

use std::fmt;
use std::str::FromStr;

/// Length of a kid, in bytes.
pub const KID_LEN: usize = 16;

/// The id of a data key version: stands in every envelope, names it without its name.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Kid([u8; KID_LEN]);

impl Kid {
    /// The kid with these bytes; new ones are random.
    pub const fn from_bytes(bytes: [u8; KID_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; KID_LEN] {
        &self.0
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 2 * KID_LEN];
        let encoded = hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error);
        encoded.and_then(|()| f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?))
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kid({self})")
    }
}

impl FromStr for Kid {
    type Err = KidError;

    fn from_str(text: &str) -> Result<Self, KidError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(KidError),
        };
        if text.len() != KID_LEN * 2 {
            return Err(KidError);
        }
        let mut bytes = [0; KID_LEN];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let &[high, low] = pair else { return Err(KidError) };
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Ok(Self(bytes))
    }
}

/// A text is not a kid.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a kid is 32 lower-case hex digits")]
pub struct KidError;
