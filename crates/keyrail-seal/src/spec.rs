//! Roots of trust as people name them: `keyfile:F`, `passphrase-file:F`, `pkcs11:MODULE?…`, `shamir:F,F,F`,
//! `shares-dir:D`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{
    KeyFile, Passphrase, PipeWait, Pkcs11Root, Pkcs11Spec, RootOfTrust, SealError, ShareText, Shares, read_shares,
    share_files,
};

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
    /// Files with recovery shares; `-` is standard input.
    Shares(Vec<PathBuf>),
    /// A directory of such files.
    SharesDir(PathBuf),
}

impl RootSpec {
    /// The root of trust, ready for use. Reads the passphrase, if it is one; whoever writes to a pipe is waited for as
    /// long as a request may.
    ///
    /// # Errors
    /// [`SealError`] when the file cannot be used.
    pub fn resolve(&self) -> Result<Box<dyn RootOfTrust>, SealError> {
        self.resolve_within(PipeWait::Limited)
    }

    /// As [`RootSpec::resolve`], with another limit on the wait for a pipe.
    ///
    /// # Errors
    /// As [`RootSpec::resolve`].
    pub fn resolve_within(&self, wait: PipeWait) -> Result<Box<dyn RootOfTrust>, SealError> {
        Ok(match self {
            Self::KeyFile(path) => Box::new(KeyFile::at(path)),
            Self::PassphraseFile(path) => Box::new(Passphrase::from_file(path, wait)?),
            Self::Pkcs11(spec) => Box::new(Pkcs11Root::new(spec.clone())),
            Self::Shares(_) | Self::SharesDir(_) => Box::new(Shares::new(&self.share_texts()?)?),
        })
    }

    /// Whether people have to be there to use it: it opens nothing by itself at a start.
    pub const fn is_recovery(&self) -> bool {
        matches!(self, Self::Shares(_) | Self::SharesDir(_))
    }

    /// The shares that it names; none if it is another kind of root.
    ///
    /// # Errors
    /// [`SealError`] when a file cannot be used.
    pub fn share_texts(&self) -> Result<Vec<ShareText>, SealError> {
        match self {
            Self::Shares(paths) => read_shares(paths),
            Self::SharesDir(dir) => read_shares(&share_files(dir)?),
            Self::KeyFile(_) | Self::PassphraseFile(_) | Self::Pkcs11(_) => Ok(Vec::new()),
        }
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
            Some(("shamir", paths)) if paths.split(',').all(|path| !path.is_empty()) => {
                Ok(Self::Shares(paths.split(',').map(PathBuf::from).collect()))
            }
            Some(("shares-dir", path)) => Ok(Self::SharesDir(path.into())),
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
            Self::Shares(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                write!(f, "shamir:{}", paths.join(","))
            }
            Self::SharesDir(path) => write!(f, "shares-dir:{}", path.display()),
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
    #[error(
        "a root of trust is keyfile:FILE, passphrase-file:FILE or pkcs11:MODULE?token=T&object=O&pin-file=F; shares are shamir:FILE,… or shares-dir:DIR"
    )]
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
