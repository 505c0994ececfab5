//! Labels.

use std::sync::Arc;

use keyrail_core::access::{Action, Role};
use keyrail_core::label::{ApprovalDemand, Demands, Label};
use keyrail_core::name::Name;
use keyrail_core::time::Timestamp;
use keyrail_crypto::suite::Suite;
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::ops::{LABELS_MAX, room_for};
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::Unsealed;

/// A label as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct LabelView {
    /// Its name.
    pub name: Name,
    /// The content algorithm of new data key versions.
    pub suite: String,
    /// See [`Demands::data_key_age_seconds_max`].
    pub data_key_age_seconds_max: Option<u64>,
    /// See [`Demands::data_key_uses_max`].
    pub data_key_uses_max: Option<u64>,
    /// See [`Demands::master_key_age_seconds_max`].
    pub master_key_age_seconds_max: Option<u64>,
    /// See [`Demands::cache_seconds_max`].
    pub cache_seconds_max: u64,
    /// See [`Demands::write_window_seconds`].
    pub write_window_seconds: u64,
    /// See [`Demands::campaign_deadline_seconds`].
    pub campaign_deadline_seconds: Option<u64>,
    /// See [`Demands::destroy_wait_seconds`].
    pub destroy_wait_seconds: u64,
    /// Who must approve a grave change. Shown only, until approvals exist.
    pub approval_role: Option<Role>,
    /// How many of them.
    pub approval_count: Option<u32>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of the label.
    pub generation: u64,
}

impl From<Label> for LabelView {
    fn from(row: Label) -> Self {
        let demands = row.demands;
        Self {
            name: row.name,
            suite: demands.suite.as_str().to_owned(),
            data_key_age_seconds_max: demands.data_key_age_seconds_max,
            data_key_uses_max: demands.data_key_uses_max,
            master_key_age_seconds_max: demands.master_key_age_seconds_max,
            cache_seconds_max: demands.cache_seconds_max,
            write_window_seconds: demands.write_window_seconds,
            campaign_deadline_seconds: demands.campaign_deadline_seconds,
            destroy_wait_seconds: demands.destroy_wait_seconds,
            approval_role: demands.approval.map(|approval| approval.role),
            approval_count: demands.approval.map(|approval| approval.count),
            updated_at: row.updated_at,
            generation: row.generation,
        }
    }
}

/// What to change of a label's demands. The outer `None` leaves a demand as it is, the inner one lifts it.
#[derive(Clone, Debug, Default)]
pub struct DemandsPatch {
    /// See [`Demands::suite`].
    pub suite: Option<Suite>,
    /// See [`Demands::data_key_age_seconds_max`].
    pub data_key_age_seconds_max: Option<Option<u64>>,
    /// See [`Demands::data_key_uses_max`].
    pub data_key_uses_max: Option<Option<u64>>,
    /// See [`Demands::master_key_age_seconds_max`].
    pub master_key_age_seconds_max: Option<Option<u64>>,
    /// See [`Demands::cache_seconds_max`].
    pub cache_seconds_max: Option<u64>,
    /// See [`Demands::write_window_seconds`].
    pub write_window_seconds: Option<u64>,
    /// See [`Demands::campaign_deadline_seconds`].
    pub campaign_deadline_seconds: Option<Option<u64>>,
    /// See [`Demands::destroy_wait_seconds`].
    pub destroy_wait_seconds: Option<u64>,
    /// See [`Demands::approval`].
    pub approval: Option<Option<ApprovalDemand>>,
}

impl DemandsPatch {
    fn apply(&self, demands: &Demands) -> Demands {
        let patch = self.clone();
        Demands {
            suite: patch.suite.unwrap_or(demands.suite),
            data_key_age_seconds_max: patch.data_key_age_seconds_max.unwrap_or(demands.data_key_age_seconds_max),
            data_key_uses_max: patch.data_key_uses_max.unwrap_or(demands.data_key_uses_max),
            master_key_age_seconds_max: patch.master_key_age_seconds_max.unwrap_or(demands.master_key_age_seconds_max),
            cache_seconds_max: patch.cache_seconds_max.unwrap_or(demands.cache_seconds_max),
            write_window_seconds: patch.write_window_seconds.unwrap_or(demands.write_window_seconds),
            campaign_deadline_seconds: patch.campaign_deadline_seconds.unwrap_or(demands.campaign_deadline_seconds),
            destroy_wait_seconds: patch.destroy_wait_seconds.unwrap_or(demands.destroy_wait_seconds),
            approval: patch.approval.unwrap_or(demands.approval),
        }
    }
}

/// Makes a label, or changes what it demands. A new label begins with the demands of `internal`.
#[derive(Clone, Debug)]
pub struct SetLabel {
    /// Its name.
    pub name: Name,
    /// What to change.
    pub patch: DemandsPatch,
}

impl Operation for SetLabel {
    const ACTION: Action = Action::LabelSet;
    type Loaded = Vec<Label>;
    type Answer = LabelView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().labels().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("label", self.name.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        labels: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<LabelView>, EngineError> {
        let SetLabel { name, patch } = authorized.op();
        let mut change = Change::new();
        let row = match labels.iter().find(|label| label.name == *name) {
            Some(label) => {
                cx.check_match(label.generation)?;
                let demands = patch.apply(&label.demands).checked()?;
                let row = Label { demands, updated_at: cx.now, generation: label.generation + 1, ..label.clone() };
                change.update(&row);
                row
            }
            None => {
                room_for(labels.len() as u64, "labels", LABELS_MAX)?;
                let base = labels.iter().find(|label| label.name.as_str() == "internal").or(labels.first());
                let base = base.ok_or(EngineError::Bug { what: "there is no label to begin with" })?;
                let demands = patch.apply(&base.demands).checked()?;
                let row = Label { name: name.clone(), demands, created_at: cx.now, updated_at: cx.now, generation: 1 };
                change.insert(&row);
                row
            }
        };
        // What the new demands make due need not wait for the next sweep.
        cx.open.want_sweep();
        let detail = format!("{:?}", row.demands);
        Ok(Acted::new(row.into()).change(change).detail("demands", detail))
    }
}

/// Lists the labels.
#[derive(Clone, Debug)]
pub struct ListLabels;

impl Operation for ListLabels {
    const ACTION: Action = Action::LabelRead;
    type Loaded = Vec<Label>;
    type Answer = Vec<LabelView>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().labels().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("labels", None)
    }

    async fn act(
        _: &Authorized<Self>,
        loaded: Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        Ok(Acted::new(loaded.into_iter().map(LabelView::from).collect()))
    }
}
