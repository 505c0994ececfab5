//! Tokens as they are stored: a hash, never the token.

use crate::access::{Principal, PrincipalKind, Role};
use crate::id::TokenId;
use crate::name::AppPath;
use crate::time::Timestamp;

/// How long a token lives when nothing else is said, in seconds.
pub const TOKEN_TTL_SECONDS_DEFAULT: u64 = 24 * 60 * 60;

/// The longest life of a token, in seconds.
pub const TOKEN_TTL_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

/// A token as the store knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// Immutable id.
    pub id: TokenId,
    /// Keyed hash of the token's text; the text itself is shown once and kept nowhere.
    pub hash: [u8; 32],
    /// What its holder may do.
    pub role: Role,
    /// The app it is confined to.
    pub app: Option<AppPath>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Counts the changes of this row.
    pub generation: u64,
}

impl Token {
    /// Who the holder is, if the token is good at `now`.
    ///
    /// # Errors
    /// [`TokenRefusal`]; callers answer both cases alike.
    pub fn principal(&self, now: Timestamp) -> Result<Principal, TokenRefusal> {
        if self.revoked_at.is_some() {
            return Err(TokenRefusal::Revoked);
        }
        if now >= self.expires_at {
            return Err(TokenRefusal::Expired);
        }
        Ok(Principal {
            kind: PrincipalKind::Token,
            token: Some(self.id),
            role: self.role,
            app: self.app.clone(),
            expires_at: Some(self.expires_at),
        })
    }
}

/// Why a stored token is no longer good.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenRefusal {
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
}
