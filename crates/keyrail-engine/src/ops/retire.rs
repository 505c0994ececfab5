//! Retirement behind a fence, and destruction after a wait.

use std::sync::Arc;
use std::time::Duration;

use keyrail_core::access::Action;
use keyrail_core::fence::Drift;
use keyrail_core::key::{DataKey, DataKeyVersion, DestroyWait, KeyChange};
use keyrail_core::lifecycle::{VersionEvent, VersionState, transition};
use keyrail_core::name::{KeyVersionName, Name};
use keyrail_core::retirement::{
    ACKNOWLEDGED_LEN_MAX, ACKNOWLEDGED_MAX, AssetEvidence, Obstacle, OutsideUse, Progress, Step, WriteWindow,
    destroy_obstacles, obstacles, outside_use,
};
use keyrail_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::countdown;
use crate::counting::{About, Purpose, Wanted, patience};
use crate::error::EngineError;
use crate::ops::key::{FoundKey, KeyView, changed, require};
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::{OpenKey, Unsealed};

/// The longest write window that a request waits out by itself, in seconds, if its time is enough for it.
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
    /// Of those, values that do not open and were not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<u64>,
    /// Whether a campaign on the asset is not finished.
    #[serde(default)]
    pub campaign_open: bool,
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
    /// When first.
    pub first_at: Timestamp,
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
        let asset = |row: &AssetEvidence| AssetView {
            asset: row.asset.clone(),
            left: row.census.ok().map(|count| count.left),
            damaged: row.census.ok().map(|count| count.damaged),
            campaign_open: row.open_campaign.is_some(),
        };
        let usage = |row: &OutsideUse| OutsideView {
            principal: row.principal.clone(),
            action: row.action,
            count: row.count.count,
            first_at: row.count.first_at,
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

/// What is known of a version's use: in assets, and outside them.
struct Found {
    assets: Vec<AssetEvidence>,
    outside: Vec<OutsideUse>,
}

/// The count of assets takes long, and is made once for the state that it depends on; the use outside is read anew.
async fn gather<Op>(
    authorized: &Authorized<Op>,
    cx: &Context<'_>,
    key: &OpenKey,
    version: &DataKeyVersion,
    purpose: Purpose,
) -> Result<Found, EngineError> {
    let open = cx.open;
    open.usage().catch_up(open).await?;
    let usage = open.state().usage_of(&version.kid).await?;
    let outside = outside_use(usage.iter().map(|row| (&row.key, &row.count)));
    let assets = match open.assets() {
        Some(port) => {
            let about = About::of(open, key, version, window_left_millis(version, key, open) == 0).await?;
            let patience = patience(authorized.principal(), cx.kept.began, open.count_wait);
            let wanted = Wanted { about: about.clone(), purpose, patience, now: open.now() };
            cx.once((about, purpose), open.counts.evidence(port, key, wanted)).await?
        }
        None if open.state().assets_of_key(&key.keyring.key.id).await?.is_empty() => Vec::new(),
        None => return Err(EngineError::Bug { what: "nobody can count the assets" }),
    };
    Ok(Found { assets, outside })
}

/// Names that somebody answers for come from outside and go into the record.
fn check_acknowledged(names: &[String]) -> Result<(), EngineError> {
    if names.len() > ACKNOWLEDGED_MAX {
        return Err(EngineError::TooLarge {
            what: "the acknowledgement",
            len: names.len(),
            max: ACKNOWLEDGED_MAX,
            unit: "names",
        });
    }
    match names.iter().map(String::len).find(|len| *len > ACKNOWLEDGED_LEN_MAX) {
        Some(len) => {
            Err(EngineError::TooLarge { what: "a principal's name", len, max: ACKNOWLEDGED_LEN_MAX, unit: "bytes" })
        }
        None => Ok(()),
    }
}

/// Puts what was found, and what somebody answered for, into the record.
fn with_evidence<A>(mut acted: Acted<A>, found: &Found, acknowledged: &[String]) -> Acted<A> {
    let left = |row: &AssetEvidence| row.census.map(|count| count.left).unwrap_or_default();
    let (assets, more) = split(&found.assets, ASSETS_SHOWN_MAX);
    for row in assets {
        acted = acted.detail("census", format!("{}: {} values left", row.asset, left(row)));
    }
    if !more.is_empty() {
        let left: u64 = more.iter().map(left).sum();
        acted = acted.detail("census", format!("and {} more assets: {left} values left", more.len()));
    }
    let (uses, more) = split(&found.outside, OUTSIDE_SHOWN_MAX);
    for row in uses {
        let (count, last_at) = (row.count.count, row.count.last_at);
        acted =
            acted.detail("used_outside", format!("{}: {} {count} times, last at {last_at}", row.principal, row.action));
    }
    if !more.is_empty() {
        acted = acted.detail("used_outside", format!("and {} more uses", more.len()));
    }
    for principal in acknowledged {
        acted = acted.detail("acknowledged", principal);
    }
    acted
}

/// What a record lists, and what it only counts: it has a limit of its own.
fn split<T>(all: &[T], listed_max: usize) -> (&[T], &[T]) {
    all.split_at_checked(listed_max).unwrap_or((all, &[]))
}

/// How many assets one record lists.
const ASSETS_SHOWN_MAX: usize = 1_000;

/// How many uses outside assets, and how many lines of a receipt, one record lists.
const OUTSIDE_SHOWN_MAX: usize = 256;

/// Shows what speaks for and against retiring a version, and changes nothing.
#[derive(Clone, Debug)]
pub struct ShowEvidence {
    /// The version.
    pub name: KeyVersionName,
}

impl Operation for ShowEvidence {
    // It is a census of every asset of the key, and says who used it: more than a look at the key.
    const ACTION: Action = Action::AssetCensus;
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
        let found = gather(authorized, cx, &key, version, Purpose::Look).await?;
        let left = window_left_millis(version, &key, cx.open).div_ceil(1000);
        let in_the_way = obstacles(version, &found.assets, &found.outside, &[]);
        Ok(Acted::new(Evidence::of(&found.assets, &found.outside, &in_the_way, left)))
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
        check_acknowledged(acknowledged)?;
        let version = key.keyring.version(name.version)?;
        let found = last_count(authorized, cx, &key, version, acknowledged).await?;
        let rows = key.keyring.retire(name.version, cx.open.now())?;
        let evidence = Evidence::of(&found.assets, &found.outside, &[], 0);
        let acted = with_evidence(changed(&key, &rows), &found, acknowledged);
        Ok(acted.map(|key| Retired { key, evidence }))
    }
}

/// The count that the retirement of a version rests on, with nothing in the way of it.
///
/// The version stopped encrypting when it was deactivated: that was the fence. What was handed out before may still be
/// stored until the window closes, by who writes to a table without asking Keyrail. So what is counted while it is open
/// is counted again.
async fn last_count(
    authorized: &Authorized<RetireVersion>,
    cx: &Context<'_>,
    key: &OpenKey,
    version: &DataKeyVersion,
    acknowledged: &[String],
) -> Result<Found, EngineError> {
    let (mut progress, mut last) = (Progress::Begun, None);
    loop {
        let step = progress.next(window_left_millis(version, key, cx.open));
        let purpose = match step {
            Step::Look => Purpose::Look,
            Step::Count => Purpose::LastStep,
            Step::Wait { millis_left } => {
                wait_for_window(authorized, cx, millis_left).await?;
                continue;
            }
            Step::Retire => return last.ok_or(EngineError::Bug { what: "a retirement without a count" }),
        };
        let found = gather(authorized, cx, key, version, purpose).await?;
        refuse_if_blocked(obstacles(version, &found.assets, &found.outside, acknowledged))?;
        (progress, last) = (progress.after(step), Some(found));
    }
}

fn refuse_if_blocked(obstacles: Vec<Obstacle>) -> Result<(), EngineError> {
    if obstacles.is_empty() { Ok(()) } else { Err(EngineError::RetireBlocked { obstacles }) }
}

/// How long the write window of a version stays open, in milliseconds.
fn window_left_millis(version: &DataKeyVersion, key: &OpenKey, open: &Unsealed) -> u64 {
    let set_at = open.clock_set_at();
    // What was answered between the decision to rotate and its fence was still answered under this version.
    let (fenced_at, fenced_boot) = open.fenced_at(version);
    // Callers were told the window of then; a longer one of now does no harm.
    let promised_seconds = version.fenced_window_seconds.unwrap_or_default();
    let window =
        WriteWindow { fenced_at, fenced_boot, seconds: promised_seconds.max(key.demands.write_window_seconds) };
    window.left_millis(open.clock().observe(), set_at, Drift::STATED)
}

/// Waits for a look at the clock, or refuses at once: a window that stays open for longer than the request may take is
/// told within its time, with a record. What a count took before is gone from that time.
async fn wait_for_window<Op>(
    authorized: &Authorized<Op>,
    cx: &Context<'_>,
    millis_left: u64,
) -> Result<(), EngineError> {
    let (left, seconds_left) = (Duration::from_millis(millis_left), millis_left.div_ceil(1000));
    let patience = patience(authorized.principal(), cx.kept.began, cx.open.count_wait);
    if seconds_left > WINDOW_WAIT_SECONDS_MAX || patience.is_some_and(|patience| left > patience) {
        return Err(EngineError::WriteWindowOpen { seconds_left });
    }
    cx.open.time_passes(left.min(WINDOW_STEP)).await;
    Ok(())
}

/// How long one look at the clock is believed.
const WINDOW_STEP: Duration = Duration::from_secs(1);

/// Destroys a version: at once if its label asks for no wait, else by starting a countdown in observed time.
#[derive(Clone, Debug)]
pub struct DestroyVersion {
    /// The version.
    pub name: KeyVersionName,
    /// Principals whose use outside assets somebody answers for; asked for only of a version that never was retired.
    pub acknowledged: Vec<String>,
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
        let DestroyVersion { name, acknowledged } = authorized.op();
        let key = require(found, &name.key)?;
        cx.check_match(key.keyring.key.generation)?;
        check_acknowledged(acknowledged)?;
        let version = key.keyring.version(name.version)?;
        transition(version.state, VersionEvent::Destroy).map_err(keyrail_core::key::KeyError::from)?;
        if let Some(wait) = version.destroy.filter(|wait| wait.halt.is_none() && !wait.is_over()) {
            let seconds_left = wait.wait_seconds.saturating_sub(wait.observed_seconds);
            let view = KeyView::of(&key.name, &key.keyring);
            return Ok(Acted::new(Destruction { key: view, destroyed: false, seconds_left, receipt: Vec::new() }));
        }
        let wait_seconds = key.demands.destroy_wait_seconds;
        let over = version.destroy.map_or(wait_seconds == 0, |wait| wait.is_over());
        let purpose = if over { Purpose::LastStep } else { Purpose::Look };
        let found = still_needed(version, gather(authorized, cx, &key, version, purpose).await?);
        let obstacles = destroy_obstacles(version, &found.assets, &found.outside, acknowledged);
        if !obstacles.is_empty() {
            return Err(EngineError::DestroyBlocked { obstacles });
        }
        let acted = if over {
            finish(&key, version, cx).await?
        } else {
            // A countdown that was halted begins anew: somebody looked at why.
            let wait = DestroyWait { wait_seconds, observed_seconds: 0, halt: None, began_at: Some(cx.now) };
            begin(&key, version, wait, cx).await?
        };
        Ok(with_evidence(acted, &found, acknowledged))
    }
}

/// Use from before a countdown was answered for when it began; what matters at its end is use meanwhile.
/// A countdown that does not know when it began leaves all use as it is, and somebody has to look.
fn still_needed(version: &DataKeyVersion, found: Found) -> Found {
    let began_at = version.destroy.filter(DestroyWait::is_over).and_then(|wait| wait.began_at);
    let Some(began_at) = began_at else { return found };
    let meanwhile = |row: &OutsideUse| row.count.last_at >= began_at;
    Found { outside: found.outside.into_iter().filter(meanwhile).collect(), ..found }
}

/// The key's row and the version's, with another countdown or none.
pub(crate) fn with_wait(
    key: &OpenKey,
    version: &DataKeyVersion,
    wait: Option<DestroyWait>,
    now: Timestamp,
) -> KeyChange {
    let row = DataKeyVersion { destroy: wait, generation: version.generation + 1, ..version.clone() };
    let former = &key.keyring.key;
    let key = DataKey { updated_at: now, generation: former.generation + 1, ..former.clone() };
    KeyChange { key, added: None, changed: vec![row] }
}

async fn begin(
    key: &OpenKey,
    version: &DataKeyVersion,
    wait: DestroyWait,
    cx: &Context<'_>,
) -> Result<Acted<Destruction>, EngineError> {
    let mut acted = changed(key, &with_wait(key, version, Some(wait), cx.now));
    if let Some(change) = acted.change.as_mut() {
        // The look at the clocks from which it counts; what went by until now counts for the others alone.
        countdown::carry_on(cx.open, change).await?;
    }
    let acted = acted.detail("waits_seconds", wait.wait_seconds);
    Ok(acted.map(|key| Destruction { key, destroyed: false, seconds_left: wait.wait_seconds, receipt: Vec::new() }))
}

async fn finish(key: &OpenKey, version: &DataKeyVersion, cx: &Context<'_>) -> Result<Acted<Destruction>, EngineError> {
    let rows = key.keyring.destroy(version.version, cx.now)?;
    let receipt = receipt(cx, version).await?;
    let mut acted = changed(key, &rows);
    let (lines, more) = split(&receipt, OUTSIDE_SHOWN_MAX);
    for line in lines {
        acted = acted.detail("could_bring_it_back", line);
    }
    if !more.is_empty() {
        acted = acted.detail("could_bring_it_back", format!("and {} more", more.len()));
    }
    Ok(acted.map(|key| Destruction { key, destroyed: true, seconds_left: 0, receipt }))
}

/// What could still bring the key back, as far as Keyrail knows.
async fn receipt(cx: &Context<'_>, version: &DataKeyVersion) -> Result<Vec<String>, EngineError> {
    let mut lines = vec![
        format!("backups of the store made between {} and now, together with the root of trust", version.created_at),
        "the store's write-ahead log until its next checkpoint, and what the file system or the disk keeps of overwritten blocks".to_owned(),
    ];
    if version.state == VersionState::Compromised {
        lines.push("whoever it was exposed to".to_owned());
    }
    cx.open.usage().catch_up(cx.open).await?;
    let usage = cx.open.state().usage_of(&version.kid).await?;
    for row in usage.iter().filter(|row| row.key.action == Action::KeyExport) {
        lines.push(format!("the copy that `{}` exported, last at {}", row.key.principal, row.count.last_at));
    }
    Ok(lines)
}
