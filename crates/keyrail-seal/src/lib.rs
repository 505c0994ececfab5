//! Roots of trust: what protects the root key.
//!
//! A root of trust turns something outside the store (a key file, a passphrase, a key on an HSM, shares of several
//! people) into a slot key, which wraps the root key in a [`RootSlot`]. It never sees the keys of the
//! domain.

mod error;
mod key_file;
mod passphrase;
mod pkcs11;
mod private;
mod shares;
mod slot;
mod spec;
mod state;

pub use error::SealError;
pub use key_file::{KeyFile, parse_key_file};
pub use passphrase::Passphrase;
pub use pkcs11::{OPERATION_SECONDS_MAX, Pkcs11Root, Pkcs11Spec, TokenError, TokenKey};
pub use private::PipeWait;
pub use shares::{
    DealtShare, RecoverySpec, RecoverySpecError, ShareProblem, ShareText, Shares, deal, read_shares, share_files,
};
pub use slot::{ROOT_LINKS_MAX, RootKind, RootSlot, SlotParameters};
pub use spec::{RootSpec, RootSpecError};
pub use state::SealState;

use keyrail_crypto::secret::RootKey;

/// One thing that a root of trust says of itself. Nothing here proves it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// What it is about.
    pub name: &'static str,
    /// What is said.
    pub value: String,
}

/// Something that can protect and open the root key. Calls may block for seconds (key derivation, devices):
/// the engine makes them on a thread of their own.
pub trait RootOfTrust: Send + Sync {
    /// What kind of root it is.
    fn kind(&self) -> RootKind;

    /// Where it is, for people; never a secret.
    fn describe(&self) -> String;

    /// Wraps the root key in a new slot.
    ///
    /// # Errors
    /// [`SealError`] when the root cannot be used.
    fn protect(&self, root: &RootKey) -> Result<RootSlot, SealError>;

    /// Opens a slot.
    ///
    /// # Errors
    /// One that [`SealError::is_of_another`] when the root is not the one of the slot, [`SealError::SlotDamaged`] when it
    /// is and the slot was altered, others when the root cannot be used.
    fn open(&self, slot: &RootSlot) -> Result<RootKey, SealError>;

    /// What it says of itself and of its key; a file has nothing to say.
    ///
    /// # Errors
    /// [`SealError`] when it cannot be asked.
    fn claims(&self) -> Result<Vec<Claim>, SealError> {
        Ok(Vec::new())
    }

    /// Refuses what belongs to a slot that is void; a root that gives nothing to people never does.
    ///
    /// # Errors
    /// [`SealError::Share`] that names the share.
    fn refuse_void(&self, _slot: &RootSlot) -> Result<(), SealError> {
        Ok(())
    }

    /// Wraps another root key for the same root, instead of a slot that it opens.
    ///
    /// # Errors
    /// As [`RootOfTrust::open`] and [`RootOfTrust::protect`].
    fn renew(&self, _slot: &RootSlot, root: &RootKey) -> Result<RootSlot, SealError> {
        self.protect(root)
    }
}
