//! Retirement behind a fence, and destruction after a wait.

use std::sync::Arc;
use std::time::Duration;

use keyrail_core::access::Action;
use keyrail_core::key::{DataKey, DataKeyVersion, DestroyWait, KeyChange};
use keyrail_core::lifecycle::{VersionEvent, VersionState, transition};
use keyrail_core::name::{KeyVersionName, Name};
use keyrail_core::retirement::{AssetEvidence, Obstacle, OutsideUse, obstacles, outside_use, window_left_seconds};
use keyrail_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::ops::key::{FoundKey, KeyView, changed, require};
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::{OpenKey, Unsealed};

/// The longest write window that a request waits out by itself, in seconds.
pub const WINDOW_WAIT_SECONDS_MAX: u64 = 120;

/// What is known about the use of a version: shown before it is retired.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Evidence {
    /// What each asset still holds under the version.
    pub assets: Vec<AssetView>,
    /// Use that no asset accounts for.
    pub outside: Vec<OutsideView>,
    /// What stands in the way.
    pub obstacles: Vec<ObstacleView>,
    /// How long the write window stays open, in seconds.
    pub window_left_seconds: u64,
}

/// The census of one asset, for one version.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct AssetView {
    /// The asset.
    pub asset: Name,
    /// Values under the version; `None` if they could not be counted.
    pub left: Option<u64>,
}

/// Use of a version outside every asset.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct OutsideView {
    /// Who.
    pub principal: String,
    /// What.
    pub action: Action,
    /// How often.
    pub count: u64,
    /// When last.
    pub last_at: Timestamp,
}

/// Something in the way of retirement.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct ObstacleView {
    /// What it is.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

impl Evidence {
    fn of(assets: &[AssetEvidence], outside: &[OutsideUse], found: &[Obstacle], window_left_seconds: u64) -> Self {
        let asset =
            |row: &AssetEvidence| AssetView { asset: row.asset.clone(), left: row.census.ok().map(|count| count.left) };
        let usage = |row: &OutsideUse| OutsideView {
            principal: row.principal.clone(),
            action: row.action,
            count: row.count.count,
            last_at: row.count.last_at,
        };
        let obstacle = |row: &Obstacle| ObstacleView { problem: row.to_string(), hint: row.hint() };
        Self {
            assets: assets.iter().map(asset).collect(),
            outside: outside.iter().map(usage).collect(),
            obstacles: found.iter().map(obstacle).collect(),
            window_left_seconds,
        }
    }
}

/// What the evidence is judged by.
struct Findings {
    assets: Vec<AssetEvidence>,
    outside: Vec<OutsideUse>,
    obstacles: Vec<Obstacle>,
}

async fn gather(
    open: &Arc<Unsealed>,
    key: &OpenKey,
    version: &DataKeyVersion,
    acknowledged: &[String],
) -> Result<Findings, EngineError> {
    open.usage().catch_up(open).await?;
    let usage = open.state().usage_of(&version.kid).await?;
    let outside = outside_use(usage.iter().map(|row| (&row.key, &row.count)));
    let assets = match open.assets() {
        Some(port) => port.evidence(key.keyring.key.id, version.kid).await?,
        None if open.state().assets_of_key(&key.keyring.key.id).await?.is_empty() => Vec::new(),
        None => return Err(EngineError::Bug { what: "nobody can count the assets" }),
    };
    let obstacles = obstacles(version, &assets, &outside, acknowledged);
    Ok(Findings { assets, outside, obstacles })
}

/// Shows what speaks for and against retiring a version, and changes nothing.
#[derive(Clone, Debug)]
pub struct ShowEvidence {
    /// The version.
    pub name: KeyVersionName,
}

impl Operation for ShowEvidence {
    const ACTION: Action = Action::KeyRead;
    type Loaded = FoundKey;
    type Answer = Evidence;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.name.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<Evidence>, EngineError> {
        let name = &authorized.op().name;
        let key = require(found, &name.key)?;
        let version = key.keyring.version(name.version)?;
        let found = gather(cx.open, &key, version, &[]).await?;
        let left = window_left_seconds(version, key.demands.write_window_seconds, cx.open.now(), None);
        Ok(Acted::new(Evidence::of(&found.assets, &found.outside, &found.obstacles, left)))
    }
}

fn target(name: &KeyVersionName) -> Target {
    Target::of_app("key", name.to_string(), name.key.app.clone())
}

/// Retires a version: when this returns, it opens nothing on any node.
#[derive(Clone, Debug)]
pub struct RetireVersion {
    /// The version.
    pub name: KeyVersionName,
    /// Principals whose use outside assets somebody answers for.
    pub acknowledged: Vec<String>,
}

/// A retired version, with what was found before.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Retired {
    /// The key after it.
    pub key: KeyView,
    /// What was found right before.
    pub evidence: Evidence,
}

impl Operation for RetireVersion {
    const ACTION: Action = Action::KeyRetire;
    type Loaded = FoundKey;
    type Answer = Retired;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.name.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<Retired>, EngineError> {
        let RetireVersion { name, acknowledged } = authorized.op();
        let key = require(found, &name.key)?;
        cx.check_match(key.keyring.key.generation)?;
        let version = key.keyring.version(name.version)?;
        let before = gather(cx.open, &key, version, acknowledged).await?;
        refuse_if_blocked(before.obstacles)?;
        // The version stopped encrypting when it was deactivated: that was the fence. What was handed out
        // before may still be stored until the window closes.
        wait_out_window(version, key.demands.write_window_seconds, cx.open).await?;
        let after = gather(cx.open, &key, version, acknowledged).await?;
        let evidence = Evidence::of(&after.assets, &after.outside, &after.obstacles, 0);
        refuse_if_blocked(after.obstacles)?;
        let rows = key.keyring.retire(name.version, cx.open.now())?;
        let mut acted = changed(&key, &rows);
        for row in &evidence.assets {
            acted = acted.detail("census", format!("{}: {} values left", row.asset, row.left.unwrap_or_default()));
        }
        for principal in acknowledged {
            acted = acted.detail("acknowledged", principal);
        }
        Ok(acted.map(|key| Retired { key, evidence }))
    }
}

fn refuse_if_blocked(found: Vec<Obstacle>) -> Result<(), EngineError> {
    if found.is_empty() { Ok(()) } else { Err(EngineError::RetireBlocked { obstacles: found }) }
}

async fn wait_out_window(
    version: &DataKeyVersion,
    write_window_seconds: u64,
    open: &Unsealed,
) -> Result<(), EngineError> {
    loop {
        let left = window_left_seconds(version, write_window_seconds, open.now(), None);
        match left {
            0 => return Ok(()),
            1..=WINDOW_WAIT_SECONDS_MAX => tokio::time::sleep(Duration::from_secs(left).min(WINDOW_STEP)).await,
            _ => return Err(EngineError::WriteWindowOpen { seconds_left: left }),
        }
    }
}

/// How long one look at the clock is believed.
const WINDOW_STEP: Duration = Duration::from_secs(1);

/// Destroys a version: at once if its label asks for no wait, else by starting a countdown in observed time.
#[derive(Clone, Debug)]
pub struct DestroyVersion {
    /// The version.
    pub name: KeyVersionName,
}

/// How far a destruction is.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Destruction {
    /// The key after it.
    pub key: KeyView,
    /// Whether the material is gone.
    pub destroyed: bool,
    /// How much observed time is left, in seconds.
    pub seconds_left: u64,
    /// What could still bring the key back.
    pub receipt: Vec<String>,
}

impl Operation for DestroyVersion {
    const ACTION: Action = Action::KeyDestroy;
    type Loaded = FoundKey;
    type Answer = Destruction;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.name.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        target(&self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<Destruction>, EngineError> {
        let name = &authorized.op().name;
        let key = require(found, &name.key)?;
        cx.check_match(key.keyring.key.generation)?;
        let version = key.keyring.version(name.version)?;
        transition(version.state, VersionEvent::Destroy).map_err(keyrail_core::key::KeyError::from)?;
        let wait_seconds = key.demands.destroy_wait_seconds;
        match version.destroy {
            Some(wait) if wait.is_over() => finish(&key, version, cx).await,
            None if wait_seconds == 0 => finish(&key, version, cx).await,
            Some(wait) if wait.halt.is_none() => {
                let seconds_left = wait.wait_seconds.saturating_sub(wait.observed_seconds);
                let view = KeyView::of(&key.name, &key.keyring);
                Ok(Acted::new(Destruction { key: view, destroyed: false, seconds_left, receipt: Vec::new() }))
            }
            // A countdown that was halted begins anew: somebody looked at why.
            _ => Ok(begin(&key, version, DestroyWait { wait_seconds, observed_seconds: 0, halt: None }, cx)),
        }
    }
}

/// The rows of a version whose countdown changes.
pub(crate) fn with_wait(key: &OpenKey, version: &DataKeyVersion, wait: DestroyWait, now: Timestamp) -> KeyChange {
    let row = DataKeyVersion { destroy: Some(wait), generation: version.generation + 1, ..version.clone() };
    let former = &key.keyring.key;
    let key = DataKey { updated_at: now, generation: former.generation + 1, ..former.clone() };
    KeyChange { key, added: None, changed: vec![row] }
}

fn begin(key: &OpenKey, version: &DataKeyVersion, wait: DestroyWait, cx: &Context<'_>) -> Acted<Destruction> {
    let acted = changed(key, &with_wait(key, version, wait, cx.now)).detail("waits_seconds", wait.wait_seconds);
    acted.map(|key| Destruction { key, destroyed: false, seconds_left: wait.wait_seconds, receipt: Vec::new() })
}

async fn finish(key: &OpenKey, version: &DataKeyVersion, cx: &Context<'_>) -> Result<Acted<Destruction>, EngineError> {
    let rows = key.keyring.destroy(version.version, cx.now)?;
    let receipt = receipt(cx, version).await?;
    let mut acted = changed(key, &rows);
    for line in &receipt {
        acted = acted.detail("could_bring_it_back", line);
    }
    Ok(acted.map(|key| Destruction { key, destroyed: true, seconds_left: 0, receipt }))
}

/// What could still bring the key back, as far as Keyrail knows.
async fn receipt(cx: &Context<'_>, version: &DataKeyVersion) -> Result<Vec<String>, EngineError> {
    let mut lines = vec![
        format!("backups of the store made between {} and now, together with the root of trust", version.created_at),
        "the store's write-ahead log until its next checkpoint, and what the file system or the disk keeps of overwritten blocks".to_owned(),
    ];
    cx.open.usage().catch_up(cx.open).await?;
    let usage = cx.open.state().usage_of(&version.kid).await?;
    for row in usage.iter().filter(|row| row.key.action == Action::KeyExport) {
        lines.push(format!("the copy that `{}` exported, last at {}", row.key.principal, row.count.last_at));
    }
    if version.state == VersionState::Compromised {
        lines.push("whoever it was exposed to".to_owned());
    }
    Ok(lines)
}
