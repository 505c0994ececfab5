//! Countdowns to destruction: carried on by the time that both clocks of the machine saw go by.

use std::sync::Arc;

use keyrail_core::key::{DataKeyVersion, DestroyHalt, DestroyWait};
use keyrail_core::name::KeyVersionName;
use keyrail_core::retirement::Obstacle;
use keyrail_core::system::ObservationRow;
use keyrail_core::time::{Elapsed, elapsed};
use keyrail_store::Change;

use crate::error::EngineError;
use crate::ops::put_key_change;
use crate::ops::retire::{DestroyVersion, with_wait};
use crate::pipeline::{CommitError, execute};
use crate::request::Caller;
use crate::unsealed::Unsealed;
use crate::unsealed::alarm::{AlarmKind, about_version};

/// Carries all countdowns on, and destroys what has waited long enough.
pub(crate) async fn tick(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    if open.state().waiting_for_destruction().await?.is_empty() {
        return Ok(());
    }
    let mut change = Change::new();
    let over = carry_on(open, &mut change).await?;
    open.commit_bookkeeping(change.unrecorded("time that went by is no operation")).await?;
    let mut results = Vec::new();
    for version in over {
        results.push(destroy(open, &version).await);
    }
    results.into_iter().collect()
}

/// Puts a new look at the clocks, and how far each countdown is by it, into a change. Answers which of them have waited
/// long enough.
pub(crate) async fn carry_on(open: &Unsealed, change: &mut Change) -> Result<Vec<DataKeyVersion>, EngineError> {
    let former = open.state().observation().await?;
    let observation = open.clock().observe();
    let row = ObservationRow { observation, generation: former.map_or(1, |row| row.generation + 1) };
    if former.is_some() {
        change.update(&row)
    } else {
        change.insert(&row)
    };
    let passed = former.map(|row| elapsed(row.observation, observation));
    let mut over = Vec::new();
    for version in open.state().waiting_for_destruction().await? {
        let Some(wait) = version.destroy.filter(|wait| wait.halt.is_none()) else { continue };
        let next = after(wait, passed);
        let row = DataKeyVersion { destroy: Some(next), generation: version.generation + 1, ..version.clone() };
        if next != wait {
            change.update(&row);
        }
        if next.is_over() {
            over.push(row);
        }
    }
    Ok(over)
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
    let done = execute(open, &Caller::system()?, DestroyVersion { name: name.clone(), acknowledged: Vec::new() }).await;
    match done {
        Err(EngineError::DestroyBlocked { obstacles }) if obstacles.iter().any(is_data) => stop(open, &name).await,
        // The count goes on, and the next turn asks again.
        Err(EngineError::StillCounting) => Ok(()),
        // An asset that cannot be counted now, or a campaign that is under way, will pass: the next turn tries again.
        done => done.map(drop),
    }
}

const fn is_data(obstacle: &Obstacle) -> bool {
    matches!(obstacle, Obstacle::ValuesLeft { .. } | Obstacle::OutsideUse { .. })
}

/// Data was found under a version whose wait is over: the countdown ends, and somebody has to look.
async fn stop(open: &Arc<Unsealed>, name: &KeyVersionName) -> Result<(), EngineError> {
    let generation = open.generation();
    let Some(key) = open.key(&name.key).await? else { return Ok(()) };
    let version = key.keyring.version(name.version)?;
    let now = open.now();
    let mut change = Change::new();
    put_key_change(&mut change, &with_wait(&key, version, None, now));
    let record = about_version(AlarmKind::DestroyStopped, &key.name, version, now)?;
    match open.commit(change, &record, generation).await {
        Ok(()) => {
            open.note_alarm(AlarmKind::DestroyStopped, version.kid, now);
            Ok(())
        }
        // The state changed meanwhile: the next tick looks again.
        Err(CommitError::Fenced) => Ok(()),
        Err(CommitError::Failed(error)) => Err(error),
    }
}
