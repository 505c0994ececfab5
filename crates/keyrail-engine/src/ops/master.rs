//! Master keys.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::MasterKeyId;
use keyrail_core::key::{MasterKey, MasterVersion};
use keyrail_core::lifecycle::{VersionEvent, VersionState, transition};
use keyrail_core::name::{EnvironmentPath, VersionNumber};
use keyrail_core::rotation::RotationReason;
use keyrail_core::time::Timestamp;
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::ops::app::new_master_version;
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::Unsealed;

/// A master key as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct MasterView {
    /// Its id.
    pub id: MasterKeyId,
    /// Domain and environment.
    pub environment: EnvironmentPath,
    /// Its versions.
    pub versions: Vec<MasterVersionView>,
}

/// A master key version as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct MasterVersionView {
    /// Its number.
    pub version: VersionNumber,
    /// Active wraps, deactivated unwraps only.
    pub state: VersionState,
    /// When it became active.
    pub activated_at: Timestamp,
    /// How many data key versions it still wraps.
    pub wraps: u64,
}

/// What an operation on a master key finds.
pub struct FoundMaster {
    key: Option<MasterKey>,
    versions: Vec<(MasterVersion, u64)>,
}

async fn find(path: &EnvironmentPath, open: &Unsealed) -> Result<FoundMaster, EngineError> {
    let none = FoundMaster { key: None, versions: Vec::new() };
    let Some(domain) = open.state().domain_by_name(&path.domain).await? else { return Ok(none) };
    let Some(key) = open.state().master_key(&domain.id, &path.environment).await? else { return Ok(none) };
    let mut versions = Vec::new();
    for version in open.state().master_versions(&key.id).await? {
        let wraps = open.state().count_wrapped_by(&version.id).await?;
        versions.push((version, wraps));
    }
    Ok(FoundMaster { key: Some(key), versions })
}

fn view(path: &EnvironmentPath, key: &MasterKey, versions: &[(MasterVersion, u64)]) -> MasterView {
    let version = |(row, wraps): &(MasterVersion, u64)| MasterVersionView {
        version: row.version,
        state: row.state,
        activated_at: row.activated_at,
        wraps: *wraps,
    };
    MasterView { id: key.id, environment: path.clone(), versions: versions.iter().map(version).collect() }
}

/// Looks at a master key.
#[derive(Clone, Debug)]
pub struct ShowMaster {
    /// Domain and environment.
    pub path: EnvironmentPath,
}

impl Operation for ShowMaster {
    const ACTION: Action = Action::MasterRead;
    type Loaded = FoundMaster;
    type Answer = MasterView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundMaster, EngineError> {
        find(&self.path, open).await
    }

    fn target(&self, _: &FoundMaster) -> Target {
        Target::service("environment", self.path.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundMaster,
        _: &Context<'_>,
    ) -> Result<Acted<MasterView>, EngineError> {
        let path = &authorized.op().path;
        let key = found.key.ok_or_else(|| EngineError::NotFound { what: "environment", name: path.to_string() })?;
        Ok(Acted::new(view(path, &key, &found.versions)))
    }
}

/// Makes a new active master key version; data keys are rewrapped in the background.
#[derive(Clone, Debug)]
pub struct RotateMaster {
    /// Domain and environment.
    pub path: EnvironmentPath,
    /// Why.
    pub reason: RotationReason,
}

impl Operation for RotateMaster {
    const ACTION: Action = Action::MasterRotate;
    type Loaded = FoundMaster;
    type Answer = MasterView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundMaster, EngineError> {
        find(&self.path, open).await
    }

    fn target(&self, _: &FoundMaster) -> Target {
        Target::service("environment", self.path.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundMaster,
        cx: &Context<'_>,
    ) -> Result<Acted<MasterView>, EngineError> {
        let op = authorized.op();
        let absent = || EngineError::NotFound { what: "environment", name: op.path.to_string() };
        let key = found.key.ok_or_else(absent)?;
        let mut change = Change::new();
        let mut versions = found.versions;
        for (row, _) in versions.iter_mut().filter(|(row, _)| row.state == VersionState::Active) {
            row.state = transition(row.state, VersionEvent::Deactivate).map_err(keyrail_core::key::KeyError::from)?;
            row.state_changed_at = cx.now;
            row.generation += 1;
            change.update(&*row);
        }
        let last = versions.iter().map(|(row, _)| row.version).max();
        let next =
            last.and_then(VersionNumber::next).ok_or(EngineError::Bug { what: "a master key without versions" })?;
        let added = new_master_version(key.id, next, &*cx.open.root().await?, cx.now)?;
        change.insert(&added);
        versions.push((added, 0));
        // Data keys need not wait for the next sweep to be rewrapped.
        cx.open.want_sweep();
        let acted = Acted::new(view(&op.path, &key, &versions)).change(change);
        Ok(acted.detail("version", next).detail("reason", op.reason))
    }
}
