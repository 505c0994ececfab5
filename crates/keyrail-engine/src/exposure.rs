//! The answer to an exposure of the root key: whoever has it, and any copy of the store, has every key of that copy. So
//! everything under it is declared exposed, and replaced.
//!
//! The first change does what must not wait: another root key, void shares, a new version of each master key. What the
//! master keys protected follows, a key at a time; until it is done, the exposed master key versions tell what is left, so
//! that a start goes on where a killed process stopped.

use std::sync::Arc;
use std::time::Duration;

use keyrail_core::access::Action;
use keyrail_core::key::{DataKeyVersion, Keyring, MasterVersion};
use keyrail_core::lifecycle::{VersionEvent, VersionState, transition};
use keyrail_core::name::{KeyName, KeyVersionName, VersionNumber};
use keyrail_core::system::{RootSlotRow, SlotRole, VOID_SLOTS_MAX};
use keyrail_core::time::Timestamp;
use keyrail_crypto::secret::RootKey;
use keyrail_seal::{RootSlot, SlotParameters};
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::keys;
use crate::ops::app::new_master_version;
use crate::ops::key::CompromiseVersion;
use crate::ops::root::{DealRecovery, NewRecovery, SlotView};
use crate::pipeline::{Acted, Context, Operation, Replay, Target, execute};
use crate::request::Caller;
use crate::root_key::{Beneath, RootKeys, move_primary, require_present};
use crate::roots::new_row;
use crate::scheduler;
use crate::unsealed::Unsealed;

/// How long the answer to an exposure waits for the keys to be replaced, in seconds; what is left then follows in the
/// background.
const REPLACE_SECONDS_MAX: u64 = 60;

/// How many keys with data to be moved the answer names.
const NAMED_KEYS_MAX: usize = 100;

/// How many keys the answer looks at.
const COUNTED_KEYS_MAX: usize = 20_000;

/// How many versions are declared exposed before other background work has its turn.
const MARKED_MAX: usize = 500;

/// How many rows are read at a time.
const PAGE_LEN: usize = 100;

/// The longest reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// An exposure of the root key, as somebody declares it.
pub struct Exposure {
    /// What happened, for the log.
    pub reason: Option<String>,
    /// The recovery root that takes the place of those that are void.
    pub recovery: Option<DealRecovery>,
}

/// What was done about an exposure of the root key, and what is to be done.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Answered {
    /// When it was declared.
    pub declared_at: Timestamp,
    /// The ways to open the store.
    pub slots: Vec<SlotView>,
    /// The sets of shares that are void from now on, by their ids.
    pub void_sets: Vec<String>,
    /// How many master keys have a new version.
    pub masters: usize,
    /// How many data keys have versions that are exposed. Each that was in use has a new version.
    pub keys: usize,
    /// How many versions that are.
    pub versions: usize,
    /// How many versions were not reached yet; they follow in the background.
    pub versions_left: u64,
    /// The data that is still under exposed versions, by key: none is safe until it is under a new one.
    pub to_move: Vec<ToMove>,
    /// How many keys with such data are not named here.
    pub to_move_more: usize,
    /// What else is exposed, or stays as it is, in words.
    pub remaining: Vec<String>,
}

/// Data that is under exposed versions of a key.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct ToMove {
    /// The key.
    pub key: KeyName,
    /// The assets that it protects; start a campaign for each.
    pub assets: Vec<String>,
}

/// Puts the opened store under another root key, and declares what the former one protected exposed.
///
/// # Errors
/// As [`crate::root_key::rotate`]; nothing is changed then.
pub(crate) async fn declare(
    open: &Arc<Unsealed>,
    caller: &Caller<'_>,
    exposure: Exposure,
) -> Result<Declared, EngineError> {
    let keys = RootKeys::next(open).await?;
    let next = keys.next.clone();
    let _turn = open.rotating().await;
    let declared = execute(open, caller, ExposeRoot { keys, exposure }).await?;
    open.set_root(next, declared.primary);
    Ok(declared)
}

/// Replaces what the master keys protected, as far as time is, and tells what is left. The exposure is answered: what
/// fails from here on is told in the log of the program, and tried again.
pub(crate) async fn replace(open: &Arc<Unsealed>, declared: Declared) -> (Answered, Option<NewRecovery>) {
    let Declared { mut view, recovery, .. } = declared;
    let replacing = async {
        while left(open).await? > 0 {
            scheduler::rewrap(open).await?;
        }
        Ok(())
    };
    let replaced = tokio::time::timeout(Duration::from_secs(REPLACE_SECONDS_MAX), replacing).await;
    let counted = summed_up(open, &mut view).await;
    if let Err(error) = replaced.unwrap_or(Ok(())).and(counted) {
        tracing::error!(error = %error, "keys under an exposed root key could not all be replaced; it is tried again");
        view.remaining.push("not all keys could be looked at: the log of the program says why".to_owned());
    }
    (view, recovery)
}

/// Puts the store under another root key, and declares what the former one protected exposed.
struct ExposeRoot {
    keys: RootKeys,
    exposure: Exposure,
}

/// What was declared, and what there is to tell of it.
pub(crate) struct Declared {
    primary: [u8; 16],
    view: Answered,
    recovery: Option<NewRecovery>,
}

impl Operation for ExposeRoot {
    const ACTION: Action = Action::RootExposed;
    const REPLAY: Replay = Replay::SecretAnswer;
    type Loaded = Beneath;
    type Answer = Declared;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Beneath, EngineError> {
        Beneath::load(open).await
    }

    fn target(&self, _: &Beneath) -> Target {
        Target::service("root", None)
    }

    fn fingerprint(&self) -> String {
        let recovery = self.exposure.recovery.as_ref().map(DealRecovery::fingerprint).unwrap_or_default();
        format!("{} {recovery}", self.exposure.reason.as_deref().unwrap_or_default())
    }

    async fn act(
        authorized: &Authorized<Self>,
        beneath: Beneath,
        cx: &Context<'_>,
    ) -> Result<Acted<Declared>, EngineError> {
        let Self { keys, exposure } = authorized.op();
        let reason = require_short(exposure.reason.as_deref())?;
        require_present(keys, cx.open).await?;
        let mut change = Change::new();
        let moved = async {
            let _turn = cx.open.root_turn().await?;
            move_primary(&beneath.slots, keys, cx)
        };
        let primary = cx.once(beneath.slots.clone(), moved).await?;
        let void = void_rows(&beneath.slots, cx.now, &mut change)?;
        change.insert(&primary);
        let dealt = exposure.recovery.as_ref().map(|asked| asked.deal(&keys.next, cx.now)).transpose()?;
        let mut slots = vec![SlotView::of(&primary, primary.id, cx.now)?];
        let mut recovery = None;
        if let Some((row, shares)) = dealt {
            change.insert(&row);
            let slot = SlotView::of(&row, primary.id, cx.now)?;
            slots.push(slot.clone());
            recovery = Some(NewRecovery { slot, shares });
        }
        beneath.move_secrets(keys, &mut change)?;
        let masters = replace_masters(&beneath.masters, keys, cx.now, &mut change)?;
        cx.open.want_sweep();
        let view = Answered::declared(cx, slots, void.clone(), masters);
        let acted = Acted::new(Declared { primary: primary.id, view, recovery }).change(change);
        let acted = acted.detail("reason", reason).detail("slot", hex::encode(primary.id)).detail("masters", masters);
        Ok(void.into_iter().fold(acted, |acted, set| acted.detail("void set", set)))
    }
}

fn require_short(reason: Option<&str>) -> Result<&str, EngineError> {
    let reason = reason.unwrap_or("not told");
    if reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        return Err(EngineError::Invalid {
            problem: format!("a reason is one line of at most {REASON_CHARS_MAX} characters"),
            hint: "say the rest where incidents are kept",
        });
    }
    Ok(reason)
}

/// Takes every way to open the store away but the new one. Of recovery roots it stays known which shares are void; gives
/// the ids of their sets.
fn void_rows(slots: &[RootSlotRow], now: Timestamp, change: &mut Change) -> Result<Vec<String>, EngineError> {
    let (mut kept, opened): (Vec<_>, Vec<_>) = slots.iter().partition(|row| row.role == SlotRole::Void);
    let mut sets = Vec::new();
    for row in opened {
        change.delete(row);
        let slot = RootSlot::from_bytes(&row.slot)?;
        if let SlotParameters::Shamir(set) = &slot.parameters {
            change.insert(&new_row(&slot.voided()?, SlotRole::Void, now));
            sets.push(hex::encode(set.id));
        }
    }
    kept.sort_by_key(|row| std::cmp::Reverse(row.created_at));
    kept.iter().skip(VOID_SLOTS_MAX.saturating_sub(sets.len())).for_each(|row| {
        change.delete(*row);
    });
    Ok(sets)
}

/// Declares every version of every master key exposed, and gives each key a new one. What they protect still opens.
fn replace_masters(
    rows: &[MasterVersion],
    keys: &RootKeys,
    now: Timestamp,
    change: &mut Change,
) -> Result<usize, EngineError> {
    let mut replaced = 0;
    for row in rows {
        let mut next = keys::rewrap_master_key(&keys.present, &keys.next, row)?;
        if row.state != VersionState::Compromised {
            next.state = transition(row.state, VersionEvent::Compromise).map_err(keyrail_core::key::KeyError::from)?;
            next.state_changed_at = now;
        }
        change.update(&next);
        if row.state.encrypts() {
            change.insert(&successor(rows, row, &keys.next, now)?);
            replaced += 1;
        }
    }
    Ok(replaced)
}

fn successor(
    rows: &[MasterVersion],
    row: &MasterVersion,
    root: &RootKey,
    now: Timestamp,
) -> Result<MasterVersion, EngineError> {
    let of_key = rows.iter().filter(|other| other.master_key == row.master_key);
    let last = of_key.map(|other| other.version).max().and_then(VersionNumber::next);
    new_master_version(
        row.master_key,
        last.ok_or(EngineError::Bug { what: "a master key without versions" })?,
        root,
        now,
    )
}

/// Declares every data key version that an exposed master key version wraps exposed, but those that are closed; keys that
/// were in use get a new version. One that fails is told, and the others are done. With very many it ends before.
///
/// # Errors
/// The first thing that failed.
pub(crate) async fn mark(open: &Arc<Unsealed>, master: &MasterVersion) -> Result<Marked, EngineError> {
    let (mut after, mut failed, mut marked) = (None, Ok(()), 0);
    loop {
        let rows = open.state().wrapped_by(&master.id, after.as_ref(), PAGE_LEN).await?;
        after = rows.last().map(|row| row.kid);
        for row in rows.iter().filter(|row| !is_marked(row)) {
            failed = failed.and(mark_version(open, row).await);
            marked += 1;
        }
        if rows.len() < PAGE_LEN {
            return failed.map(|()| Marked::All);
        }
        if marked >= MARKED_MAX {
            return failed.map(|()| Marked::Some);
        }
    }
}

/// How far [`mark`] came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Marked {
    /// To the end.
    All,
    /// Not to the end: other work has its turn first.
    Some,
}

/// Whether nothing is left to be told about the version. One that somebody closed stays closed, with its countdown: an
/// exposed version decrypts. It is declared exposed when it is opened again, see [`was_exposed`].
pub(crate) fn is_marked(row: &DataKeyVersion) -> bool {
    match row.state {
        VersionState::Suspended | VersionState::Retired | VersionState::Compromised | VersionState::Destroyed => true,
        VersionState::PreActive | VersionState::Active | VersionState::Deactivated => false,
    }
}

/// Whether the version was there when its master key was exposed, whatever wraps it now.
pub(crate) async fn was_exposed(open: &Unsealed, row: &DataKeyVersion) -> Result<bool, EngineError> {
    let missing = || EngineError::Bug { what: "a master key version is missing" };
    let wrapping = open.state().master_version(&row.wrapped_by).await?.ok_or_else(missing)?;
    let masters = open.state().master_versions(&wrapping.master_key).await?;
    let mut exposed = masters.iter().filter(|master| master.state == VersionState::Compromised);
    // One that is as it was made was never under another master key version.
    let moved = row.wrap_generation > 1;
    Ok(exposed.any(|master| master.id == row.wrapped_by || (moved && row.created_at <= master.state_changed_at)))
}

async fn mark_version(open: &Arc<Unsealed>, row: &DataKeyVersion) -> Result<(), EngineError> {
    let missing = || EngineError::Bug { what: "a version without a key" };
    let key = open.state().data_key(&row.key).await?.ok_or_else(missing)?;
    let name = KeyVersionName { key: open.state().key_name(&key).await?, version: row.version };
    let marked = execute(open, &Caller::system()?, CompromiseVersion { name }).await;
    let Err(error) = marked else { return Ok(()) };
    // Somebody else may have done it, or destroyed it, meanwhile.
    match open.state().data_key_version(&row.kid).await? {
        Some(row) if !is_marked(&row) => Err(error),
        _ => Ok(()),
    }
}

impl Answered {
    fn declared(cx: &Context<'_>, slots: Vec<SlotView>, void_sets: Vec<String>, masters: usize) -> Self {
        let size = cx.open.log().size();
        let mut remaining = vec![
            format!("backups and copies of the store from before record {size} of the log open with the exposed root key: destroy them"),
            "the exposed root key, with a copy of the store, gives the key of the row seals and the signing key of the log, which stay: an anchor shows what is done to the log".to_owned(),
            "if the root of trust itself is exposed (a key file, a passphrase), the new root key is, too: move to another one with `keyrail root migrate`, then run this once more".to_owned(),
            "keys that were exported or handed out are exposed where they are".to_owned(),
            "suspended and retired versions stay closed, and are exposed as well: one that is resumed or reinstated is declared exposed then".to_owned(),
        ];
        if slots.len() < 2 {
            remaining.push("there is no recovery root now: `keyrail root deal`".to_owned());
        }
        Self {
            declared_at: cx.now,
            slots,
            void_sets,
            masters,
            keys: 0,
            versions: 0,
            versions_left: 0,
            to_move: Vec::new(),
            to_move_more: 0,
            remaining,
        }
    }

    async fn count(&mut self, open: &Unsealed, name: KeyName, keyring: &Keyring) -> Result<(), EngineError> {
        let exposed = keyring.versions.iter().filter(|row| row.state == VersionState::Compromised).count();
        if exposed == 0 {
            return Ok(());
        }
        self.keys += 1;
        self.versions += exposed;
        if self.to_move.len() >= NAMED_KEYS_MAX {
            self.to_move_more += 1;
            return Ok(());
        }
        let assets = open.state().assets_of_key(&keyring.key.id).await?;
        let assets = assets.into_iter().map(|asset| asset.name.to_string()).collect();
        self.to_move.push(ToMove { key: name, assets });
        Ok(())
    }
}

/// How many data key versions are under an exposed master key version.
async fn left(open: &Unsealed) -> Result<u64, EngineError> {
    let mut count = 0;
    for master in open.state().master_keys().await? {
        for version in open.state().master_versions(&master.id).await? {
            if version.state == VersionState::Compromised {
                count += open.state().count_wrapped_by(&version.id).await?;
            }
        }
    }
    Ok(count)
}

/// Counts what is exposed now, and what is not reached yet.
async fn summed_up(open: &Unsealed, view: &mut Answered) -> Result<(), EngineError> {
    view.versions_left = left(open).await?;
    let (mut after, mut looked_at) = (None, 0);
    while looked_at < COUNTED_KEYS_MAX {
        let page = open.state().keyrings_page(None, after.as_ref(), PAGE_LEN).await?;
        looked_at += page.len();
        after = page.last().map(|(name, _)| name.clone());
        let whole = page.len() < PAGE_LEN;
        for (name, keyring) in page {
            view.count(open, name, &keyring).await?;
        }
        if whole {
            return Ok(());
        }
    }
    view.remaining.push(format!("only {COUNTED_KEYS_MAX} keys are counted here: `keyrail key list` has all of them"));
    Ok(())
}
