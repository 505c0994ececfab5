//! Work that nobody asks for by name: rotation when it is due, rewrapping, countdowns, bookkeeping.

use std::collections::HashMap;
use std::sync::Arc;

use keyrail_core::campaign;
use keyrail_core::id::MasterKeyId;
use keyrail_core::key::{DataKey, DataKeyVersion, Keyring, MasterVersion};
use keyrail_core::label::{Demands, Label};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{EnvironmentPath, KeyName, Name};
use keyrail_core::rotation::{DataKeyFacts, Due, MasterKeyFacts, RotationReason, sweep};
use keyrail_store::Change;

use crate::countdown;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::exposure::{self, Marked};
use crate::ops::key::RotateKey;
use crate::ops::master::RotateMaster;
use crate::ops::system::{Rewrap, Rewrapped};
use crate::pipeline::{append, execute};
use crate::refusals::AggregateWait;
use crate::request::Caller;
use crate::unsealed::Unsealed;
use crate::unsealed::alarm::AlarmKind;

/// How often the sweep looks for due rotations, in ticks of about a second.
const SWEEP_TICKS: u64 = 5;

/// How often countdowns to destruction are carried on, in ticks.
const COUNTDOWN_TICKS: u64 = 60;

/// How often the head is remembered and expired keys are forgotten, in ticks.
const TIDY_TICKS: u64 = 5;

/// How often it is told what the rows come to, if the log does not tell it, in ticks.
const STATE_TICKS: u64 = 60;

/// How many expired idempotency keys are forgotten at once.
const FORGET_MAX: usize = 500;

/// How long a token that ended or was revoked can still be listed, in seconds.
const TOKEN_KEPT_SECONDS: u64 = 30 * 24 * 60 * 60;

impl Engine {
    /// Whether the last [`Engine::tick`] left something for the next one, which need not wait: very many keys are looked at
    /// in parts.
    pub async fn has_more_to_do(&self) -> bool {
        match self.unsealed() {
            Ok(open) => open.has_more_to_do().await,
            Err(_) => false,
        }
    }
}

/// One step of the background work. Each part is tried, whatever happened to the others.
pub(crate) async fn tick(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let turn = open.next_tick();
    open.tell_time_passed();
    open.purge(open.now());
    open.log().look();
    let mut results = vec![open.settle_pending().await, record_refusals(open, AggregateWait::Usual).await];
    if let Some(off_millis) = open.look_at_clock() {
        results.push(open.raise_clock_set(off_millis).await);
    }
    results.push(open.tell_given_up().await);
    if !open.works_for_all() {
        // What another node does for all is not done twice.
        open.usage().forget();
        return results.into_iter().collect();
    }
    // What ends a destruction's count does not wait for the countdown's turn.
    if open.counts.take_news() || turn.is_multiple_of(COUNTDOWN_TICKS) {
        results.push(countdown::tick(open).await);
    }
    let sweeps = open.take_sweep_wish() || turn.is_multiple_of(SWEEP_TICKS);
    let mut walk = open.walk.lock().await;
    if sweeps || walk.goes_on() {
        results.push(open.usage().catch_up(open).await);
        results.push(rotate_due(open, &mut walk).await);
    }
    if open.take_rewrap_on() || sweeps {
        results.push(rewrap(open).await);
    }
    if turn.is_multiple_of(TIDY_TICKS) {
        results.push(forget_expired(open).await);
        results.push(open.remember().await);
    }
    if open.state_is_due() || turn % STATE_TICKS == STATE_TICKS - 1 {
        results.push(open.tell_state().await);
    }
    results.into_iter().collect()
}

/// What must not wait for the next start.
pub(crate) async fn flush(open: &Arc<Unsealed>, refusals: AggregateWait) -> Result<(), EngineError> {
    if !open.writes() {
        return Ok(());
    }
    let settled = open.settle_pending().await;
    let recorded = record_refusals(open, refusals).await;
    if !open.works_for_all() {
        return settled.and(recorded);
    }
    // A destruction counts assets, which takes long or is refused, and it is no work for a store that closes.
    let carried_on = countdown::look(open).await.map(drop);
    let counted = open.usage().catch_up(open).await;
    // What is remembered is what the files show, and they are to show all of it.
    let published = open.log().publish().await.map_err(EngineError::from);
    let remembered = open.remember().await;
    settled.and(recorded).and(carried_on).and(counted).and(published).and(remembered)
}

async fn record_refusals(open: &Arc<Unsealed>, wait: AggregateWait) -> Result<(), EngineError> {
    let mut results = Vec::new();
    for due in open.refusals().take(open.now(), wait) {
        let record = due.record(open.now())?;
        let recorded = append(open, &record, open.generation()).await;
        if recorded.is_err() {
            open.refusals().put_back(due);
        }
        results.push(recorded.map_err(EngineError::AuditUnavailable));
    }
    results.into_iter().collect()
}

async fn forget_expired(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let now = open.now();
    let keys = open.state().expired_idempotency(now, FORGET_MAX).await?;
    let tokens = open.state().tokens_over(now.minus_seconds(TOKEN_KEPT_SECONDS), FORGET_MAX).await?;
    if keys.is_empty() && tokens.is_empty() {
        return Ok(());
    }
    let mut change = Change::new();
    for entry in &keys {
        change.delete(entry);
    }
    for token in &tokens {
        change.delete(token);
    }
    open.commit_unrecorded(change.unrecorded("what is over opens nothing, with its row or without")).await
}

/// Where a walk over all keys is. A large store is walked in several sweeps.
#[derive(Default)]
pub(crate) struct Walk {
    /// The last key that was looked at.
    after: Option<KeyName>,
    /// The strictest master key age of the labels that are in use in each environment.
    ages: HashMap<EnvironmentPath, u64>,
    /// Versions whose data should have been moved by now.
    overdue: u64,
}

impl Walk {
    /// Whether there are keys that it did not come to yet.
    pub(crate) fn goes_on(&self) -> bool {
        self.after.is_some()
    }
}

/// How many keys are read at a time.
const PAGE_LEN: usize = 500;

/// How many pages one sweep reads: with more keys than those, a rotation is due some sweeps later.
const WALK_PAGES_MAX: usize = 4;

/// Rotates every key whose age, use or label asks for it, and tells of data that is late. One key that fails does not
/// hold up the others. At the end of a walk over all keys, the same for master keys.
pub(crate) async fn rotate_due(open: &Arc<Unsealed>, walk: &mut Walk) -> Result<(), EngineError> {
    let labels: HashMap<Name, Label> =
        open.state().labels().await?.into_iter().map(|label| (label.name.clone(), label)).collect();
    let mut results = Vec::new();
    for _ in 0..WALK_PAGES_MAX {
        let page = open.state().keys_page(None, walk.after.as_ref(), PAGE_LEN).await;
        // Where keys cannot be read the walk ends, and what comes before them is looked at again.
        let last = page.as_ref().ok().and_then(|page| page.last().filter(|_| page.len() == PAGE_LEN));
        walk.after = last.map(|(name, _)| name.clone());
        match page {
            Ok(page) => {
                for (name, key) in page {
                    results.push(look_at(open, walk, &labels, &name, key).await);
                }
            }
            Err(error) => results.push(Err(error.into())),
        }
        results.retain(Result::is_err);
        results.truncate(1);
        if !walk.goes_on() {
            let walked = std::mem::take(walk);
            open.metrics().set_overdue(walked.overdue);
            results.push(rotate_masters(open, &walked.ages).await);
            break;
        }
    }
    results.into_iter().collect()
}

async fn look_at(
    open: &Arc<Unsealed>,
    walk: &mut Walk,
    labels: &HashMap<Name, Label>,
    name: &KeyName,
    key: DataKey,
) -> Result<(), EngineError> {
    let Some(label) = labels.get(&key.label) else { return Ok(()) };
    if let Some(age) = label.demands.master_key_age_seconds_max {
        let least = walk.ages.entry(name.app.environment.clone()).or_insert(age);
        *least = age.min(*least);
    }
    let keyring = open.state().keyring(key).await?;
    let rotated = rotate_if_due(open, name, &keyring, &label.demands).await;
    walk.overdue += tell_overdue(open, name, &keyring, &label.demands).await?;
    rotated
}

async fn rotate_masters(open: &Arc<Unsealed>, ages: &HashMap<EnvironmentPath, u64>) -> Result<(), EngineError> {
    let (facts, places) = masters(open, ages).await?;
    let mut results = Vec::new();
    for due in sweep(&[], &facts, open.now()) {
        if let Due::MasterKey(id, reason) = due
            && let Some(path) = places.get(&id).cloned()
        {
            results.push(execute(open, &Caller::system()?, RotateMaster { path, reason }).await.map(drop));
        }
    }
    results.into_iter().collect()
}

async fn rotate_if_due(
    open: &Arc<Unsealed>,
    name: &KeyName,
    keyring: &Keyring,
    demands: &Demands,
) -> Result<(), EngineError> {
    let Some(active) = keyring.active() else { return Ok(()) };
    let facts = facts(open, active, demands, None).await?;
    for due in sweep(&[facts], &[], open.now()) {
        if let Due::DataKey(_, reason) = due {
            // The operation asks once more under its own fence: what somebody else rotated meanwhile is left alone.
            execute(open, &Caller::system()?, RotateKey { name: name.clone(), reason }).await?;
        }
    }
    Ok(())
}

/// What the sweep decides from. Uses are counted only where the label limits them.
pub(crate) async fn facts<'a>(
    open: &Unsealed,
    active: &DataKeyVersion,
    demands: &'a Demands,
    asked: Option<RotationReason>,
) -> Result<DataKeyFacts<'a>, EngineError> {
    let uses = match demands.data_key_uses_max {
        Some(_) => open.usage().encryptions(open, &active.kid).await?,
        None => 0,
    };
    let activated_at = active.activated_at.unwrap_or(active.created_at);
    Ok(DataKeyFacts { key: active.key, demands, suite: active.suite, activated_at, uses, asked })
}

/// Raises an alarm about each version whose data should have been moved by now; answers how many there are.
async fn tell_overdue(
    open: &Arc<Unsealed>,
    name: &KeyName,
    keyring: &Keyring,
    demands: &Demands,
) -> Result<u64, EngineError> {
    let (now, mut overdue) = (open.now(), 0);
    let late = |version: &&DataKeyVersion| {
        campaign::due_at(version, demands.campaign_deadline_seconds).is_some_and(|due_at| now >= due_at)
    };
    let active = keyring.active().map(|version| &version.kid);
    for version in keyring.versions.iter().filter(late) {
        let due_at = campaign::due_at(version, demands.campaign_deadline_seconds);
        for asset in open.state().assets_of_key(&keyring.key.id).await? {
            let campaigns = open.state().campaigns_of(&asset.id).await?;
            if campaign::is_overdue(due_at, active, &campaigns, now) {
                overdue += 1;
                open.raise(AlarmKind::Overdue, name, version).await?;
                break;
            }
        }
    }
    Ok(overdue)
}

async fn masters(
    open: &Unsealed,
    ages: &HashMap<EnvironmentPath, u64>,
) -> Result<(Vec<MasterKeyFacts>, HashMap<MasterKeyId, EnvironmentPath>), EngineError> {
    let domains = open.state().domains().await?;
    let (mut facts, mut places) = (Vec::new(), HashMap::new());
    for key in open.state().master_keys().await? {
        let Some(domain) = domains.iter().find(|domain| domain.id == key.domain) else { continue };
        let Some(active) = open.state().active_master(&key.domain, &key.environment).await? else { continue };
        let place = EnvironmentPath { domain: domain.name.clone(), environment: key.environment };
        facts.push(MasterKeyFacts {
            key: key.id,
            age_seconds_max: ages.get(&place).copied(),
            activated_at: active.activated_at,
        });
        places.insert(key.id, place);
    }
    Ok((facts, places))
}

/// How many changes are made to rewrap before what else is due has its turn.
const REWRAP_CHANGES_MAX: usize = 40;

/// Puts data keys under the active version of their master key, until none is left under an older one. With very many
/// keys it ends before, and goes on with the next tick, which comes at once.
pub(crate) async fn rewrap(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let (mut left, mut results) = (REWRAP_CHANGES_MAX, Vec::new());
    for key in open.state().master_keys().await? {
        match open.state().master_versions(&key.id).await {
            Ok(versions) => {
                for version in versions.iter().filter(|row| wraps_no_more(row)) {
                    results.push(rewrap_version(open, version, &mut left).await);
                }
            }
            Err(error) => results.push(Err(error.into())),
        }
        // One that fails does not hold up the others.
        results.retain(Result::is_err);
        results.truncate(1);
        if left == 0 {
            open.rewrap_goes_on();
            break;
        }
    }
    results.into_iter().collect()
}

async fn rewrap_version(open: &Arc<Unsealed>, version: &MasterVersion, left: &mut usize) -> Result<(), EngineError> {
    // What it protects is declared exposed first: under another master key it would look like any other.
    if version.state == VersionState::Compromised && exposure::mark(open, version).await? == Marked::Some {
        open.rewrap_goes_on();
        return Ok(());
    }
    let mut batch = Rewrapped::make(open, &version.id, None).await?;
    while let Some(last) = batch.last().filter(|_| *left > 0) {
        let caller = Caller::system()?;
        let done = execute(open, &caller, Rewrap::new(version.id, batch));
        let next = Rewrapped::make(open, &version.id, Some(&last));
        // The next batch is made while this one is committed.
        let (done, next) = tokio::join!(done, next);
        (_, batch) = (done?, next?);
        *left -= 1;
    }
    Ok(())
}

fn wraps_no_more(row: &MasterVersion) -> bool {
    matches!(row.state, VersionState::Deactivated | VersionState::Compromised)
}
