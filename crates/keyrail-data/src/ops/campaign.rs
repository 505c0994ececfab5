//! Starting, planning and steering campaigns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyrail_core::access::Action;
use keyrail_core::campaign::{Campaign, CampaignCounts, CampaignEvent, CampaignKind, CampaignState, transition};
use keyrail_core::id::CampaignId;
use keyrail_core::key::{DataKeyVersion, Keyring};
use keyrail_core::name::{KeyName, Name, VersionNumber};
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use keyrail_engine::ops::put_key_change;
use keyrail_engine::{
    Acted, Authorized, Context, EngineError, Further, Operation, Scope, Target, Unsealed, replay_answer,
};
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::adapter::{self, AssetSpec, Severity};
use crate::cells::Goal;
use crate::keyset::Keyset;
use crate::mover::{Rehearsed, rehearse};
use crate::ops::asset::{CensusView, MisfitView, inspect};
use crate::ops::{Loaded, census_of, load, load_row, require, target};

/// The highest rate that can be asked for, in rows per second.
pub const RATE_MAX: u32 = 10_000_000;

/// A campaign as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct CampaignView {
    /// Its id.
    pub id: CampaignId,
    /// The asset.
    pub asset: Name,
    /// What it does.
    pub kind: CampaignKind,
    /// The version that values end under; none for plaintext.
    pub target: Option<VersionNumber>,
    /// How far it is.
    pub state: CampaignState,
    /// The most rows per second.
    pub rate: Option<u32>,
    /// Rows of the table when it began.
    pub rows_total: u64,
    /// Rows that were looked at in this walk.
    pub rows: u64,
    /// Values that were moved.
    pub moved: u64,
    /// Rows that somebody else wrote in between, and that were tried again.
    pub cas_lost: u64,
    /// Values that do not open, as seen in this walk.
    pub damaged: u64,
    /// Bytes of data that went through.
    pub bytes: u64,
    /// Walks over the table that are complete.
    pub passes: u32,
    /// Time spent on pages, in milliseconds.
    pub busy_millis: u64,
    /// Why it stopped, if it did.
    pub error: Option<String>,
    /// Who started it.
    pub started_by: String,
    /// When.
    pub started_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was complete.
    pub finished_at: Option<Timestamp>,
    /// Who resumed it last, if somebody did.
    pub resumed_by: Option<String>,
    /// Where the plaintext that it overwrote may still be, and why: what could not be scrubbed when it ended, then what no
    /// database can scrub. Empty if it overwrote none.
    pub not_scrubbed: Vec<String>,
}

impl CampaignView {
    /// The view of a campaign, with the names of what it belongs to.
    pub fn of(row: &Campaign, asset: &Name, target: Option<VersionNumber>) -> Self {
        let counts = &row.counts;
        Self {
            id: row.id,
            asset: asset.clone(),
            kind: row.kind,
            target,
            state: row.state,
            rate: row.rows_per_second_max,
            rows_total: counts.rows_total,
            rows: counts.rows,
            moved: counts.cells_moved,
            cas_lost: counts.cas_lost,
            damaged: counts.damaged,
            bytes: counts.bytes,
            passes: counts.passes,
            busy_millis: counts.busy_millis,
            error: row.error_code.clone(),
            started_by: row.started_by.clone(),
            started_at: row.started_at,
            updated_at: row.updated_at,
            finished_at: row.finished_at,
            resumed_by: row.resumed_by.clone(),
            not_scrubbed: row.not_scrubbed.clone(),
        }
    }
}

async fn view(open: &Unsealed, row: &Campaign, asset: &Name) -> Result<CampaignView, EngineError> {
    let version = match &row.target {
        Some(kid) => open.state().data_key_version(kid).await?.map(|version| version.version),
        None => None,
    };
    Ok(CampaignView::of(row, asset, version))
}

/// What a campaign is started with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The asset.
    pub asset: Name,
    /// The most rows per second.
    pub rate: Option<u32>,
}

macro_rules! starts {
    ($($(#[$meta:meta])* $name:ident, $action:ident, $kind:ident;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name(pub Start);

        impl Operation for $name {
            const ACTION: Action = Action::$action;
            type Loaded = Option<Loaded>;
            type Answer = CampaignView;
            replay_answer!();

            async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
                load(open, &self.0.asset).await
            }

            fn target(&self, found: &Self::Loaded) -> Target {
                target(found.as_ref(), &self.0.asset)
            }

            async fn act(authorized: &Authorized<Self>, found: Self::Loaded, cx: &Context<'_>) -> Result<Acted<CampaignView>, EngineError> {
                let start_of = &authorized.op().0;
                start(start_of, CampaignKind::$kind, found, authorized.principal().label(), cx).await
            }
        }
    )+};
}

starts! {
    /// Starts to encrypt an asset in place.
    Protect, AssetProtect, Protect;
    /// Starts to put an asset under the active version of its key.
    Reencrypt, CampaignStart, Reencrypt;
    /// Starts to put plaintext back into an asset; needs the right to decrypt.
    Unprotect, AssetUnprotect, Unprotect;
}

async fn start(
    op: &Start,
    kind: CampaignKind,
    found: Option<Loaded>,
    started_by: String,
    cx: &Context<'_>,
) -> Result<Acted<CampaignView>, EngineError> {
    let loaded = require(found, &op.asset)?;
    if op.rate.is_some_and(|rate| rate == 0 || rate > RATE_MAX) {
        return Err(EngineError::Invalid {
            problem: format!("a rate is from 1 to {RATE_MAX} rows per second"),
            hint: "choose another --rate",
        });
    }
    check_none_open(cx.open, &loaded.asset.id, None).await?;
    let fit = inspect(&loaded.asset, &loaded.columns).await?;
    if let Some(misfit) =
        fit.misfits.iter().find(|misfit| kind == CampaignKind::Protect && misfit.severity == Severity::Refusal)
    {
        let error = crate::AssetError::Unfit { problem: misfit.problem.clone(), hint: misfit.hint.clone() };
        return Err(error.into_engine(op.asset.as_str()));
    }
    let keys = Keyset::load(cx.open, &loaded.key).await?;
    let target = match kind {
        CampaignKind::Unprotect => None,
        _ => Some(*keys.active()?.kid),
    };
    let row = Campaign {
        id: CampaignId::from_bytes(random::array()?),
        asset: loaded.asset.id,
        kind,
        target,
        state: CampaignState::Running,
        cursor: None,
        rows_per_second_max: op.rate,
        counts: CampaignCounts { rows_total: fit.rows, ..CampaignCounts::default() },
        error_code: None,
        started_by,
        started_at: cx.now,
        updated_at: cx.now,
        finished_at: None,
        generation: 1,
        // Also where another campaign or a writer encrypted everything before.
        scrub_due: kind == CampaignKind::Protect,
        not_scrubbed: Vec::new(),
        resumed_by: None,
    };
    let mut change = Change::new();
    change.insert(&row);
    let shown = view(cx.open, &row, &op.asset).await?;
    Ok(Acted::new(shown).change(change).asset(&op.asset).detail("campaign", row.id).detail("kind", kind))
}

/// One asset has one unfinished campaign at most.
async fn check_none_open(
    open: &Unsealed,
    asset: &keyrail_core::id::AssetId,
    but: Option<&CampaignId>,
) -> Result<(), EngineError> {
    let others = open.state().campaigns_of(asset).await?;
    match others.iter().find(|row| row.state != CampaignState::Completed && Some(&row.id) != but) {
        Some(other) => {
            Err(EngineError::Exists { what: "an unfinished campaign on the asset,", name: other.id.to_string() })
        }
        None => Ok(()),
    }
}

/// What a campaign that is planned would move values to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanGoal {
    /// The active version of the key, as protecting and re-encrypting do.
    #[default]
    Active,
    /// Plaintext, as unprotecting does.
    Plaintext,
}

/// Tells what a campaign would do, and how long it would take; nothing is changed. A page is really opened and written,
/// and taken back: to plan putting plaintext back needs the right to decrypt, as doing it does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The asset.
    pub asset: Name,
    /// The most rows per second.
    pub rate: Option<u32>,
    /// Where values would go.
    pub goal: PlanGoal,
}

/// What a campaign would do.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct PlanView {
    /// What the asset holds now.
    pub census: CensusView,
    /// The version that values would end under; none for plaintext.
    pub target: Option<VersionNumber>,
    /// Rows that would be looked at.
    pub rows: u64,
    /// Values that would move.
    pub values: u64,
    /// Bytes of data that would go through, estimated from a sample.
    pub bytes: u64,
    /// Seconds that it would take: reading, sealing, opening and writing, estimated from a page that was written
    /// and taken back, and the census at the end, which was just taken.
    pub seconds: f64,
    /// What does not fit.
    pub misfits: Vec<MisfitView>,
}

/// How many rows a plan is estimated from.
const SAMPLE_ROWS: usize = 500;

impl Operation for Plan {
    const ACTION: Action = Action::AssetCensus;
    type Loaded = Option<Loaded>;
    type Answer = PlanView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        load(open, &self.asset).await
    }

    fn target(&self, found: &Self::Loaded) -> Target {
        target(found.as_ref(), &self.asset)
    }

    fn further(&self, _: &Self::Loaded) -> Option<Further> {
        let because = "the dry run is one of putting plaintext back, and the role does not include that";
        (self.goal == PlanGoal::Plaintext).then_some(Further { action: Action::AssetUnprotect, because })
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<PlanView>, EngineError> {
        let op = authorized.op();
        let loaded = require(found, &op.asset)?;
        let key = cx.open.key(&loaded.key).await?.map(|key| key.keyring.key.generation);
        let accepted = cx.open.state().accepted_of(&loaded.asset.id).await?;
        let about = (loaded.asset.clone(), loaded.columns.clone(), accepted, key);
        let view = cx.once(about, op.plan(cx.open, &loaded)).await?;
        Ok(Acted::new(view).asset(&op.asset))
    }
}

impl Plan {
    async fn plan(&self, open: &Arc<Unsealed>, loaded: &Loaded) -> Result<PlanView, EngineError> {
        let fit = inspect(&loaded.asset, &loaded.columns).await?;
        let begun = Instant::now();
        let (keys, census) = census_of(open, &loaded.asset, &loaded.key).await?;
        let counting = begun.elapsed().as_secs_f64();
        let disabled = || keyrail_core::key::KeyError::Disabled { name: loaded.key.key.clone() };
        let target = match self.goal {
            PlanGoal::Active => Some(keys.keyring().active().ok_or_else(disabled)?),
            PlanGoal::Plaintext => None,
        };
        let (target, values) = (target.map(|row| row.version), census.left(target.map(|row| &row.kid)));
        let shown = CensusView::of(&self.asset, &keys, &census);
        let (sample, elapsed) = sample(loaded, keys, self.goal).await?;
        let per_row = if sample.rows == 0 { 0.0 } else { elapsed.as_secs_f64() / sample.rows as f64 };
        let unbound = census.rows as f64 * per_row;
        let bound = self.rate.map_or(0.0, |rate| census.rows as f64 / f64::from(rate.max(1)));
        let found = fit.misfits.into_iter().map(|misfit| MisfitView { problem: misfit.problem, hint: misfit.hint });
        let refused = sample.refused.map(|error| MisfitView { problem: error.to_string(), hint: error.hint() });
        Ok(PlanView {
            census: shown,
            target,
            rows: census.rows,
            values,
            bytes: sample.bytes.saturating_mul(census.rows).checked_div(sample.rows).unwrap_or(0),
            seconds: unbound.max(bound) + counting,
            misfits: found.chain(refused).collect(),
        })
    }
}

async fn sample(loaded: &Loaded, keys: Keyset, goal: PlanGoal) -> Result<(Rehearsed, Duration), EngineError> {
    let name = loaded.asset.name.to_string();
    let spec = AssetSpec::of(&loaded.asset, &loaded.columns).map_err(|error| error.into_engine(&name))?;
    let taken = tokio::task::spawn_blocking(move || {
        let mut adapter = adapter::open(&spec)?;
        let begun = Instant::now();
        let goal = match (goal, keys.active()) {
            (PlanGoal::Plaintext, _) => Some(Goal::Plaintext),
            (PlanGoal::Active, active) => active.ok().map(Goal::Under),
        };
        let sample = match goal {
            Some(goal) => rehearse(adapter.as_mut(), &spec, &keys, goal, SAMPLE_ROWS)?,
            None => Rehearsed::default(),
        };
        Ok((sample, begun.elapsed()))
    });
    let taken = taken.await.map_err(|_| EngineError::Bug { what: "a sample ended by a panic" })?;
    taken.map_err(|error: crate::AssetError| error.into_engine(&name))
}

/// A campaign with its asset.
pub struct LoadedCampaign {
    campaign: Campaign,
    loaded: Loaded,
}

async fn load_campaign(open: &Unsealed, id: &CampaignId) -> Result<Option<LoadedCampaign>, EngineError> {
    let Some(campaign) = open.state().campaign(id).await? else { return Ok(None) };
    let asset =
        open.state().asset(&campaign.asset).await?.ok_or(EngineError::Bug { what: "a campaign without an asset" })?;
    Ok(Some(LoadedCampaign { campaign, loaded: load_row(open, asset).await? }))
}

fn campaign_target(found: Option<&LoadedCampaign>, id: &CampaignId) -> Target {
    let scope = Scope::of_app_or_elsewhere(found.map(|found| found.loaded.key.app.clone()));
    Target { what: "campaign", name: Some(id.to_string()), scope }
}

fn require_campaign(found: Option<LoadedCampaign>, id: &CampaignId) -> Result<LoadedCampaign, EngineError> {
    found.ok_or_else(|| EngineError::NotFound { what: "campaign", name: id.to_string() })
}

macro_rules! on_campaign {
    ($($(#[$meta:meta])* $name:ident, $action:ident, $act:path $(, further $further:path)?;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name {
            /// The campaign.
            pub id: CampaignId,
        }

        impl Operation for $name {
            const ACTION: Action = Action::$action;
            type Loaded = Option<LoadedCampaign>;
            type Answer = CampaignView;
            replay_answer!();

            async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
                load_campaign(open, &self.id).await
            }

            $(fn further(&self, found: &Self::Loaded) -> Option<Further> {
                $further(found.as_ref())
            })?

            fn target(&self, found: &Self::Loaded) -> Target {
                campaign_target(found.as_ref(), &self.id)
            }

            async fn act(authorized: &Authorized<Self>, found: Self::Loaded, cx: &Context<'_>) -> Result<Acted<CampaignView>, EngineError> {
                let found = require_campaign(found, &authorized.op().id)?;
                let by = authorized.principal().label();
                $act(found, by, cx).await
            }
        }
    )+};
}

on_campaign! {
    /// Tells how far a campaign is.
    ShowCampaign, CampaignRead, show;
    /// Pauses a campaign after its page.
    Pause, CampaignControl, pause;
    /// Lets a campaign go on where it was; one that is running is left as it is. Going on with putting plaintext back
    /// needs the right to decrypt, as beginning it does: there may be more to decrypt than there was then.
    Resume, CampaignControl, resume, further unprotecting;
    /// Makes the version before a campaign's target active again, and moves the data back.
    Rollback, CampaignRollback, rollback;
}

async fn show(found: LoadedCampaign, _: String, cx: &Context<'_>) -> Result<Acted<CampaignView>, EngineError> {
    Ok(Acted::new(view(cx.open, &found.campaign, &found.loaded.asset.name).await?))
}

async fn pause(found: LoadedCampaign, _: String, cx: &Context<'_>) -> Result<Acted<CampaignView>, EngineError> {
    turn(found, CampaignEvent::Pause, cx).await
}

fn unprotecting(found: Option<&LoadedCampaign>) -> Option<Further> {
    let because = "the campaign puts plaintext back, and the role does not include that";
    let unprotects = found.is_some_and(|found| found.campaign.kind == CampaignKind::Unprotect);
    unprotects.then_some(Further { action: Action::AssetUnprotect, because })
}

async fn resume(mut found: LoadedCampaign, by: String, cx: &Context<'_>) -> Result<Acted<CampaignView>, EngineError> {
    if found.campaign.state == CampaignState::Running {
        // Its process was killed, or it runs: it goes on by itself.
        return show(found, by, cx).await;
    }
    found.campaign.resumed_by = Some(by);
    turn(found, CampaignEvent::Resume, cx).await
}

async fn turn(
    found: LoadedCampaign,
    event: CampaignEvent,
    cx: &Context<'_>,
) -> Result<Acted<CampaignView>, EngineError> {
    let state = transition(found.campaign.state, event)?;
    let former = found.campaign;
    let row = Campaign { state, error_code: None, updated_at: cx.now, generation: former.generation + 1, ..former };
    let name = &found.loaded.asset.name;
    let mut change = Change::new();
    change.update(&row);
    let shown = view(cx.open, &row, name).await?;
    Ok(Acted::new(shown).change(change).asset(name).detail("campaign", row.id).detail("state", state))
}

async fn rollback(found: LoadedCampaign, by: String, cx: &Context<'_>) -> Result<Acted<CampaignView>, EngineError> {
    let LoadedCampaign { campaign, loaded } = found;
    check_none_open(cx.open, &loaded.asset.id, Some(&campaign.id)).await?;
    let invalid = |problem: &str, hint| EngineError::Invalid { problem: problem.to_owned(), hint };
    let Some(target) = campaign.target else {
        return Err(invalid(
            "an unprotect campaign has no former version",
            "protect the asset again with `keyrail asset protect`",
        ));
    };
    let key = cx.open.key(&loaded.key).await?.ok_or(EngineError::Bug { what: "an asset without a key" })?;
    let keyring = &key.keyring;
    let target = keyring.by_kid(&target).ok_or(EngineError::Bug { what: "a campaign towards nothing" })?;
    let turned_since = keyring.active().is_some_and(|active| active.kid != target.kid);
    if campaign.state == CampaignState::Completed && turned_since {
        return Err(invalid(
            "the key has turned again since this campaign",
            "roll back the newest campaign, or start one with `keyrail campaign start`",
        ));
    }
    let former = active_before(keyring, target).ok_or_else(|| {
        invalid("the key has no version before the campaign's", "take the asset out with `keyrail asset unprotect`")
    })?;
    // The lifecycle refuses a version that is compromised, retired or destroyed.
    let rows = keyring.activate_former(former.version, key.fence(cx.now))?;
    let turned = turned_around(&campaign, former.kid, by, cx)?;
    let mut change = Change::new();
    put_key_change(&mut change, &rows);
    if turned.generation == 1 {
        change.insert(&turned)
    } else {
        change.update(&turned)
    };
    let shown = view(cx.open, &turned, &loaded.asset.name).await?;
    let acted = Acted::new(shown).change(change).asset(&loaded.asset.name);
    Ok(acted.detail("campaign", turned.id).detail("to", format!("{}@{}", loaded.key, former.version)))
}

/// The version that was active before this one became so. Numbers do not tell: a rollback makes an older one active.
fn active_before<'a>(keyring: &'a Keyring, target: &DataKeyVersion) -> Option<&'a DataKeyVersion> {
    // Within one millisecond the number decides.
    let since = |row: &DataKeyVersion| (row.activated_at, row.version);
    keyring
        .versions
        .iter()
        .filter(|row| row.activated_at.is_some() && since(row) < since(target))
        .max_by_key(|row| since(row))
}

/// The campaign the other way: the same one if it is unfinished, else a new one.
fn turned_around(
    campaign: &Campaign,
    target: keyrail_crypto::envelope::Kid,
    by: String,
    cx: &Context<'_>,
) -> Result<Campaign, EngineError> {
    let unfinished = campaign.state != CampaignState::Completed;
    // What the same campaign overwrote before is scrubbed by it now; one that is complete was scrubbed.
    let (scrub_due, not_scrubbed) =
        if unfinished { (campaign.is_scrub_due(), campaign.not_scrubbed.clone()) } else { (false, Vec::new()) };
    let (id, generation) =
        if unfinished { (campaign.id, campaign.generation + 1) } else { (CampaignId::from_bytes(random::array()?), 1) };
    Ok(Campaign {
        id,
        kind: CampaignKind::Rollback,
        target: Some(target),
        state: CampaignState::Running,
        cursor: None,
        counts: CampaignCounts { rows_total: campaign.counts.rows_total, ..CampaignCounts::default() },
        error_code: None,
        started_by: by,
        started_at: cx.now,
        updated_at: cx.now,
        finished_at: None,
        generation,
        scrub_due,
        not_scrubbed,
        resumed_by: None,
        ..campaign.clone()
    })
}

/// Lists the campaigns, newest first.
#[derive(Clone, Copy, Debug)]
pub struct ListCampaigns;

impl Operation for ListCampaigns {
    const ACTION: Action = Action::CampaignRead;
    type Loaded = Vec<CampaignView>;
    type Answer = Vec<CampaignView>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        let mut rows = open.state().campaigns().await?;
        rows.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.id)));
        let mut views = Vec::with_capacity(rows.len());
        for row in &rows {
            let asset = open
                .state()
                .asset(&row.asset)
                .await?
                .ok_or(EngineError::Bug { what: "a campaign without an asset" })?;
            views.push(view(open, row, &asset.name).await?);
        }
        Ok(views)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("campaigns", None)
    }

    async fn act(
        _: &Authorized<Self>,
        views: Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        Ok(Acted::new(views))
    }
}

/// The campaigns that were running when the process ended, with the keys they belong to.
///
/// # Errors
/// [`EngineError::Store`].
pub async fn unfinished(open: &Unsealed) -> Result<Vec<CampaignId>, EngineError> {
    let rows = open.state().campaigns().await?;
    Ok(rows.iter().filter(|row| row.state == CampaignState::Running).map(|row| row.id).collect())
}

/// The name of the key of an asset, for who shows a census by version.
pub fn version_name(key: &KeyName, version: VersionNumber) -> String {
    format!("{key}@{version}")
}
