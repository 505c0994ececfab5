//! Domains.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::DomainId;
use keyrail_core::key::Domain;
use keyrail_core::name::Name;
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::ops::{DOMAINS_MAX, room_for};
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::Unsealed;

/// Makes a domain.
#[derive(Clone, Debug)]
pub struct CreateDomain {
    /// Its name.
    pub name: Name,
}

/// A domain as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct DomainView {
    /// Its id.
    pub id: DomainId,
    /// Its name.
    pub name: Name,
    /// When it was made.
    pub created_at: Timestamp,
}

impl From<Domain> for DomainView {
    fn from(row: Domain) -> Self {
        Self { id: row.id, name: row.name, created_at: row.created_at }
    }
}

impl Operation for CreateDomain {
    const ACTION: Action = Action::DomainCreate;
    type Loaded = Option<Domain>;
    type Answer = DomainView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().domain_by_name(&self.name).await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("domain", self.name.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        loaded: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<DomainView>, EngineError> {
        let name = authorized.op().name.clone();
        if loaded.is_some() {
            return Err(EngineError::Exists { what: "domain", name: name.to_string() });
        }
        room_for(cx.open.state().count::<Domain>(Vec::new()).await?, "domains", DOMAINS_MAX)?;
        let row = Domain { id: DomainId::from_bytes(random::array()?), name, created_at: cx.now, generation: 1 };
        let mut change = Change::new();
        change.insert(&row);
        Ok(Acted::new(row.into()).change(change))
    }
}

/// Lists the domains.
#[derive(Clone, Debug)]
pub struct ListDomains;

impl Operation for ListDomains {
    const ACTION: Action = Action::DomainList;
    type Loaded = Vec<Domain>;
    type Answer = Vec<DomainView>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().domains().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("domains", None)
    }

    async fn act(
        _: &Authorized<Self>,
        loaded: Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        Ok(Acted::new(loaded.into_iter().map(DomainView::from).collect()))
    }
}
