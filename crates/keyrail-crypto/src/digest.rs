//! SHA-256 (FIPS 180-4).

use aws_lc_rs::digest;

/// Length of a SHA-256 digest, in bytes.
pub const SHA256_LEN: usize = 32;

/// The SHA-256 digest of `data`.
pub fn sha256(data: &[u8]) -> [u8; SHA256_LEN] {
    array(&digest::digest(&digest::SHA256, data))
}

/// A SHA-256 digest that is fed in parts.
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Begins a digest.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Feeds it.
    #[must_use]
    pub fn with(mut self, data: &[u8]) -> Self {
        self.0.update(data);
        self
    }

    /// Feeds it in place.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Ends it.
    pub fn finish(self) -> [u8; SHA256_LEN] {
        array(&self.0.finish())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

fn array(digest: &digest::Digest) -> [u8; SHA256_LEN] {
    let mut out = [0; SHA256_LEN];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}
