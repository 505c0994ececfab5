//! The ways to open the store: looking at them, rehearsing, dealing shares, taking one away.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::system::{RootSlotRow, SlotRole};
use keyrail_core::time::Timestamp;
use keyrail_crypto::age::Recipient;
use keyrail_crypto::secret::RootKey;
use keyrail_seal::{DealtShare, PipeWait, RecoverySpec, RootSlot, SlotParameters, deal};
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::migration::slot_of;
use crate::parallel::blocking;
use crate::pipeline::{Acted, Context, Operation, Replay, Target, replay_answer};
use crate::root_place::RootPlaces;
use crate::roots::{RootSource, ids_of, new_row, open_any, room_for_slot};
use crate::unsealed::Unsealed;

/// Tells what opens the store.
#[derive(Clone, Copy, Debug)]
pub struct ShowRoot;

/// What opens the store.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct RootView {
    /// The ways to open it. Each opens it alone.
    pub slots: Vec<SlotView>,
}

/// One way to open the store.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct SlotView {
    /// Its id, in hex.
    pub id: String,
    /// `primary` opens the store at a start, `recovery` when that is lost, `pending` is one that the store is being
    /// moved to; `void` opened it once, and opens nothing any more.
    pub role: SlotRole,
    /// What kind of root it is.
    pub kind: String,
    /// Whether the store was opened with it.
    pub in_use: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its root last proved that it opens the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rehearsed_at: Option<Timestamp>,
    /// How many rotations of the root key it missed: it opens the store through as many former root keys.
    #[serde(skip_serializing_if = "is_none", default)]
    pub rotations_missed: usize,
    /// Which shares open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<ShareSetView>,
    /// What somebody should do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The shares of a recovery root.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct ShareSetView {
    /// The id of the set, in hex; each share carries it.
    pub set: String,
    /// How many shares open the store.
    pub threshold: u8,
    /// How many shares there are.
    pub total: u8,
    /// Whom they were encrypted to, the first share first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub recipients: Vec<String>,
}

impl SlotView {
    pub(crate) fn of(row: &RootSlotRow, opened_by: [u8; 16], now: Timestamp) -> Result<Self, EngineError> {
        let slot = RootSlot::from_bytes(&row.slot)?;
        let shares = match slot.parameters {
            SlotParameters::Shamir(set) => Some(ShareSetView {
                set: hex::encode(set.id),
                threshold: set.policy.threshold(),
                total: set.policy.total(),
                recipients: row.recipients.clone(),
            }),
            _ => None,
        };
        Ok(Self {
            id: hex::encode(row.id),
            role: row.role,
            kind: slot.kind().as_str().to_owned(),
            in_use: row.id == opened_by,
            created_at: row.created_at,
            rehearsed_at: row.rehearsed_at,
            rotations_missed: slot.links.len(),
            shares,
            warning: warning(row, slot.links.len(), now),
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_none(count: &usize) -> bool {
    *count == 0
}

fn warning(row: &RootSlotRow, rotations_missed: usize, now: Timestamp) -> Option<String> {
    if row.role == SlotRole::Pending {
        let text = "a move to this root was interrupted; repeat `keyrail root migrate`, or take it away with `keyrail root remove`";
        return Some(text.to_owned());
    }
    let rehearsal = row.rehearsal_due(now).then_some(match row.rehearsed_at {
        Some(_) => "nobody has proved for 90 days that it opens the store: `keyrail root rehearse`",
        None => "nobody has proved yet that it opens the store: `keyrail root rehearse`",
    });
    let linked = (rotations_missed > 0).then_some(
        "it opens the store through a former root key, which opens the present one in every copy of this slot: deal new \
         shares, take it away, and rotate the root key once more",
    );
    let warnings: Vec<_> = rehearsal.into_iter().chain(linked).collect();
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

impl Operation for ShowRoot {
    const ACTION: Action = Action::SystemRead;
    type Loaded = Vec<RootSlotRow>;
    type Answer = RootView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().root_slots().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("root", None)
    }

    async fn act(_: &Authorized<Self>, rows: Self::Loaded, cx: &Context<'_>) -> Result<Acted<RootView>, EngineError> {
        let slots = rows.iter().map(|row| SlotView::of(row, cx.open.opened_by(), cx.now));
        Ok(Acted::new(RootView { slots: slots.collect::<Result<_, _>>()? }))
    }
}

/// Proves that a root opens the store, and notes when.
pub struct RehearseRoot {
    /// The root.
    pub root: RootSource,
    /// Where it may be.
    pub places: RootPlaces,
}

impl Operation for RehearseRoot {
    const ACTION: Action = Action::RootRehearse;
    type Loaded = Vec<RootSlotRow>;
    type Answer = SlotView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().root_slots().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("root", self.root.place())
    }

    async fn act(
        authorized: &Authorized<Self>,
        rows: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<SlotView>, EngineError> {
        let RehearseRoot { root, places } = authorized.op();
        if let RootSource::Spec(spec) = root {
            places.require(spec, cx.open)?;
        }
        let proved = async {
            let _turn = cx.open.root_turn().await?;
            let configured = || cx.open.configured_root();
            let opened = blocking(|| open_any(&rows, root.resolve(configured, PipeWait::Limited)?.as_ref()))?;
            require_live(opened, cx.open).await
        };
        let id = cx.once(ids_of(&rows), proved).await?;
        let row = rows.into_iter().find(|row| row.id == id).ok_or(EngineError::Bug { what: "a slot is gone" })?;
        let next = RootSlotRow { rehearsed_at: Some(cx.now), generation: row.generation + 1, ..row };
        let mut change = Change::new();
        change.update(&next);
        let view = SlotView::of(&next, cx.open.opened_by(), cx.now)?;
        let (slot, kind) = (view.id.clone(), view.kind.clone());
        Ok(Acted::new(view).change(change).detail("slot", slot).detail("root", kind))
    }
}

/// Refuses a slot that holds another root key than the one that the store works with.
pub(crate) async fn require_live((key, id): (RootKey, [u8; 16]), open: &Unsealed) -> Result<[u8; 16], EngineError> {
    if key.ct_eq(&*open.root().await?) { Ok(id) } else { Err(keyrail_seal::SealError::SlotDamaged.into()) }
}

/// Makes a recovery root, with new shares.
pub struct DealRecovery {
    /// How many shares there are, and how many of them open the store.
    pub spec: RecoverySpec,
    /// Whom each is encrypted to; none to have them in plaintext.
    pub recipients: Vec<Recipient>,
}

/// A new recovery root. Its shares are shown this once.
pub struct NewRecovery {
    /// Its slot.
    pub slot: SlotView,
    /// The shares.
    pub shares: Vec<DealtShare>,
}

impl DealRecovery {
    /// The new row, and the shares that open it.
    pub(crate) fn deal(&self, root: &RootKey, now: Timestamp) -> Result<(RootSlotRow, Vec<DealtShare>), EngineError> {
        let (slot, shares) = deal(self.spec, &self.recipients, root)?;
        let recipients = self.recipients.iter().map(ToString::to_string).collect();
        let row = RootSlotRow { recipients, ..new_row(&slot, SlotRole::Recovery, now) };
        Ok((row, shares))
    }
}

impl Operation for DealRecovery {
    const ACTION: Action = Action::RootDeal;
    const REPLAY: Replay = Replay::SecretAnswer;
    type Loaded = Vec<RootSlotRow>;
    type Answer = NewRecovery;

    fn fingerprint(&self) -> String {
        let recipients: Vec<_> = self.recipients.iter().map(ToString::to_string).collect();
        format!("{} {}", self.spec, recipients.join(" "))
    }

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
    ) -> Result<Acted<NewRecovery>, EngineError> {
        room_for_slot(&rows)?;
        let (row, shares) = authorized.op().deal(&*cx.open.root().await?, cx.now)?;
        let mut change = Change::new();
        change.insert(&row);
        let slot = SlotView::of(&row, cx.open.opened_by(), cx.now)?;
        let (id, set) = (slot.id.clone(), slot.shares.as_ref().map(|shares| shares.set.clone()));
        let acted = Acted::new(NewRecovery { slot, shares }).change(change).detail("slot", id);
        Ok(acted.detail("set", set.unwrap_or_default()).detail("recovery", authorized.op().spec))
    }
}

/// Takes a way to open the store away: a recovery root, one that the store was to be moved to, or what is kept of a void
/// one.
#[derive(Clone, Debug)]
pub struct RemoveRoot {
    /// The slot's id, in hex, as it was given.
    pub slot: String,
}

impl Operation for RemoveRoot {
    const ACTION: Action = Action::RootRemove;
    type Loaded = Vec<RootSlotRow>;
    type Answer = SlotView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().root_slots().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("root", self.slot.clone())
    }

    async fn act(
        authorized: &Authorized<Self>,
        rows: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<SlotView>, EngineError> {
        let name = &authorized.op().slot;
        let absent = || EngineError::NotFound { what: "root slot", name: name.clone() };
        let row = rows.into_iter().find(|row| hex::encode(row.id) == *name).ok_or_else(absent)?;
        if row.role == SlotRole::Primary || row.id == cx.open.opened_by() {
            return Err(EngineError::Invalid {
                problem: "this slot opens the store".to_owned(),
                hint: "move the store to another root with `keyrail root migrate`",
            });
        }
        if row.role == SlotRole::Pending {
            require_not_configured(&row, cx.open)?;
        }
        let view = SlotView::of(&row, cx.open.opened_by(), cx.now)?;
        let mut change = Change::new();
        change.delete(&row);
        let (role, kind) = (view.role, view.kind.clone());
        Ok(Acted::new(view).change(change).detail("role", role).detail("root", kind))
    }
}

/// Refuses to take away what the root that is written down opens: the next start would open nothing.
fn require_not_configured(row: &RootSlotRow, open: &Unsealed) -> Result<(), EngineError> {
    let rows = std::slice::from_ref(row);
    let opens =
        blocking(|| Ok::<_, EngineError>(slot_of(rows, open.configured_root()?.resolve()?.as_ref())?.is_some()));
    if opens? {
        return Err(EngineError::Invalid {
            problem: "the next start opens the store with this slot".to_owned(),
            hint: "start it once, which ends the move to this root",
        });
    }
    Ok(())
}
