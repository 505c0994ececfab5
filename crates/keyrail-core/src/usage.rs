//! Use of key versions, counted from the log: who used what, how often, and when last.

use keyrail_crypto::envelope::Kid;

use crate::access::Action;
use crate::time::Timestamp;

/// Who did what under which version, outside any registered asset or inside one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UsageKey {
    /// The key version.
    pub kid: Kid,
    /// The principal's label, as [`crate::access::Principal::label`] gives it.
    pub principal: String,
    /// What was done: encrypt, decrypt, data-key, re-encrypt or export.
    pub action: Action,
    /// Whether a registered asset accounts for it.
    pub place: UsagePlace,
}

crate::text::text_enum! {
    /// Whether a registered asset accounts for a use.
    UsagePlace, "place of use" {
        /// A campaign or protection of a registered asset.
        Asset = "asset",
        /// A caller of its own: where the ciphertext lives is not known to Keyrail.
        Outside = "outside",
    }
}

/// How often, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UsageCount {
    /// How many items.
    pub count: u64,
    /// The first time.
    pub first_at: Timestamp,
    /// The last time.
    pub last_at: Timestamp,
}

impl UsageCount {
    /// One use of `count` items at `at`.
    pub const fn once(count: u64, at: Timestamp) -> Self {
        Self { count, first_at: at, last_at: at }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            first_at: self.first_at.min(other.first_at),
            last_at: self.last_at.max(other.last_at),
        }
    }
}

/// A row of the usage table: the count up to a known position in the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Who did what under which version.
    pub key: UsageKey,
    /// How often.
    pub count: UsageCount,
    /// Counts the changes of this row.
    pub generation: u64,
}
