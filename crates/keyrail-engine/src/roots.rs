//! Which root of trust opens which slot of the store.

use std::path::PathBuf;

use keyrail_core::system::{ROOT_SLOTS_MAX, RootSlotRow, SlotRole, VOID_SLOTS_MAX};
use keyrail_core::time::Timestamp;
use keyrail_crypto::secret::RootKey;
use keyrail_seal::{
    KeyFile, PipeWait, Pkcs11Root, Pkcs11Spec, RootOfTrust, RootSlot, RootSpec, SealError, ShareText, Shares,
};

use crate::bootstrap::file_failed;
use crate::error::EngineError;
use crate::ops::room_for;

/// A root of trust, as somebody names it. Shares that it holds are wiped with it.
pub enum RootSource {
    /// The one that is written down in the data directory.
    Configured,
    /// Another one, on the machine of this process.
    Spec(RootSpec),
    /// Recovery shares that a caller sent.
    Shares(Vec<ShareText>),
}

impl RootSource {
    /// Where it is, if somebody named a place; never a secret.
    pub(crate) fn place(&self) -> Option<String> {
        match self {
            Self::Spec(spec) => Some(spec.to_string()),
            Self::Configured | Self::Shares(_) => None,
        }
    }

    /// The root of trust, ready for use. May wait for a pipe.
    pub(crate) fn resolve(
        &self,
        configured: impl FnOnce() -> Result<RootSpec, EngineError>,
        wait: PipeWait,
    ) -> Result<Box<dyn RootOfTrust>, EngineError> {
        Ok(match self {
            Self::Configured => configured()?.resolve_within(wait)?,
            Self::Spec(spec) => spec.resolve_within(wait)?,
            Self::Shares(texts) => Box::new(Shares::new(texts)?),
        })
    }
}

/// A relative path would mean another file after a change of directory.
pub(crate) fn absolute(spec: RootSpec) -> Result<RootSpec, EngineError> {
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|source| file_failed("find", &path, source));
    Ok(match spec {
        RootSpec::KeyFile(path) => RootSpec::KeyFile(absolute(path)?),
        RootSpec::PassphraseFile(path) => RootSpec::PassphraseFile(absolute(path)?),
        RootSpec::Pkcs11(spec) => {
            RootSpec::Pkcs11(Pkcs11Spec { module: absolute(spec.module)?, pin_file: absolute(spec.pin_file)?, ..spec })
        }
        other => other,
    })
}

/// The root of trust that is to open the store from now on, ready for use; a key file or a key on a token that is not
/// there is made.
///
/// # Errors
/// [`EngineError::Invalid`] for one that opens nothing by itself, [`EngineError::Root`].
pub(crate) fn make_root(spec: &RootSpec, wait: PipeWait) -> Result<Box<dyn RootOfTrust>, EngineError> {
    if spec.is_recovery() {
        return Err(EngineError::Invalid {
            problem: "recovery shares cannot be the root that opens the store at a start".to_owned(),
            hint: "name a key file, a passphrase or a key on an HSM, and add shares with --recovery or `keyrail root deal`",
        });
    }
    match spec {
        RootSpec::KeyFile(path) => match KeyFile::create(path) {
            // A key file that was there before is used as it is.
            Ok(_) | Err(SealError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        },
        RootSpec::Pkcs11(spec) => Pkcs11Root::new(spec.clone()).make_key_if_absent()?,
        _ => {}
    }
    Ok(spec.resolve_within(wait)?)
}

/// What tells whether the slots are still the same ones: a slot never changes under its id.
pub(crate) fn ids_of(rows: &[RootSlotRow]) -> Vec<[u8; 16]> {
    rows.iter().map(|row| row.id).collect()
}

/// The first slot that the root opens, primary ones first, and what is in it. Takes as long as the root does.
///
/// # Errors
/// [`EngineError::RootSlot`] for a slot that was altered; [`EngineError::Root`]: of the slots that are of its kind, why the
/// last one does not open.
pub(crate) fn open_any(rows: &[RootSlotRow], root: &dyn RootOfTrust) -> Result<(RootKey, [u8; 16]), EngineError> {
    let (void, mut rows): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.role == SlotRole::Void);
    rows.sort_by_key(|row| match row.role {
        SlotRole::Primary => 0,
        SlotRole::Pending => 1,
        SlotRole::Recovery | SlotRole::Void => 2,
    });
    let (mut other, mut failure, mut damaged) = (None, None, None);
    for row in rows.into_iter().take(ROOT_SLOTS_MAX) {
        let slot = match RootSlot::from_bytes(&row.slot) {
            Ok(slot) if slot.kind() == root.kind() => slot,
            Ok(slot) => {
                other.get_or_insert(slot.kind());
                continue;
            }
            // One that is damaged keeps no other from opening.
            Err(_) => {
                damaged.get_or_insert(row.id);
                continue;
            }
        };
        match slot.open_with(root) {
            Ok(key) => return Ok((key, row.id)),
            Err(SealError::SlotDamaged) => {
                damaged.get_or_insert(row.id);
            }
            Err(error) if error.is_of_another() => failure = Some(error),
            Err(error) => {
                refuse_void(&void, root)?;
                return Err(error.into());
            }
        }
    }
    refuse_void(&void, root)?;
    // Its own slot is there, whatever else is.
    if let Some(id) = damaged {
        return Err(EngineError::RootSlot { id: hex::encode(id) });
    }
    let none = other.map(|kind| SealError::OtherKind { found: kind.as_str(), given: root.kind().as_str() });
    Err(failure.or(none).unwrap_or(SealError::SlotDamaged).into())
}

/// Refuses what opened the store once, by its name: whoever holds it learns why it does no more.
fn refuse_void(rows: &[&RootSlotRow], root: &dyn RootOfTrust) -> Result<(), EngineError> {
    for slot in rows.iter().take(VOID_SLOTS_MAX).filter_map(|row| RootSlot::from_bytes(&row.slot).ok()) {
        root.refuse_void(&slot)?;
    }
    Ok(())
}

/// The row of a new slot.
pub(crate) fn new_row(slot: &RootSlot, role: SlotRole, now: Timestamp) -> RootSlotRow {
    RootSlotRow {
        id: slot.id,
        slot: slot.to_bytes(),
        created_at: now,
        generation: 1,
        role,
        recipients: Vec::new(),
        rehearsed_at: None,
    }
}

/// Refuses one slot more than there may be.
pub(crate) fn room_for_slot(rows: &[RootSlotRow]) -> Result<(), EngineError> {
    let open = rows.iter().filter(|row| row.role != SlotRole::Void).count();
    room_for(open as u64, "ways to open the store", ROOT_SLOTS_MAX as u64)
}
