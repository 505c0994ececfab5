//! Work that nobody asks for by name: rotation when it is due, rewrapping, countdowns, bookkeeping.

use std::collections::HashMap;
use std::sync::Arc;

use keyrail_core::id::{DataKeyId, MasterKeyId};
use keyrail_core::key::{DataKeyVersion, DestroyHalt, DestroyWait, MasterVersion};
use keyrail_core::label::{Demands, Label};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{EnvironmentPath, KeyName, KeyVersionName, Name};
use keyrail_core::rotation::{DataKeyFacts, Due, MasterKeyFacts, sweep};
use keyrail_core::system::ObservationRow;
use keyrail_core::time::{Elapsed, elapsed};
use keyrail_store::Change;

use crate::error::EngineError;
use crate::ops::key::RotateKey;
use crate::ops::master::RotateMaster;
use crate::ops::retire::DestroyVersion;
use crate::ops::system::Rewrap;
use crate::pipeline::{append, execute};
use crate::refusals::AggregateWait;
use crate::request::Caller;
use crate::unsealed::Unsealed;

/// How often the sweep looks for due rotations, in ticks of about a second.
const SWEEP_TICKS: u64 = 5;

/// How often countdowns to destruction are carried on, in ticks.
const COUNTDOWN_TICKS: u64 = 10;

/// How often the head is remembered and expired keys are forgotten, in ticks.
const TIDY_TICKS: u64 = 5;

/// How many expired idempotency keys are forgotten at once.
const FORGET_MAX: usize = 500;

/// One step of the background work. Each part is tried, whatever happened to the others.
pub(crate) async fn tick(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let turn = open.next_tick();
    open.purge(open.now());
    let mut results = vec![record_refusals(open, AggregateWait::Usual).await];
    if turn.is_multiple_of(COUNTDOWN_TICKS) {
        results.push(count_down(open).await);
    }
    if open.take_sweep_wish() || turn.is_multiple_of(SWEEP_TICKS) {
        results.push(open.usage().catch_up(open).await);
        results.push(rotate_due(open).await);
        results.push(rewrap(open).await);
    }
    if turn.is_multiple_of(TIDY_TICKS) {
        results.push(forget_expired(open).await);
        results.push(open.remember().await);
    }
    results.into_iter().collect()
}

/// What must not wait for the next start.
pub(crate) async fn flush(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    if !open.writes() {
        return Ok(());
    }
    let recorded = record_refusals(open, AggregateWait::None).await;
    let counted = open.usage().catch_up(open).await;
    let remembered = open.remember().await;
    recorded.and(counted).and(remembered)
}

async fn record_refusals(open: &Arc<Unsealed>, wait: AggregateWait) -> Result<(), EngineError> {
    let Some(record) = open.refusals().take(open.now(), wait)? else { return Ok(()) };
    append(open, &record, open.generation()).await.map_err(EngineError::AuditUnavailable)
}

async fn forget_expired(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let expired = open.state().expired_idempotency(open.now(), FORGET_MAX).await?;
    if expired.is_empty() {
        return Ok(());
    }
    let mut change = Change::new();
    for entry in &expired {
        change.delete(entry);
    }
    Ok(open.state().commit(change.unrecorded("an idempotency key is over")).await?)
}

/// Rotates every key whose age, use or label asks for it.
pub(crate) async fn rotate_due(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let known = Known::load(open).await?;
    let data: Vec<_> = known.data.iter().map(|row| row.facts()).collect();
    for due in sweep(&data, &known.masters, open.now()) {
        let caller = Caller::system()?;
        match due {
            Due::DataKey(id, reason) => {
                let Some(name) = known.data.iter().find(|row| row.id == id).map(|row| row.name.clone()) else {
                    continue;
                };
                execute(open, &caller, RotateKey { name, reason }).await?;
            }
            Due::MasterKey(id, reason) => {
                let Some(path) = known.places.get(&id).cloned() else { continue };
                execute(open, &caller, RotateMaster { path, reason }).await?;
            }
        }
    }
    Ok(())
}

/// What the sweep decides from.
struct Known {
    data: Vec<KnownKey>,
    masters: Vec<MasterKeyFacts>,
    places: HashMap<MasterKeyId, EnvironmentPath>,
}

struct KnownKey {
    id: DataKeyId,
    name: KeyName,
    demands: Demands,
    active: DataKeyVersion,
    uses: u64,
}

impl KnownKey {
    fn facts(&self) -> DataKeyFacts<'_> {
        let activated_at = self.active.activated_at.unwrap_or(self.active.created_at);
        DataKeyFacts {
            key: self.id,
            demands: &self.demands,
            suite: self.active.suite,
            activated_at,
            uses: self.uses,
            asked: None,
        }
    }
}

/// How many keys are read at a time.
const PAGE_LEN: usize = 500;

impl Known {
    async fn load(open: &Arc<Unsealed>) -> Result<Self, EngineError> {
        let labels: HashMap<Name, Label> =
            open.state().labels().await?.into_iter().map(|label| (label.name.clone(), label)).collect();
        let mut data: Vec<KnownKey> = Vec::new();
        // The strictest master key age of the labels that are in use in each environment.
        let mut ages: HashMap<EnvironmentPath, u64> = HashMap::new();
        let mut after = None;
        loop {
            let page = open.state().keyrings_page(None, after.as_ref(), PAGE_LEN).await?;
            after = page.last().map(|(name, _)| name.clone());
            let last = page.len() < PAGE_LEN;
            for (name, keyring) in page {
                let Some(label) = labels.get(&keyring.key.label) else { continue };
                if let Some(age) = label.demands.master_key_age_seconds_max {
                    ages.entry(name.app.environment.clone())
                        .and_modify(|least| *least = age.min(*least))
                        .or_insert(age);
                }
                let Some(active) = keyring.active().cloned() else { continue };
                let uses = if label.demands.data_key_uses_max.is_some() {
                    open.usage().encryptions(open, &active.kid).await?
                } else {
                    0
                };
                data.push(KnownKey { id: keyring.key.id, name, demands: label.demands.clone(), active, uses });
            }
            if last {
                break;
            }
        }
        let (masters, places) = masters(open, &ages).await?;
        Ok(Self { data, masters, places })
    }
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

/// Puts data keys under the active version of their master key, until none is left under an older one.
pub(crate) async fn rewrap(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    for key in open.state().master_keys().await? {
        let versions = open.state().master_versions(&key.id).await?;
        for version in versions.iter().filter(|row| wraps_no_more(row)) {
            while open.state().count_wrapped_by(&version.id).await? > 0 {
                let done = execute(open, &Caller::system()?, Rewrap { from: version.id }).await?;
                if done == 0 {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn wraps_no_more(row: &MasterVersion) -> bool {
    row.state == VersionState::Deactivated
}

/// Carries the countdowns to destruction on, by the time that both clocks of the machine saw go by.
async fn count_down(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let waiting = open.state().waiting_for_destruction().await?;
    let former = open.state().observation().await?;
    if waiting.is_empty() && former.is_none() {
        return Ok(());
    }
    let observation = open.clock().observe();
    let row = ObservationRow { observation, generation: former.map_or(1, |row| row.generation + 1) };
    let passed = former.map(|row| elapsed(row.observation, observation));
    let mut change = Change::new();
    if former.is_some() {
        change.update(&row)
    } else {
        change.insert(&row)
    };
    let mut over = Vec::new();
    for version in waiting {
        let Some(wait) = version.destroy.filter(|wait| wait.halt.is_none()) else { continue };
        let next = after(wait, passed);
        if next.is_over() {
            over.push(version.clone());
        }
        if next != wait {
            change.update(&DataKeyVersion { destroy: Some(next), generation: version.generation + 1, ..version });
        }
    }
    open.commit_bookkeeping(change.unrecorded("time that went by is no operation")).await?;
    for version in over {
        destroy(open, &version).await?;
    }
    Ok(())
}

fn after(wait: DestroyWait, passed: Option<Elapsed>) -> DestroyWait {
    match passed {
        Some(Elapsed::Observed(seconds)) => DestroyWait {
            observed_seconds: wait.observed_seconds.saturating_add(seconds).min(wait.wait_seconds),
            ..wait
        },
        Some(Elapsed::ClockJumped { .. }) => DestroyWait { halt: Some(DestroyHalt::ClockJumped), ..wait },
        Some(Elapsed::Unobserved) | None => wait,
    }
}

async fn destroy(open: &Arc<Unsealed>, version: &DataKeyVersion) -> Result<(), EngineError> {
    let Some(key) = open.state().data_key(&version.key).await? else { return Ok(()) };
    let key = open.state().key_name(&key).await?;
    let name = KeyVersionName { key, version: version.version };
    execute(open, &Caller::system()?, DestroyVersion { name }).await.map(drop)
}
