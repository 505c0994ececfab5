//! The context: what a ciphertext belongs to, authenticated and not stored in it.

use super::layout;

/// How many pairs a context may have.
pub const PAIRS_MAX: usize = 32;

/// The longest key of a pair, in bytes.
pub const KEY_LEN_MAX: usize = 128;

/// The longest value of a pair, in bytes.
pub const VALUE_LEN_MAX: usize = 4096;

/// A map of texts, in one canonical order; an empty one and none at all are the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Context {
    /// INVARIANT: sorted by the encoded key, each key once.
    pairs: Vec<(String, String)>,
}

impl Context {
    /// The context with nothing in it.
    pub const fn empty() -> Self {
        Self { pairs: Vec::new() }
    }

    /// The context with these pairs, in any order.
    ///
    /// # Errors
    /// [`ContextError`] for too many or too long pairs, or a key that comes twice.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ContextError> {
        let mut kept: Vec<(String, String)> = Vec::new();
        for (key, value) in pairs {
            let (key, value) = (key.into(), value.into());
            if kept.len() >= PAIRS_MAX {
                return Err(ContextError::TooManyPairs);
            }
            if key.is_empty() || key.len() > KEY_LEN_MAX {
                return Err(ContextError::KeyLength);
            }
            if value.len() > VALUE_LEN_MAX {
                return Err(ContextError::ValueLength);
            }
            kept.push((key, value));
        }
        // RFC 8949, section 4.2.1: bytewise order of the encoded keys, which for texts is length first.
        kept.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        if kept.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            return Err(ContextError::KeyTwice);
        }
        Ok(Self { pairs: kept })
    }

    /// The pairs, in canonical order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        layout::map_head(out, self.pairs.len());
        for (key, value) in &self.pairs {
            layout::text(out, key);
            layout::text(out, value);
        }
    }

    pub(super) fn encoded_len_max(&self) -> usize {
        self.pairs.iter().map(|(key, value)| key.len() + value.len() + 6).sum::<usize>() + 3
    }
}

/// Why pairs are not a context.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ContextError {
    /// A key is empty or too long.
    #[error("a key of the context has 1 to {KEY_LEN_MAX} bytes")]
    KeyLength,
    /// A key comes twice.
    #[error("a key of the context comes twice")]
    KeyTwice,
    /// There are too many pairs.
    #[error("a context has at most {PAIRS_MAX} pairs")]
    TooManyPairs,
    /// A value is too long.
    #[error("a value of the context has at most {VALUE_LEN_MAX} bytes")]
    ValueLength,
}
