//! A passphrase as root of trust, stretched by Argon2id.

use std::path::Path;

use keyrail_crypto::passphrase::{Argon2Params, PASSPHRASE_LEN_MAX, derive};
use keyrail_crypto::random;
use keyrail_crypto::secret::{RootKey, Wraps};
use zeroize::Zeroizing;

use crate::slot::wrap_context;
use crate::{RootKind, RootOfTrust, RootSlot, SealError, SlotParameters};

/// A passphrase in memory; wiped when dropped.
pub struct Passphrase {
    text: Zeroizing<Vec<u8>>,
    params: Argon2Params,
}

impl Passphrase {
    /// The passphrase in a file; one newline at its end does not belong to it.
    ///
    /// # Errors
    /// [`SealError::File`], [`SealError::Malformed`] for an empty or overlong one.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let read =
            std::fs::read(path).map_err(|source| SealError::File { action: "read", path: path.to_owned(), source })?;
        let mut text = Zeroizing::new(read);
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        if text.is_empty() || text.len() > PASSPHRASE_LEN_MAX {
            return Err(SealError::Malformed { path: path.to_owned(), what: "passphrase of 1 to 1024 bytes" });
        }
        Ok(Self { text, params: Argon2Params::DEFAULT })
    }

    /// The same passphrase with other parameters for new slots.
    #[must_use]
    pub fn with_params(self, params: Argon2Params) -> Self {
        Self { params, ..self }
    }
}

impl RootOfTrust for Passphrase {
    fn kind(&self) -> RootKind {
        RootKind::Passphrase
    }

    fn describe(&self) -> String {
        "passphrase".to_owned()
    }

    fn protect(&self, root: &RootKey) -> Result<RootSlot, SealError> {
        let (id, salt) = (random::array()?, random::array()?);
        let wrapped = derive(&self.text, &salt, self.params)?.wrap(root, &wrap_context(&id))?;
        Ok(RootSlot { id, parameters: SlotParameters::Passphrase { params: self.params, salt }, wrapped })
    }

    fn open(&self, slot: &RootSlot) -> Result<RootKey, SealError> {
        let SlotParameters::Passphrase { params, salt } = slot.parameters else {
            return Err(SealError::OtherKind { found: slot.kind().as_str(), given: self.kind().as_str() });
        };
        // With a passphrase there is no fingerprint (it would help to guess), so a damaged slot looks like a wrong one.
        derive(&self.text, &salt, params)?
            .unwrap_key(&slot.wrapped, &wrap_context(&slot.id))
            .map_err(|_| SealError::WrongSecret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_opens_with_the_parameters_of_its_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        std::fs::write(&path, "correct horse\n").unwrap();
        let small = Argon2Params { memory_kib: 8 * 1024, passes: 1, lanes: 1 };
        let passphrase = Passphrase::from_file(&path).unwrap().with_params(small);
        let root = RootKey::generate().unwrap();
        let slot = RootSlot::from_bytes(&passphrase.protect(&root).unwrap().to_bytes()).unwrap();
        // Other defaults than the slot's do not matter, nor does the newline.
        std::fs::write(&path, "correct horse").unwrap();
        assert!(Passphrase::from_file(&path).unwrap().open(&slot).unwrap().ct_eq(&root));
        std::fs::write(&path, "wrong horse").unwrap();
        assert!(matches!(Passphrase::from_file(&path).unwrap().open(&slot), Err(SealError::WrongSecret)));
    }
}
