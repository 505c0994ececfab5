//! Moving the store to another root of trust while it is in use.
//!
//! At every moment the root that is written down opens the store: the new slot is there before the root is written
//! down, and the old one goes after that. Killed in between, either root opens it; the next start with the new one
//! ends the move.

use std::sync::{Arc, OnceLock};

use keyrail_core::access::Action;
use keyrail_core::id::RequestId;
use keyrail_core::system::{RootSlotRow, SlotRole};
use keyrail_crypto::random;
use keyrail_seal::{PipeWait, RootOfTrust, RootSlot, RootSpec, SealError};
use keyrail_store::Change;

use crate::authorize::Authorized;
use crate::bootstrap::write_root_spec;
use crate::error::EngineError;
use crate::ops::root::{SlotView, require_live};
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::pipeline::{Acted, Context, Operation, Target, execute};
use crate::request::Caller;
use crate::root_place::RootPlaces;
use crate::roots::{absolute, ids_of, make_root, new_row, open_any, room_for_slot};
use crate::unsealed::Unsealed;

/// Moves the opened store to another root of trust.
///
/// # Errors
/// [`EngineError::RootPlace`] for one that is elsewhere than in `places`, [`EngineError::Invalid`] when it is written
/// down already or opens nothing by itself, [`EngineError::Root`] when it cannot be used, and what the pipeline refuses
/// with. The store is opened by its former root then.
pub(crate) async fn migrate(
    open: &Arc<Unsealed>,
    paths: &Paths,
    caller: &Caller<'_>,
    to: RootSpec,
    places: RootPlaces,
) -> Result<SlotView, EngineError> {
    let to = absolute(to)?;
    let first = caller.request;
    let Added { slot, root } = execute(open, caller, AddRoot { to: to.clone(), places, root: OnceLock::new() }).await?;
    prove(open, root.as_ref()).await?;
    write_root_spec(paths, &to)?;
    let added = match slot {
        Place::Added(slot) => slot,
        Place::Kept(view) => return Ok(view),
    };
    // The second record of the move has an id of its own, and names the first.
    let caller = Caller { request: RequestId::from_bytes(random::array()?), idempotency_key: None, ..*caller };
    let moved = execute(open, &caller, PromoteRoot { slot: added, first: Some(first) }).await?;
    open.set_opened_by(added);
    Ok(moved)
}

/// Opens the store with the new root as the next start will: whatever slots are there besides. A pipe was read before.
async fn prove(open: &Arc<Unsealed>, root: &dyn RootOfTrust) -> Result<(), EngineError> {
    let rows = open.state().root_slots().await?;
    let opened = blocking(|| open_any(&rows, root))?;
    require_live(opened, open).await.map(drop)
}

/// Ends a move that was interrupted after the new root was written down: the store was opened with it.
///
/// # Errors
/// What the pipeline refuses with.
pub(crate) async fn settle(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let rows = open.state().root_slots().await?;
    let opened_by = open.opened_by();
    if !rows.iter().any(|row| row.id == opened_by && row.role == SlotRole::Pending) {
        return Ok(());
    }
    execute(open, &Caller::system()?, SettleRoot { slot: opened_by, first: None }).await.map(drop)
}

/// Adds the slot of the new root.
struct AddRoot {
    to: RootSpec,
    places: RootPlaces,
    /// The new root, once it was looked at: a pipe is read once, also when the state changes meanwhile.
    root: OnceLock<Arc<dyn RootOfTrust>>,
}

/// The new root, and its slot.
struct Added {
    slot: Place,
    root: Arc<dyn RootOfTrust>,
}

/// The slot of the new root.
enum Place {
    /// It is new, and opens the store besides the former one.
    Added([u8; 16]),
    /// It opens the store already, by a root that is written down with another path.
    Kept(SlotView),
}

/// What takes seconds, and does not depend on the state but for the slots that there are.
#[derive(Clone)]
enum Prepared {
    Found([u8; 16]),
    New(RootSlot),
}

impl AddRoot {
    fn root(&self) -> Result<Arc<dyn RootOfTrust>, EngineError> {
        if let Some(root) = self.root.get() {
            return Ok(root.clone());
        }
        let made: Arc<dyn RootOfTrust> = Arc::from(make_root(&self.to, PipeWait::Limited)?);
        Ok(self.root.get_or_init(|| made).clone())
    }
}

impl Operation for AddRoot {
    const ACTION: Action = Action::RootMigrate;
    type Loaded = Vec<RootSlotRow>;
    type Answer = Added;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().root_slots().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("root", self.to.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        rows: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<Added>, EngineError> {
        let op = authorized.op();
        op.places.require(&op.to, cx.open)?;
        let root = blocking(|| op.root())?;
        let prepared = async {
            let key = cx.open.root().await?;
            blocking(|| match slot_of(&rows, root.as_ref())? {
                Some(row) => Ok(Prepared::Found(row.id)),
                None => Ok(Prepared::New(root.protect(&key)?)),
            })
        };
        match cx.once(ids_of(&rows), prepared).await? {
            Prepared::Found(id) => op.found(rows, id, root, cx),
            Prepared::New(slot) => {
                room_for_slot(&rows)?;
                let mut change = Change::new();
                change.insert(&new_row(&slot, SlotRole::Pending, cx.now));
                let acted = Acted::new(Added { slot: Place::Added(slot.id), root }).change(change);
                let acted = acted.detail("step", "added").detail("slot", hex::encode(slot.id));
                Ok(acted.detail("root", slot.kind().as_str()))
            }
        }
    }
}

impl AddRoot {
    /// The root has a slot: a former attempt added it, or the root was put elsewhere and is the one in use.
    fn found(
        &self,
        rows: Vec<RootSlotRow>,
        id: [u8; 16],
        root: Arc<dyn RootOfTrust>,
        cx: &Context<'_>,
    ) -> Result<Acted<Added>, EngineError> {
        let row = rows.into_iter().find(|row| row.id == id).ok_or(EngineError::Bug { what: "a slot is gone" })?;
        let (slot, step) = match row.role {
            SlotRole::Pending => (Place::Added(id), "again"),
            _ if cx.open.configured_root().is_ok_and(|configured| configured == self.to) => {
                return Err(EngineError::Invalid {
                    problem: format!("`{}` opens the store already", self.to),
                    hint: "name another root of trust",
                });
            }
            _ => (Place::Kept(SlotView::of(&row, cx.open.opened_by(), cx.now)?), "kept"),
        };
        Ok(Acted::new(Added { slot, root }).detail("step", step).detail("slot", hex::encode(id)))
    }
}

/// The slot that a root opens.
///
/// # Errors
/// [`EngineError::Root`] when the root cannot be used: which slot is its own is not known then.
pub(crate) fn slot_of<'a>(
    rows: &'a [RootSlotRow],
    root: &dyn RootOfTrust,
) -> Result<Option<&'a RootSlotRow>, EngineError> {
    for row in rows.iter().filter(|row| row.role != SlotRole::Void) {
        let slot = RootSlot::from_bytes(&row.slot)?;
        if slot.kind() != root.kind() {
            continue;
        }
        match root.open(&slot) {
            Ok(_) => return Ok(Some(row)),
            Err(error) if error.is_of_another() || matches!(error, SealError::SlotDamaged) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Makes the new slot the primary one, and takes the former ones away; at a start, for a move that was interrupted.
struct Promotion<const AT_START: bool> {
    slot: [u8; 16],
    /// The request that added the slot.
    first: Option<RequestId>,
}

type PromoteRoot = Promotion<false>;
type SettleRoot = Promotion<true>;

impl<const AT_START: bool> Operation for Promotion<AT_START> {
    const ACTION: Action = if AT_START { Action::RootSettle } else { Action::RootMigrate };
    type Loaded = Vec<RootSlotRow>;
    type Answer = SlotView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().root_slots().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("root", None)
    }

    async fn act(
        authorized: &Authorized<Self>,
        rows: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<SlotView>, EngineError> {
        let acted = promoted(authorized.op().slot, rows, cx)?;
        Ok(authorized.op().first.iter().fold(acted, |acted, first| acted.detail("request", first)))
    }
}

fn promoted(id: [u8; 16], rows: Vec<RootSlotRow>, cx: &Context<'_>) -> Result<Acted<SlotView>, EngineError> {
    let mut change = Change::new();
    let (mut removed, mut promoted) = (Vec::new(), None);
    for row in rows {
        if row.id == id {
            let next = RootSlotRow { role: SlotRole::Primary, generation: row.generation + 1, ..row };
            change.update(&next);
            promoted = Some(next);
        } else if !matches!(row.role, SlotRole::Recovery | SlotRole::Void) {
            change.delete(&row);
            removed.push(hex::encode(row.id));
        }
    }
    let promoted = promoted.ok_or(EngineError::Bug { what: "the new slot is gone" })?;
    let view = SlotView::of(&promoted, id, cx.now)?;
    let acted = Acted::new(view).change(change).detail("step", "moved").detail("slot", hex::encode(id));
    Ok(removed.into_iter().fold(acted, |acted, slot| acted.detail("removed", slot)))
}

#[cfg(test)]
mod tests;
