//! HKDF-SHA-256 (RFC 5869), into a buffer that is wiped.

use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::CryptoError;
use crate::secret::SECRET_LEN;

struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// Derives 32 bytes. aws-lc wipes the pseudorandom key; the output buffer is ours and wipes itself.
pub(crate) fn derive(
    secret: &[u8; SECRET_LEN],
    salt: &[u8],
    info: &[&[u8]],
) -> Result<Zeroizing<[u8; SECRET_LEN]>, CryptoError> {
    let mut out = Zeroizing::new([0; SECRET_LEN]);
    derive_into(secret, salt, info, &mut out)?;
    Ok(out)
}

/// Derives 32 bytes into a place that the caller wipes.
pub(crate) fn derive_into(
    secret: &[u8; SECRET_LEN],
    salt: &[u8],
    info: &[&[u8]],
    out: &mut [u8; SECRET_LEN],
) -> Result<(), CryptoError> {
    hkdf_sha256(secret, salt, info, out)
}

/// HKDF for secrets and outputs of any length, for the vectors of others.
pub(crate) fn hkdf_sha256(secret: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), CryptoError> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let okm = prk.expand(info, Len(out.len())).map_err(|_| CryptoError::Library)?;
    okm.fill(out).map_err(|_| CryptoError::Library)
}
