//! How an anchor is written: `file:PATH` or `witness:URL#KEY`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use keyrail_audit::WitnessKey;

/// Where an anchor is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AnchorSpec {
    /// A file, on another volume than the data.
    File(PathBuf),
    /// A C2SP witness.
    Witness {
        /// Where it takes checkpoints: the part before `/add-checkpoint`.
        url: String,
        /// Its public key.
        key: WitnessKey,
    },
}

impl AnchorSpec {
    /// `file` or `witness`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Witness { .. } => "witness",
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self {
            Self::File(path) => format!("`{}`", path.display()),
            Self::Witness { url, key } => format!("`{url}` ({})", key.name()),
        }
    }
}

impl FromStr for AnchorSpec {
    type Err = AnchorSpecError;

    fn from_str(text: &str) -> Result<Self, AnchorSpecError> {
        let wrong = || AnchorSpecError { text: text.to_owned() };
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("witness", rest)) => {
                let (url, key) = rest.split_once('#').ok_or_else(wrong)?;
                let key = key.parse().map_err(|_| wrong())?;
                Ok(Self::Witness { url: url.trim_end_matches('/').to_owned(), key })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for AnchorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Witness { url, key } => write!(f, "witness:{url}#{key}"),
        }
    }
}

/// A text is no anchor.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{text}` is no anchor: write file:PATH, or witness:URL#KEY with the public key of the witness")]
pub struct AnchorSpecError {
    text: String,
}
