//! Files with contents and modes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use keyrail_crypto::secret::RootKey;
use keyrail_seal::{RootOfTrust, RootSlot, SealError};
use tempfile::TempDir;

pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        set_mode(&path, mode);
        path
    }
}

pub(crate) fn set_mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// The word of an error, as the vectors have it.
pub(crate) fn word(error: &SealError) -> &'static str {
    error.word()
}

/// Protects a new root key, stores the slot, and gives what opening it leads to.
pub(crate) fn protected_by(root: &dyn RootOfTrust) -> (RootKey, RootSlot) {
    let key = RootKey::generate().unwrap();
    let slot = RootSlot::from_bytes(&root.protect(&key).unwrap().to_bytes()).unwrap();
    (key, slot)
}

/// What an error says must not hold the secret, as text, in hex or as a list of numbers.
pub(crate) fn require_silent(error: &SealError, secret: &[u8]) {
    let said = format!("{error} {error:?} {:?}", error.hint());
    for part in secret.windows(6) {
        let list = format!("{part:?}");
        let forms =
            [String::from_utf8_lossy(part).into_owned(), hex::encode(part), list.trim_matches(['[', ']']).to_owned()];
        assert!(!forms.iter().any(|form| said.contains(form.as_str())), "{said}");
    }
}
