//! Another root key: everything that lies directly under the former one is put under it, in one change.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::key::MasterVersion;
use keyrail_core::system::{RootSecret, RootSlotRow, SlotRole};
use keyrail_core::time::Timestamp;
use keyrail_crypto::secret::RootKey;
use keyrail_seal::{PipeWait, RootOfTrust, RootSlot, SealError};
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::keys;
use crate::ops::root::SlotView;
use crate::parallel::blocking;
use crate::pipeline::{Acted, Context, Operation, Target, execute};
use crate::request::Caller;
use crate::roots::{RootSource, new_row, open_any};
use crate::unsealed::Unsealed;

/// What opens the store after its root key was rotated.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct RotatedRoot {
    /// The ways to open it.
    pub slots: Vec<SlotView>,
    /// How many master key versions were put under the new root key.
    pub masters: usize,
}

/// The root keys of a change, made before it: the pipeline may begin it anew.
pub(crate) struct RootKeys {
    /// The one that the store works with.
    pub(crate) present: Arc<RootKey>,
    /// The one that it will work with.
    pub(crate) next: Arc<RootKey>,
}

impl RootKeys {
    /// The present root key, and a new one.
    pub(crate) async fn next(open: &Unsealed) -> Result<Self, EngineError> {
        Ok(Self { present: open.root().await?, next: Arc::new(RootKey::generate()?) })
    }
}

/// Rotates the root key of the opened store.
///
/// # Errors
/// [`EngineError::Invalid`] while the store is being moved to another root, [`EngineError::Root`] when the root of trust
/// cannot be used, and what the pipeline refuses with. The root key is the former one then.
pub(crate) async fn rotate(
    open: &Arc<Unsealed>,
    caller: &Caller<'_>,
    renew: Option<RootSource>,
) -> Result<RotatedRoot, EngineError> {
    let keys = RootKeys::next(open).await?;
    let next = keys.next.clone();
    // Whoever finds rows under the next root key waits here until it is in use.
    let _turn = open.rotating().await;
    let (answer, slot) = execute(open, caller, RotateRoot { keys, renew }).await?;
    open.set_root(next, slot);
    Ok(answer)
}

/// Puts the store under another root key.
struct RotateRoot {
    keys: RootKeys,
    /// A recovery root whose shares are there: its slot needs no link.
    renew: Option<RootSource>,
}

/// What lies directly under the root key, and what opens it.
pub(crate) struct Beneath {
    pub(crate) slots: Vec<RootSlotRow>,
    secrets: Vec<RootSecret>,
    pub(crate) masters: Vec<MasterVersion>,
}

impl Beneath {
    pub(crate) async fn load(open: &Unsealed) -> Result<Self, EngineError> {
        let state = open.state();
        let (slots, secrets) = (state.root_slots().await?, state.root_secrets().await?);
        let mut masters = Vec::new();
        for key in state.master_keys().await? {
            masters.extend(state.master_versions(&key.id).await?);
        }
        Ok(Self { slots, secrets, masters })
    }

    /// Puts the keys that are no master keys under the next root key.
    pub(crate) fn move_secrets(&self, keys: &RootKeys, change: &mut Change) -> Result<(), EngineError> {
        for row in &self.secrets {
            change.update(&keys::rewrap_root_secret(&keys.present, &keys.next, row)?);
        }
        Ok(())
    }
}

impl Operation for RotateRoot {
    const ACTION: Action = Action::RootRotate;
    type Loaded = Beneath;
    type Answer = (RotatedRoot, [u8; 16]);

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Beneath, EngineError> {
        Beneath::load(open).await
    }

    fn target(&self, _: &Beneath) -> Target {
        Target::service("root", None)
    }

    async fn act(
        authorized: &Authorized<Self>,
        beneath: Beneath,
        cx: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        let Self { keys, renew } = authorized.op();
        require_present(keys, cx.open).await?;
        let mut change = Change::new();
        let moved = async {
            let _turn = cx.open.root_turn().await?;
            let primary = move_primary(&beneath.slots, keys, cx)?;
            Ok((primary, move_recovery(&beneath.slots, keys, renew.as_ref(), cx.now)?))
        };
        let (primary, recovery) = cx.once(beneath.slots.clone(), moved).await?;
        for row in &beneath.slots {
            match recovery.iter().find(|next| next.id == row.id) {
                Some(next) => change.update(next),
                None if row.role != SlotRole::Void => change.delete(row),
                None => continue,
            };
        }
        let renewed = recovery.iter().filter(|row| !beneath.slots.iter().any(|former| former.id == row.id));
        for row in renewed.chain([&primary]) {
            change.insert(row);
        }
        beneath.move_secrets(keys, &mut change)?;
        for row in &beneath.masters {
            change.update(&keys::rewrap_master_key(&keys.present, &keys.next, row)?);
        }
        let void = beneath.slots.iter().filter(|row| row.role == SlotRole::Void);
        let rows = [&primary].into_iter().chain(&recovery).chain(void);
        let slots = rows.map(|row| SlotView::of(row, primary.id, cx.now)).collect::<Result<Vec<_>, _>>()?;
        let linked = slots.iter().filter(|slot| slot.rotations_missed > 0).count();
        let masters = beneath.masters.len();
        let acted = Acted::new((RotatedRoot { slots, masters }, primary.id)).change(change);
        Ok(acted.detail("slot", hex::encode(primary.id)).detail("masters", masters).detail("linked", linked))
    }
}

/// Refuses to go on from a root key that is not the store's any more: another process rotated it meanwhile.
pub(crate) async fn require_present(keys: &RootKeys, open: &Unsealed) -> Result<(), EngineError> {
    if open.is_present(&keys.present).await? { Ok(()) } else { Err(EngineError::Contended) }
}

/// The slot of the root that opens the store at a start, with the next root key in it. It is opened before anything
/// depends on it.
pub(crate) fn move_primary(
    slots: &[RootSlotRow],
    keys: &RootKeys,
    cx: &Context<'_>,
) -> Result<RootSlotRow, EngineError> {
    if slots.iter().any(|row| row.role == SlotRole::Pending) {
        return Err(EngineError::Invalid {
            problem: "a move of the store to another root was interrupted".to_owned(),
            hint: "end it with `keyrail root migrate`, or take the new slot away with `keyrail root remove`",
        });
    }
    let primary: Vec<_> = slots.iter().filter(|row| row.role == SlotRole::Primary).cloned().collect();
    let slot = blocking(|| {
        let root = cx.open.configured_root()?.resolve()?;
        let (key, _) = open_any(&primary, root.as_ref())?;
        if !key.ct_eq(&keys.present) {
            return Err(EngineError::from(SealError::SlotDamaged));
        }
        protected(root.as_ref(), &keys.next)
    })?;
    Ok(new_row(&slot, SlotRole::Primary, cx.now))
}

/// A slot of the root that opens, as it will be stored.
fn protected(root: &dyn RootOfTrust, key: &RootKey) -> Result<RootSlot, EngineError> {
    let slot = root.protect(key)?;
    let opened = RootSlot::from_bytes(&slot.to_bytes())?.open_with(root)?;
    if opened.ct_eq(key) { Ok(slot) } else { Err(SealError::SlotDamaged.into()) }
}

/// The recovery roots: the one whose shares are there has the next root key in a new slot, the others get a link to it.
fn move_recovery(
    slots: &[RootSlotRow],
    keys: &RootKeys,
    renew: Option<&RootSource>,
    now: Timestamp,
) -> Result<Vec<RootSlotRow>, EngineError> {
    let renewed = renew.map(|source| renewed(slots, source, keys, now)).transpose()?;
    let mut rows = Vec::new();
    for row in slots.iter().filter(|row| row.role == SlotRole::Recovery) {
        match &renewed {
            Some((former, next)) if *former == row.id => rows.push(next.clone()),
            _ => {
                let slot = RootSlot::from_bytes(&row.slot)?.linked(&keys.present, &keys.next).map_err(not_linked)?;
                rows.push(RootSlotRow { slot: slot.to_bytes(), generation: row.generation + 1, ..row.clone() });
            }
        }
    }
    Ok(rows)
}

/// Shares that missed too many rotations are what the caller can do something about.
fn not_linked(error: SealError) -> EngineError {
    match error {
        SealError::LinksFull { .. } => EngineError::Invalid {
            problem: error.to_string(),
            hint: "name its shares with --renew, or deal new ones and take it away: `keyrail root deal`, `root remove`",
        },
        other => other.into(),
    }
}

/// The slot that these shares open, and the row that takes its place. They have just proved that they open it.
fn renewed(
    slots: &[RootSlotRow],
    source: &RootSource,
    keys: &RootKeys,
    now: Timestamp,
) -> Result<([u8; 16], RootSlotRow), EngineError> {
    let root =
        source.resolve(|| Err(EngineError::Bug { what: "a recovery root that is written down" }), PipeWait::Limited)?;
    let (key, id) = open_any(slots, root.as_ref())?;
    let row = slots.iter().find(|row| row.id == id).filter(|row| row.role == SlotRole::Recovery);
    let row = row.filter(|_| key.ct_eq(&keys.present)).ok_or(SealError::SlotDamaged)?;
    let slot = root.renew(&RootSlot::from_bytes(&row.slot)?, &keys.next)?;
    let next = RootSlotRow {
        recipients: row.recipients.clone(),
        rehearsed_at: Some(now),
        ..new_row(&slot, SlotRole::Recovery, now)
    };
    Ok((id, next))
}
