//! Data keys and their versions.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::DataKeyId;
use keyrail_core::key::{DataKey, DataKeyVersion, DestroyWait, Fence, KeyChange, KeyStatus, Keyring, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{KeyName, KeyVersionName, Name, VersionNumber};
use keyrail_core::record::VersionUse;
use keyrail_core::rotation::{RotationReason, due_reason};
use keyrail_core::time::Timestamp;
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::random;
use keyrail_crypto::secret::Exported;
use keyrail_crypto::suite::Suite;
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::exposure::was_exposed;
use crate::keys;
use crate::ops::{PAGE_LEN_MAX, put_key_change};
use crate::pipeline::{Acted, Context, Further, Operation, Replay, Target, replay_answer};
use crate::scheduler::facts;
use crate::unsealed::{OpenKey, Unsealed};

/// A data key as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct KeyView {
    /// Its id; every ciphertext is bound to it.
    pub id: DataKeyId,
    /// Its full name.
    pub name: KeyName,
    /// Its label.
    pub label: Name,
    /// Whether it is in use.
    pub status: KeyStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of the key and its versions; the ETag.
    pub generation: u64,
    /// Its versions, in the order of their numbers.
    pub versions: Vec<VersionView>,
}

/// A key version as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct VersionView {
    /// Its number.
    pub version: VersionNumber,
    /// Its id in every ciphertext, in hex.
    pub kid: String,
    /// What may be done with it.
    pub state: VersionState,
    /// Its content algorithm.
    pub suite: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last became active.
    pub activated_at: Option<Timestamp>,
    /// When its state last changed.
    pub state_changed_at: Timestamp,
    /// The countdown to its destruction.
    pub destroy: Option<DestroyView>,
    /// Since when the values under it are being counted, if a count is under way: somebody looks at its evidence, or it is
    /// to be retired or destroyed. Told to whoever looks at keys; the answer to a change has none.
    pub counting_since: Option<Timestamp>,
}

/// A countdown to destruction.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct DestroyView {
    /// How long it waits in all, in seconds.
    pub wait_seconds: u64,
    /// How much of that was observed, in seconds.
    pub observed_seconds: u64,
    /// Why it stands still, if it does.
    pub halted: Option<keyrail_core::key::DestroyHalt>,
}

impl From<DestroyWait> for DestroyView {
    fn from(wait: DestroyWait) -> Self {
        Self { wait_seconds: wait.wait_seconds, observed_seconds: wait.observed_seconds, halted: wait.halt }
    }
}

impl VersionView {
    fn of(row: &DataKeyVersion) -> Self {
        Self {
            version: row.version,
            kid: row.kid.to_string(),
            state: row.state,
            suite: row.suite.as_str().to_owned(),
            created_at: row.created_at,
            activated_at: row.activated_at,
            state_changed_at: row.state_changed_at,
            destroy: row.destroy.map(DestroyView::from),
            counting_since: None,
        }
    }
}

impl KeyView {
    pub(crate) fn of(name: &KeyName, keyring: &Keyring) -> Self {
        let key = &keyring.key;
        Self {
            id: key.id,
            name: name.clone(),
            label: key.label.clone(),
            status: key.status,
            created_at: key.created_at,
            updated_at: key.updated_at,
            generation: key.generation,
            versions: keyring.versions.iter().map(VersionView::of).collect(),
        }
    }

    /// As [`KeyView::of`], with the counts that are under way.
    fn with_counts(name: &KeyName, keyring: &Keyring, open: &Unsealed) -> Self {
        let mut view = Self::of(name, keyring);
        for (shown, row) in view.versions.iter_mut().zip(&keyring.versions) {
            shown.counting_since = open.counts.under_way_since(&row.kid);
        }
        view
    }
}

/// What an operation on a key finds.
pub type FoundKey = Option<Arc<OpenKey>>;

pub(crate) fn require(found: FoundKey, name: &KeyName) -> Result<Arc<OpenKey>, EngineError> {
    found.ok_or_else(|| EngineError::NotFound { what: "key", name: name.to_string() })
}

pub(crate) fn key_target(name: &KeyName) -> Target {
    Target::of_app("key", name.text(), name.app.clone())
}

fn version_target(name: &KeyVersionName) -> Target {
    Target::of_app("key", name.to_string(), name.key.app.clone())
}

/// Makes a data key with its first version.
#[derive(Clone, Debug)]
pub struct CreateKey {
    /// Its full name.
    pub name: KeyName,
    /// The label whose demands it keeps.
    pub label: Name,
}

/// What [`CreateKey`] finds.
pub struct FoundApp {
    key: FoundKey,
    app: Option<keyrail_core::key::App>,
    label: Option<Label>,
    master: Option<MasterVersion>,
}

impl Operation for CreateKey {
    const ACTION: Action = Action::KeyCreate;
    type Loaded = FoundApp;
    type Answer = KeyView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundApp, EngineError> {
        let path = &self.name.app.environment;
        let label = open.state().label_by_name(&self.label).await?;
        let Some(domain) = open.state().domain_by_name(&path.domain).await? else {
            return Ok(FoundApp { key: None, app: None, label, master: None });
        };
        Ok(FoundApp {
            key: open.key(&self.name).await?,
            app: open.state().app_by_name(&domain.id, &path.environment, &self.name.app.app).await?,
            label,
            master: open.state().active_master(&domain.id, &path.environment).await?,
        })
    }

    fn target(&self, _: &FoundApp) -> Target {
        key_target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        loaded: FoundApp,
        cx: &Context<'_>,
    ) -> Result<Acted<KeyView>, EngineError> {
        let CreateKey { name, label } = authorized.op();
        let app = loaded.app.ok_or_else(|| EngineError::NotFound { what: "app", name: name.app.to_string() })?;
        let label = loaded.label.ok_or_else(|| EngineError::NotFound { what: "label", name: label.to_string() })?;
        let master = loaded.master.ok_or(EngineError::Bug { what: "an app without a master key" })?;
        if loaded.key.is_some() {
            return Err(EngineError::Exists { what: "key", name: name.to_string() });
        }
        let key = DataKey {
            id: DataKeyId::from_bytes(random::array()?),
            app: app.id,
            name: name.key.clone(),
            label: label.name,
            status: KeyStatus::Enabled,
            created_at: cx.now,
            updated_at: cx.now,
            generation: 0,
        };
        let empty = Keyring { key, versions: Vec::new() };
        let unwrapped = cx.open.master(master.id).await?;
        let new = keys::new_data_key(&unwrapped, master.id, empty.next_version()?, label.demands.suite)?;
        let fence = Fence { now: cx.now, write_window_seconds: label.demands.write_window_seconds };
        let rows = empty.rotate(new, fence)?;
        let mut change = Change::new();
        change.insert(&rows.key);
        if let Some(row) = &rows.added {
            change.insert(row);
        }
        let keyring = empty.with(&rows);
        Ok(Acted::new(KeyView::of(name, &keyring))
            .versions(uses(&rows))
            .detail("label", &keyring.key.label)
            .change(change))
    }
}

/// The versions that a change touches, for its record.
fn uses(rows: &KeyChange) -> Vec<VersionUse> {
    let touched = rows.changed.iter().chain(&rows.added);
    touched.map(|row| VersionUse { version: row.version, kid: row.kid, count: 1, opened: false }).collect()
}

/// An answer with the keyring after a change.
pub(crate) fn changed(key: &OpenKey, rows: &KeyChange) -> Acted<KeyView> {
    let mut change = Change::new();
    put_key_change(&mut change, rows);
    let keyring = key.keyring.clone().with(rows);
    let mut acted = Acted::new(KeyView::of(&key.name, &keyring)).versions(uses(rows)).change(change);
    for row in &rows.changed {
        acted = acted.detail("state", format!("{}@{} is {}", key.name, row.version, row.state));
    }
    acted
}

/// Fresh material for the next version of a key, under the active master key version.
pub(crate) async fn next_version(
    key: &OpenKey,
    suite: Suite,
    cx: &Context<'_>,
) -> Result<keyrail_core::key::NewVersion, EngineError> {
    let environment = &key.name.app.environment;
    let domain = cx
        .open
        .state()
        .domain_by_name(&environment.domain)
        .await?
        .ok_or(EngineError::Bug { what: "a key without a domain" })?;
    let master = cx.open.state().active_master(&domain.id, &environment.environment).await?;
    let master = master.ok_or(EngineError::Bug { what: "a key without a master key" })?;
    let unwrapped = cx.open.master(master.id).await?;
    keys::new_data_key(&unwrapped, master.id, key.keyring.next_version()?, suite)
}

/// Looks at a key.
#[derive(Clone, Debug)]
pub struct ShowKey {
    /// Its full name.
    pub name: KeyName,
}

impl Operation for ShowKey {
    const ACTION: Action = Action::KeyRead;
    type Loaded = FoundKey;
    type Answer = KeyView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.name).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        key_target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<KeyView>, EngineError> {
        let key = require(found, &authorized.op().name)?;
        Ok(Acted::new(KeyView::with_counts(&key.name, &key.keyring, cx.open)))
    }
}

/// Lists keys by name, a page at a time.
#[derive(Clone, Debug)]
pub struct ListKeys {
    /// Only keys of this app.
    pub app: Option<keyrail_core::name::AppPath>,
    /// Only keys after this name.
    pub after: Option<KeyName>,
    /// How many at most.
    pub limit: usize,
}

/// A page of keys.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<KeyView>,
    /// Where the next page begins, if there is one.
    pub next: Option<KeyName>,
}

impl Operation for ListKeys {
    const ACTION: Action = Action::KeyRead;
    type Loaded = Vec<(KeyName, Keyring)>;
    type Answer = KeyPage;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        let limit = self.limit.clamp(1, PAGE_LEN_MAX);
        Ok(open.state().keyrings_page(self.app.as_ref(), self.after.as_ref(), limit + 1).await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        match &self.app {
            Some(app) => Target::of_app("app", app.to_string(), app.clone()),
            None => Target::service("keys", None),
        }
    }

    async fn act(
        authorized: &Authorized<Self>,
        mut loaded: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<KeyPage>, EngineError> {
        let limit = authorized.op().limit.clamp(1, PAGE_LEN_MAX);
        let more = loaded.len() > limit;
        loaded.truncate(limit);
        let next = loaded.last().filter(|_| more).map(|(name, _)| name.clone());
        let keys = loaded.iter().map(|(name, keyring)| KeyView::with_counts(name, keyring, cx.open)).collect();
        Ok(Acted::new(KeyPage { keys, next }))
    }
}

/// Makes a new active version.
#[derive(Clone, Debug)]
pub struct RotateKey {
    /// The key.
    pub name: KeyName,
    /// Why.
    pub reason: RotationReason,
}

impl Operation for RotateKey {
    const ACTION: Action = Action::KeyRotate;
    type Loaded = FoundKey;
    type Answer = KeyView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.name).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        key_target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<KeyView>, EngineError> {
        let op = authorized.op();
        let key = require(found, &op.name)?;
        cx.check_match(key.keyring.key.generation)?;
        let asked = Some(op.reason).filter(|reason| !reason.comes_of_demands());
        if let Some(active) = key.keyring.active() {
            let facts = facts(cx.open, active, &key.demands, asked).await?;
            if due_reason(&facts, cx.now).is_none() {
                return Ok(Acted::new(KeyView::of(&key.name, &key.keyring)));
            }
        }
        let rows = key.keyring.rotate(next_version(&key, key.demands.suite, cx).await?, key.fence(cx.now))?;
        Ok(changed(&key, &rows).detail("reason", op.reason))
    }
}

/// Gives a key another label. Its next version, made in the same change, is the first that keeps the new demands.
#[derive(Clone, Debug)]
pub struct RelabelKey {
    /// The key.
    pub name: KeyName,
    /// The new label.
    pub label: Name,
}

impl Operation for RelabelKey {
    const ACTION: Action = Action::KeyRelabel;
    type Loaded = (FoundKey, Option<Label>);
    type Answer = KeyView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok((open.key(&self.name).await?, open.state().label_by_name(&self.label).await?))
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        key_target(&self.name)
    }

    // For this key it is what changing its label would be.
    fn further(&self, (found, label): &Self::Loaded) -> Option<Further> {
        let (key, label) = (found.as_ref()?, label.as_ref()?);
        let looser = key.keyring.key.label != label.name && key.demands.loosened_by(&label.demands).is_some();
        looser.then_some(Further { action: Action::LabelSet, because: LOOSER })
    }

    async fn act(
        authorized: &Authorized<Self>,
        (found, label): Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<KeyView>, EngineError> {
        let op = authorized.op();
        let key = require(found, &op.name)?;
        cx.check_match(key.keyring.key.generation)?;
        let label = label.ok_or_else(|| EngineError::NotFound { what: "label", name: op.label.to_string() })?;
        if key.keyring.key.label == label.name {
            return Ok(Acted::new(KeyView::of(&key.name, &key.keyring)));
        }
        let mut keyring = key.keyring.clone();
        keyring.key.label = label.name.clone();
        // What is fenced was handed out under the former label.
        let rows = keyring.rotate(next_version(&key, label.demands.suite, cx).await?, key.fence(cx.now))?;
        let acted = changed(&key, &rows).detail("reason", RotationReason::Label);
        Ok(acted.detail("label", format!("{} instead of {}", label.name, key.keyring.key.label)))
    }
}

/// Why not everybody who may relabel a key may give it every label.
const LOOSER: &str = "the new label demands less than the present one, which takes the right to change labels";

/// What can happen to a version with nothing but a change of its state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VersionMove {
    /// Suspend it; suspending the active one disables the key.
    Suspend,
    /// Resume it.
    Resume,
    /// Declare it exposed; the active one is replaced in the same change.
    Compromise,
    /// Bring it back from retirement.
    Reinstate,
}

macro_rules! version_moves {
    ($($(#[$meta:meta])* $name:ident, $action:ident, $move:ident;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name {
            /// The version.
            pub name: KeyVersionName,
        }

        impl Operation for $name {
            const ACTION: Action = Action::$action;
            type Loaded = FoundKey;
            type Answer = KeyView;
            replay_answer!();

            async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
                open.key(&self.name.key).await
            }

            fn target(&self, _: &FoundKey) -> Target {
                version_target(&self.name)
            }

            async fn act(authorized: &Authorized<Self>, found: FoundKey, cx: &Context<'_>) -> Result<Acted<KeyView>, EngineError> {
                move_version(&authorized.op().name, VersionMove::$move, found, cx).await
            }
        }
    )+};
}

version_moves! {
    /// Suspends a version.
    SuspendVersion, KeySuspend, Suspend;
    /// Resumes a suspended version.
    ResumeVersion, KeyResume, Resume;
    /// Declares a version exposed.
    CompromiseVersion, KeyCompromise, Compromise;
    /// Brings a retired version back to decrypt.
    ReinstateVersion, KeyReinstate, Reinstate;
}

async fn move_version(
    name: &KeyVersionName,
    to: VersionMove,
    found: FoundKey,
    cx: &Context<'_>,
) -> Result<Acted<KeyView>, EngineError> {
    let key = require(found, &name.key)?;
    cx.check_match(key.keyring.key.generation)?;
    let keyring = &key.keyring;
    let to = if opens_exposed(keyring.version(name.version)?, to, cx).await? { VersionMove::Compromise } else { to };
    let rows = match to {
        VersionMove::Suspend => keyring.suspend(name.version, cx.now)?,
        VersionMove::Resume => keyring.resume(name.version, cx.now)?,
        VersionMove::Reinstate => keyring.reinstate(name.version, cx.now)?,
        VersionMove::Compromise if keyring.needs_replacement(name.version) => {
            let replacement = next_version(&key, key.demands.suite, cx).await?;
            keyring.compromise(name.version, Some(replacement), key.fence(cx.now))?
        }
        VersionMove::Compromise => keyring.compromise(name.version, None, key.fence(cx.now))?,
    };
    Ok(changed(&key, &rows))
}

/// Whether the move gives a version back that was closed while its master key was exposed: it may be opened to move its
/// data, and never encrypts again.
async fn opens_exposed(version: &DataKeyVersion, to: VersionMove, cx: &Context<'_>) -> Result<bool, EngineError> {
    let opens = matches!(
        (version.state, to),
        (VersionState::Suspended, VersionMove::Resume) | (VersionState::Retired, VersionMove::Reinstate)
    );
    Ok(opens && was_exposed(cx.open, version).await?)
}

/// Takes the key material of a version out.
#[derive(Clone, Debug)]
pub struct ExportVersion {
    /// The version.
    pub name: KeyVersionName,
}

/// Exported key material, with all that a COSE library needs.
pub struct ExportedKey {
    /// The version's id, as it stands in every ciphertext.
    pub kid: Kid,
    /// The data key's id, part of every ciphertext's external AAD.
    pub key_id: DataKeyId,
    /// The version's content algorithm.
    pub suite: Suite,
    /// The material.
    pub material: Exported,
}

impl Operation for ExportVersion {
    const ACTION: Action = Action::KeyExport;
    const REPLAY: Replay = Replay::Never;
    type Loaded = FoundKey;
    type Answer = ExportedKey;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.name.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        version_target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<ExportedKey>, EngineError> {
        let name = &authorized.op().name;
        let key = require(found, &name.key)?;
        let version = key.keyring.version(name.version)?;
        let permit = version
            .for_decrypt()
            .map_err(|refusal| EngineError::VersionUnusable { version: refusal.version, state: refusal.state })?;
        let material = cx.open.unwrap_data_key(permit.version()).await?.danger_export()?;
        let used = VersionUse { version: version.version, kid: version.kid, count: 1, opened: false };
        let exported = ExportedKey { kid: version.kid, key_id: version.key, suite: version.suite, material };
        Ok(Acted::new(exported).version(used))
    }
}
