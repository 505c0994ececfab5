//! Bodies of answers, wiped when they are sent: some hold keys, tokens and plaintexts.

use std::io::{self, Write};

use axum::body::Bytes;
use serde::Serialize;
use zeroize::Zeroize;

/// Bytes that are wiped when they are dropped, and where they lay before they grew.
#[derive(Default)]
pub(crate) struct Wiped(Vec<u8>);

impl Wiped {
    /// A value as JSON.
    pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<Self> {
        let mut out = Self(Vec::with_capacity(LEN_USUAL));
        serde_json::to_writer(&mut out, value)?;
        Ok(out)
    }

    /// The bytes for a body, wiped when the last part of it is sent.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// The usual length of an answer, in bytes.
const LEN_USUAL: usize = 1024;

impl Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.0.len() + bytes.len();
        if len > self.0.capacity() {
            // A vector that grows by itself gives its former memory back as it is.
            let mut larger = Vec::with_capacity(len.max(2 * self.0.capacity()));
            larger.extend_from_slice(&self.0);
            std::mem::replace(&mut self.0, larger).zeroize();
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_a_serializer_writes() {
        for len in [0, 1, LEN_USUAL - 2, LEN_USUAL, 10 * LEN_USUAL] {
            let value = vec!["a \"text\"".to_owned(), "x".repeat(len)];
            let written = Wiped::json(&value).unwrap();
            assert!(written.0.capacity() < 2 * (LEN_USUAL + written.0.len()));
            assert_eq!(written.into_bytes(), serde_json::to_vec(&value).unwrap());
        }
    }
}
