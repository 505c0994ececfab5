//! What keeps a root of trust from opening the store.

use std::path::PathBuf;

use keyrail_crypto::CryptoError;

use crate::{ShareProblem, TokenError};

/// What keeps a root of trust from opening the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The ciphers failed for another reason than a wrong secret.
    #[error("a cryptographic operation failed")]
    Crypto(#[source] CryptoError),
    /// The file is there already and must not be overwritten.
    #[error("`{path}` exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Shares missed as many rotations of the root key as they can.
    #[error("a recovery root missed {links} rotations of the root key, and can miss no more")]
    LinksFull {
        /// How many.
        links: usize,
    },
    /// The file is not what it should be.
    #[error("`{path}` is not a Keyrail {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// The slot was made by another kind of root.
    #[error("the slot was made by a {found}, and this is a {given}")]
    OtherKind {
        /// What made the slot.
        found: &'static str,
        /// What was given.
        given: &'static str,
    },
    /// Others may read the file.
    #[error("`{path}` may be read or written by others (mode {mode:o})")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There are recipients, and not one for each share.
    #[error("there are {given} recipients for {total} shares")]
    Recipients {
        /// How many there are.
        given: usize,
        /// How many shares there are.
        total: u8,
    },
    /// A share is bad.
    #[error("{share}: {problem}")]
    Share {
        /// Which one: its number and where it comes from, as far as that is known.
        share: String,
        /// What is wrong with it.
        problem: ShareProblem,
    },
    /// Shares are dealt anew for a new slot.
    #[error("recovery shares protect nothing that they were not dealt for")]
    SharesAreDealt,
    /// Each share is whole, and together they do not open the slot.
    #[error("these {given} shares do not open the store, of which it takes {threshold}")]
    SharesDoNotOpen {
        /// How many were given.
        given: usize,
        /// How many it takes.
        threshold: u8,
    },
    /// There are too few shares.
    #[error("there are {given} shares, and it takes {threshold}")]
    TooFewShares {
        /// How many were given.
        given: usize,
        /// How many it takes.
        threshold: u8,
    },
    /// There are more shares than are looked at.
    #[error("there are {given} shares, and may be {max} at most")]
    TooManyShares {
        /// How many were given.
        given: usize,
        /// How many may be given.
        max: usize,
    },
    /// The secret is right and the slot does not open: it was altered.
    #[error("the root slot in the store is damaged")]
    SlotDamaged,
    /// The token of an HSM cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The secret is not the one that the slot was made with.
    #[error("this is not the secret that protects the store")]
    WrongSecret,
}

impl SealError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => Some("name another file, or use the one that is there"),
            Self::File { .. } => Some("check that the file is there and that this user may read it"),
            Self::LinksFull { .. } => {
                Some("deal new shares and take it away: `keyrail root deal`, `keyrail root remove`")
            }
            Self::Malformed { .. } => Some("name the file that `keyrail init` made or used"),
            Self::OtherKind { .. } => {
                Some("name the root that the store was made with: `keyrail root status` tells its kind")
            }
            Self::Permissions { .. } => Some("take the rights of others away: chmod 600"),
            Self::Recipients { .. } => Some("name one recipient for each share, or none to have them printed"),
            Self::Share { problem, .. } => Some(problem.hint()),
            Self::SharesAreDealt => Some("deal a new set: `keyrail root deal`"),
            Self::SharesDoNotOpen { .. } => Some("give one share more than it takes, and the bad one is named"),
            Self::TooFewShares { .. } => Some("ask more of the holders for their shares"),
            Self::TooManyShares { .. } => Some("give those of one set, 16 at most"),
            Self::SlotDamaged => Some("restore the store from a backup; the secret itself is right"),
            Self::Token(error) => Some(error.hint()),
            Self::WrongSecret => Some("name the key file or passphrase that the store was made with"),
            Self::Crypto(_) => None,
        }
    }
}

impl SealError {
    /// Whether the root works, and the slot is another's: the next slot may be its own.
    pub const fn is_of_another(&self) -> bool {
        matches!(self, Self::OtherKind { .. } | Self::Token(TokenError::OtherKey { .. }) | Self::WrongSecret)
    }

    /// The word for programs: why the root does not open the store.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Crypto(_) => "crypto",
            Self::Exists { .. } => "exists",
            Self::File { .. } => "file",
            Self::LinksFull { .. } => "links-full",
            Self::Malformed { .. } => "malformed",
            Self::OtherKind { .. } => "other-kind",
            Self::Permissions { .. } => "permissions",
            Self::Recipients { .. } => "recipients",
            Self::Share { .. } => "share",
            Self::SharesAreDealt => "shares-are-dealt",
            Self::SharesDoNotOpen { .. } => "shares-do-not-open",
            Self::TooFewShares { .. } => "too-few-shares",
            Self::TooManyShares { .. } => "too-many-shares",
            Self::SlotDamaged => "slot-damaged",
            Self::Token(error) => error.word(),
            Self::WrongSecret => "wrong-secret",
        }
    }
}

impl From<CryptoError> for SealError {
    fn from(error: CryptoError) -> Self {
        Self::Crypto(error)
    }
}
