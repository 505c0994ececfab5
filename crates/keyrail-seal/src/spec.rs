//! Roots of trust as people name them: `keyfile:F`, `passphrase-file:F`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{KeyFile, Passphrase, RootOfTrust, SealError};

/// Which root of trust to use.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RootSpec {
    /// A key file.
    KeyFile(PathBuf),
    /// A file with a passphrase in it.
    PassphraseFile(PathBuf),
}

impl RootSpec {
    /// The root of trust, ready for use. Reads the passphrase, if it is one.
    ///
    /// # Errors
    /// [`SealError`] when the file cannot be used.
    pub fn resolve(&self) -> Result<Box<dyn RootOfTrust>, SealError> {
        Ok(match self {
            Self::KeyFile(path) => Box::new(KeyFile::at(path)),
            Self::PassphraseFile(path) => Box::new(Passphrase::from_file(path)?),
        })
    }
}

impl FromStr for RootSpec {
    type Err = RootSpecError;

    fn from_str(text: &str) -> Result<Self, RootSpecError> {
        match text.split_once(':') {
            Some((_, "")) | None => Err(RootSpecError),
            Some(("keyfile", path)) => Ok(Self::KeyFile(path.into())),
            Some(("passphrase-file", path)) => Ok(Self::PassphraseFile(path.into())),
            Some(_) => Err(RootSpecError),
        }
    }
}

impl fmt::Display for RootSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile(path) => write!(f, "keyfile:{}", path.display()),
            Self::PassphraseFile(path) => write!(f, "passphrase-file:{}", path.display()),
        }
    }
}

/// A text names no root of trust.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a root of trust is keyfile:FILE or passphrase-file:FILE")]
pub struct RootSpecError;
