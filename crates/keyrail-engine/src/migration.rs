//! Moving the store to another root of trust while it is in use.
//!
//! At every moment the root that is written down opens the store: the new slot is there before the root is written
//! down, and the old one goes after that. Killed in between, either root opens it; the next start with the new one
//! ends the move.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::RequestId;
use keyrail_core::system::{RootSlotRow, SlotRole};
use keyrail_crypto::random;
use keyrail_seal::{RootOfTrust, RootSlot, RootSpec, SealError};
use keyrail_store::Change;

use crate::authorize::Authorized;
use crate::bootstrap::write_root_spec;
use crate::error::EngineError;
use crate::ops::root::{SlotView, require_live};
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::pipeline::{Acted, Context, Operation, Target, execute};
use crate::request::Caller;
use crate::roots::{absolute, make_root, new_row, open_any, room_for_slot};
use crate::unsealed::Unsealed;

/// Moves the opened store to another root of trust.
///
/// # Errors
/// [`EngineError::Invalid`] when that root opens it already or opens nothing by itself, [`EngineError::Root`] when it
/// cannot be used, and what the pipeline refuses with. The store is opened by its former root then.
pub(crate) async fn migrate(
    open: &Arc<Unsealed>,
    paths: &Paths,
    caller: &Caller<'_>,
    to: RootSpec,
) -> Result<SlotView, EngineError> {
    let to = absolute(to)?;
    let added = execute(open, caller, AddRoot { to: to.clone() }).await?;
    prove(open, &to).await?;
    write_root_spec(paths, &to)?;
    // The second record of the move has an id of its own.
    let caller = Caller { request: RequestId::from_bytes(random::array()?), idempotency_key: None, ..*caller };
    let moved = execute(open, &caller, PromoteRoot { slot: added }).await?;
    open.set_opened_by(added);
    Ok(moved)
}

/// Opens the store with the new root as the next start will: whatever slots are there besides.
async fn prove(open: &Arc<Unsealed>, to: &RootSpec) -> Result<(), EngineError> {
    let rows = open.state().root_slots().await?;
    let opened = blocking(|| open_any(&rows, to.resolve()?.as_ref()))?;
    require_live(opened, open).map(drop)
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
    execute(open, &Caller::system()?, SettleRoot { slot: opened_by }).await.map(drop)
}

/// Adds the slot of the new root.
struct AddRoot {
    to: RootSpec,
}

impl Operation for AddRoot {
    const ACTION: Action = Action::RootMigrate;
    type Loaded = Vec<RootSlotRow>;
    type Answer = [u8; 16];

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
    ) -> Result<Acted<[u8; 16]>, EngineError> {
        let to = &authorized.op().to;
        let (found, root) = blocking(|| {
            let root = make_root(to)?;
            Ok::<_, EngineError>((slot_of(&rows, root.as_ref())?, root))
        })?;
        if let Some(row) = found {
            if row.role != SlotRole::Pending {
                return Err(EngineError::Invalid {
                    problem: format!("`{to}` opens the store already"),
                    hint: "name another root of trust",
                });
            }
            // A former attempt added it.
            return Ok(Acted::new(row.id).detail("step", "again").detail("slot", hex::encode(row.id)));
        }
        room_for_slot(&rows)?;
        let mut change = Change::new();
        let slot = blocking(|| root.protect(cx.open.root()))?;
        change.insert(&new_row(&slot, SlotRole::Pending, cx.now));
        let acted = Acted::new(slot.id).change(change).detail("step", "added").detail("slot", hex::encode(slot.id));
        Ok(acted.detail("root", slot.kind().as_str()))
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
    for row in rows {
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

macro_rules! promotion {
    ($(#[$meta:meta])* $name:ident, $action:ident) => {
        $(#[$meta])*
        struct $name {
            slot: [u8; 16],
        }

        impl Operation for $name {
            const ACTION: Action = Action::$action;
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
                promoted(authorized.op().slot, rows, cx)
            }
        }
    };
}

promotion!(
    /// Makes the new slot the primary one, and takes the former ones away.
    PromoteRoot,
    RootMigrate
);
promotion!(
    /// The same at a start, for a move that was interrupted.
    SettleRoot,
    RootSettle
);

fn promoted(id: [u8; 16], rows: Vec<RootSlotRow>, cx: &Context<'_>) -> Result<Acted<SlotView>, EngineError> {
    let mut change = Change::new();
    let (mut removed, mut promoted) = (Vec::new(), None);
    for row in rows {
        if row.id == id {
            let next = RootSlotRow { role: SlotRole::Primary, generation: row.generation + 1, ..row };
            change.update(&next);
            promoted = Some(next);
        } else if row.role != SlotRole::Recovery {
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
