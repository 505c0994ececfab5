//! Apps, and the master key that comes with the first app of an environment.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::{AppId, MasterKeyId, MasterVersionId};
use keyrail_core::key::{App, Domain, MasterKey, MasterVersion};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{AppPath, VersionNumber};
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use keyrail_crypto::secret::{MasterKey as MasterKeyMaterial, RootKey};
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::keys;
use crate::ops::{APPS_MAX, room_for};
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::Unsealed;

/// Registers an app.
#[derive(Clone, Debug)]
pub struct CreateApp {
    /// Where it is.
    pub path: AppPath,
}

/// An app as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct AppView {
    /// Its id.
    pub id: AppId,
    /// Domain, environment and name.
    pub path: AppPath,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// What [`CreateApp`] finds.
pub struct Found {
    domain: Option<Domain>,
    app: Option<App>,
    master: Option<MasterKey>,
}

impl Operation for CreateApp {
    const ACTION: Action = Action::AppCreate;
    type Loaded = Found;
    type Answer = AppView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Found, EngineError> {
        let Some(domain) = open.state().domain_by_name(&self.path.environment.domain).await? else {
            return Ok(Found { domain: None, app: None, master: None });
        };
        let environment = &self.path.environment.environment;
        let app = open.state().app_by_name(&domain.id, environment, &self.path.app).await?;
        let master = open.state().master_key(&domain.id, environment).await?;
        Ok(Found { domain: Some(domain), app, master })
    }

    fn target(&self, _: &Found) -> Target {
        Target::of_app("app", self.path.to_string(), self.path.clone())
    }

    async fn act(
        authorized: &Authorized<Self>,
        loaded: Found,
        cx: &Context<'_>,
    ) -> Result<Acted<AppView>, EngineError> {
        let path = authorized.op().path.clone();
        let absent = || EngineError::NotFound { what: "domain", name: path.environment.domain.to_string() };
        let domain = loaded.domain.ok_or_else(absent)?;
        if loaded.app.is_some() {
            return Err(EngineError::Exists { what: "app", name: path.to_string() });
        }
        room_for(cx.open.state().count::<App>(Vec::new()).await?, "apps", APPS_MAX)?;
        let mut change = Change::new();
        if loaded.master.is_none() {
            let (key, version) = first_master(&domain, &path, &*cx.open.root().await?, cx)?;
            change.insert(&key);
            change.insert(&version);
        }
        let row = App {
            id: AppId::from_bytes(random::array()?),
            domain: domain.id,
            environment: path.environment.environment.clone(),
            name: path.app.clone(),
            created_at: cx.now,
            generation: 1,
        };
        change.insert(&row);
        Ok(Acted::new(AppView { id: row.id, path, created_at: row.created_at }).change(change))
    }
}

fn first_master(
    domain: &Domain,
    path: &AppPath,
    root: &RootKey,
    cx: &Context<'_>,
) -> Result<(MasterKey, MasterVersion), EngineError> {
    let key = MasterKey {
        id: MasterKeyId::from_bytes(random::array()?),
        domain: domain.id,
        environment: path.environment.environment.clone(),
        created_at: cx.now,
        generation: 1,
    };
    let version = new_master_version(key.id, VersionNumber::FIRST, root, cx.now)?;
    Ok((key, version))
}

/// A new active master key version with fresh material.
pub(crate) fn new_master_version(
    key: MasterKeyId,
    version: VersionNumber,
    root: &RootKey,
    now: Timestamp,
) -> Result<MasterVersion, EngineError> {
    let id = MasterVersionId::from_bytes(random::array()?);
    let material = MasterKeyMaterial::generate()?;
    let wrapped = keys::wrap_master_key(root, &material, &id, version, 1)?;
    Ok(MasterVersion {
        id,
        master_key: key,
        version,
        state: VersionState::Active,
        wrapped: Some(wrapped),
        wrap_generation: 1,
        activated_at: now,
        state_changed_at: now,
        generation: 1,
    })
}

/// Lists the apps.
#[derive(Clone, Debug)]
pub struct ListApps;

impl Operation for ListApps {
    const ACTION: Action = Action::AppList;
    type Loaded = (Vec<Domain>, Vec<App>);
    type Answer = Vec<AppView>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok((open.state().domains().await?, open.state().apps().await?))
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("apps", None)
    }

    async fn act(
        _: &Authorized<Self>,
        (domains, apps): Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        let views = apps.into_iter().filter_map(|row| {
            let domain = domains.iter().find(|domain| domain.id == row.domain)?.name.clone();
            let environment = keyrail_core::name::EnvironmentPath { domain, environment: row.environment };
            Some(AppView { id: row.id, path: AppPath { environment, app: row.name }, created_at: row.created_at })
        });
        Ok(Acted::new(views.collect()))
    }
}
