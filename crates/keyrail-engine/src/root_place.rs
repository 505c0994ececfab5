//! Where a server takes roots of trust from, when somebody names one over the network: a module is code that runs in the
//! server, and a key file that somebody else knows opens every copy of the store.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use keyrail_seal::RootSpec;

use crate::error::EngineError;
use crate::unsealed::Unsealed;

/// A file that may be a root of trust, or a directory of such files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RootPlace {
    /// Key files.
    KeyFile(PathBuf),
    /// Files with a passphrase.
    PassphraseFile(PathBuf),
    /// Modules that speak to HSMs.
    Pkcs11(PathBuf),
}

/// A text names no such place.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a place for roots of trust is keyfile:PATH, passphrase-file:PATH or pkcs11:MODULE, with an absolute path")]
pub struct RootPlaceError;

impl FromStr for RootPlace {
    type Err = RootPlaceError;

    fn from_str(text: &str) -> Result<Self, RootPlaceError> {
        let (kind, path) = text.split_once(':').ok_or(RootPlaceError)?;
        let path = PathBuf::from(path);
        if !path.is_absolute() || climbs(&path) {
            return Err(RootPlaceError);
        }
        match kind {
            "keyfile" => Ok(Self::KeyFile(path)),
            "passphrase-file" => Ok(Self::PassphraseFile(path)),
            "pkcs11" => Ok(Self::Pkcs11(path)),
            _ => Err(RootPlaceError),
        }
    }
}

impl fmt::Display for RootPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile(path) => write!(f, "keyfile:{}", path.display()),
            Self::PassphraseFile(path) => write!(f, "passphrase-file:{}", path.display()),
            Self::Pkcs11(path) => write!(f, "pkcs11:{}", path.display()),
        }
    }
}

impl RootPlace {
    fn holds(&self, root: &RootSpec) -> bool {
        match (self, root) {
            (Self::KeyFile(place), RootSpec::KeyFile(path))
            | (Self::PassphraseFile(place), RootSpec::PassphraseFile(path)) => path.starts_with(place) && !climbs(path),
            (Self::Pkcs11(place), RootSpec::Pkcs11(spec)) => spec.module.starts_with(place) && !climbs(&spec.module),
            _ => false,
        }
    }
}

/// Whether a path may lead out of the directory that it begins with.
fn climbs(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

/// Where roots of trust may be that a caller names.
#[derive(Clone, Debug, Default)]
pub enum RootPlaces {
    /// Anywhere: whoever calls holds the data directory, and acts as the user of this process.
    #[default]
    Any,
    /// In these places; besides, the root that is written down, and other keys by its module.
    Only(Arc<[RootPlace]>),
}

impl RootPlaces {
    /// Refuses a root that is elsewhere, before anything of it is touched.
    ///
    /// # Errors
    /// [`EngineError::RootPlace`].
    pub(crate) fn require(&self, root: &RootSpec, open: &Unsealed) -> Result<(), EngineError> {
        match self {
            Self::Any => Ok(()),
            Self::Only(places) if places.iter().any(|place| place.holds(root)) => Ok(()),
            Self::Only(_) if open.configured_root().is_ok_and(|written| goes_with(&written, root)) => Ok(()),
            Self::Only(_) => Err(EngineError::RootPlace { root: root.to_string() }),
        }
    }
}

/// Whether a root is the one that is written down, or another key by the same module.
fn goes_with(written: &RootSpec, root: &RootSpec) -> bool {
    match (written, root) {
        (RootSpec::Pkcs11(written), RootSpec::Pkcs11(root)) => written.module == root.module,
        _ => written == root,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_what_is_in_it_and_of_its_kind() {
        for (place, root, expected) in [
            ("keyfile:/k", "keyfile:/k/a", true),
            ("keyfile:/k", "keyfile:/k", true),
            ("keyfile:/k", "keyfile:/kk/a", false),
            ("keyfile:/k", "keyfile:/k/../etc/a", false),
            ("keyfile:/k", "keyfile:k/a", false),
            ("keyfile:/k", "passphrase-file:/k/a", false),
            ("passphrase-file:/k", "passphrase-file:/k/b/a", true),
            ("passphrase-file:/k", "keyfile:/k/a", false),
            ("pkcs11:/lib/m.so", "pkcs11:/lib/m.so?token=t&object=o&pin-file=/p", true),
            ("pkcs11:/lib/m.so", "pkcs11:/lib/n.so?token=t&object=o&pin-file=/p", false),
            ("pkcs11:/lib", "pkcs11:/lib/../tmp/n.so?token=t&object=o&pin-file=/p", false),
            ("keyfile:/", "shamir:/a,/b", false),
            ("keyfile:/", "shares-dir:/a", false),
        ] {
            let (held, place) = (root.parse().unwrap(), place.parse::<RootPlace>().unwrap());
            assert_eq!(place.holds(&held), expected, "{root} in {place}");
        }
        for text in ["keyfile:k", "keyfile:", "/k", "shamir:/a", "keyfile:/k/../e", "pkcs11:m.so"] {
            assert_eq!(text.parse::<RootPlace>(), Err(RootPlaceError), "{text}");
        }
    }

    /// What is written down may be named by whoever may; also another key on its token, but no other code.
    #[test]
    fn what_is_written_down_is_allowed_and_so_are_keys_by_its_module() {
        let token = "pkcs11:/lib/m.so?token=t&object=o&pin-file=/p";
        for (written, root, expected) in [
            ("keyfile:/k", "keyfile:/k", true),
            ("keyfile:/k", "keyfile:/k2", false),
            (token, "pkcs11:/lib/m.so?token=u&object=v&pin-file=/w", true),
            (token, "pkcs11:/lib/n.so?token=t&object=o&pin-file=/p", false),
            (token, "keyfile:/k", false),
        ] {
            assert_eq!(goes_with(&written.parse().unwrap(), &root.parse().unwrap()), expected, "{root}");
        }
    }
}
