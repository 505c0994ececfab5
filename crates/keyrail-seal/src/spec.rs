//! Roots of trust as people name them: `keyfile:F`, `passphrase-file:F`, `pkcs11:MODULE?…`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{KeyFile, Passphrase, Pkcs11Root, Pkcs11Spec, RootOfTrust, SealError};

/// Which root of trust to use.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RootSpec {
    /// A key file.
    KeyFile(PathBuf),
    /// A file with a passphrase in it.
    PassphraseFile(PathBuf),
    /// A key on a token of an HSM.
    Pkcs11(Pkcs11Spec),
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
            Self::Pkcs11(spec) => Box::new(Pkcs11Root::new(spec.clone())),
        })
    }
}

impl FromStr for RootSpec {
    type Err = RootSpecError;

    fn from_str(text: &str) -> Result<Self, RootSpecError> {
        match text.split_once(':') {
            Some((_, "")) | None => Err(RootSpecError::Form),
            Some(("keyfile", path)) => Ok(Self::KeyFile(path.into())),
            Some(("passphrase-file", path)) => Ok(Self::PassphraseFile(path.into())),
            Some(("pkcs11", rest)) => Ok(Self::Pkcs11(Pkcs11Spec::parse(rest)?)),
            Some(_) => Err(RootSpecError::Form),
        }
    }
}

impl fmt::Display for RootSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyFile(path) => write!(f, "keyfile:{}", path.display()),
            Self::PassphraseFile(path) => write!(f, "passphrase-file:{}", path.display()),
            Self::Pkcs11(spec) => write!(f, "pkcs11:{spec}"),
        }
    }
}

/// What keeps a text from naming a root of trust.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RootSpecError {
    /// A parameter is there twice.
    #[error("the parameter `{name}` is named twice")]
    Doubled {
        /// Which one.
        name: String,
    },
    /// A value is not percent-encoded text.
    #[error("a value is not percent-encoded UTF-8")]
    Encoding,
    /// It is no root of trust at all.
    #[error("a root of trust is keyfile:FILE, passphrase-file:FILE or pkcs11:MODULE?token=T&object=O&pin-file=F")]
    Form,
    /// A parameter is missing, or its value cannot be one.
    #[error("the parameter `{name}` is missing or its value cannot be used")]
    Missing {
        /// Which one.
        name: &'static str,
    },
    /// There is no such parameter.
    #[error("there is no parameter `{name}`; expected token, object and pin-file")]
    Unknown {
        /// What was given.
        name: String,
    },
}
