//! Whether the store is open, in words that people and programs share.

use std::fmt;

use crate::{SealError, TokenError};

/// Whether the store is open, and if not, why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SealState {
    /// There is no store yet.
    Uninitialized,
    /// Closed; nobody has tried to open it, or somebody closed it.
    Sealed,
    /// Being opened right now.
    Unsealing,
    /// Open.
    Unsealed,
    /// Closed: the root that was given is not the store's.
    WrongSecret,
    /// Closed: the root cannot be used at the moment.
    RootUnavailable,
    /// Closed: the root takes no secret any more until somebody unlocks it.
    RootLocked,
}

impl SealState {
    /// The state after a root of trust failed to open the store.
    pub const fn after(error: &SealError) -> Self {
        match error {
            SealError::WrongSecret | SealError::OtherKind { .. } => Self::WrongSecret,
            SealError::File { .. } | SealError::Malformed { .. } | SealError::Permissions { .. } => {
                Self::RootUnavailable
            }
            SealError::Token(TokenError::OtherKey { .. } | TokenError::PinRefused { .. }) => Self::WrongSecret,
            SealError::Token(TokenError::PinDoubtful { .. } | TokenError::PinLocked | TokenError::PinLastTry) => {
                Self::RootLocked
            }
            SealError::Token(_) => Self::RootUnavailable,
            SealError::Crypto(_)
            | SealError::Exists { .. }
            | SealError::Recipients { .. }
            | SealError::Share { .. }
            | SealError::SharesAreDealt
            | SealError::SharesDoNotOpen { .. }
            | SealError::SlotDamaged
            | SealError::LinksFull { .. }
            | SealError::TooFewShares { .. }
            | SealError::TooManyShares { .. } => Self::Sealed,
        }
    }

    /// The word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uninitialized => "uninitialized",
            Self::Sealed => "sealed",
            Self::Unsealing => "unsealing",
            Self::Unsealed => "unsealed",
            Self::WrongSecret => "wrong-secret",
            Self::RootUnavailable => "root-unavailable",
            Self::RootLocked => "root-locked",
        }
    }

    /// The same in a sentence.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Uninitialized => "there is no store yet",
            Self::Sealed => "the store is sealed",
            Self::Unsealing => "the store is being opened",
            Self::Unsealed => "the store is open",
            Self::WrongSecret => {
                "the store is sealed: its root of trust holds another secret than the store was made with"
            }
            Self::RootUnavailable => "the store is sealed: its root of trust cannot be used at the moment",
            Self::RootLocked => "the store is sealed: its root of trust is locked",
        }
    }

    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Uninitialized => "make a store with `keyrail init`",
            Self::Sealed => "open it with `keyrail root unseal`",
            Self::Unsealing => "wait a moment",
            Self::Unsealed => "nothing is needed",
            Self::WrongSecret => "name the key file or passphrase that the store was made with",
            Self::RootUnavailable => "check that the root of trust is there and readable; it is tried again by itself",
            Self::RootLocked => "let the HSM's security officer unlock the token; it is tried again by itself",
        }
    }
}

impl fmt::Display for SealState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
