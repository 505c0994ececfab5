//! Countdowns to destruction: carried on by the time that both clocks of the machine saw go by.

use std::collections::HashMap;
use std::sync::Arc;

use keyrail_core::key::{DataKeyVersion, DestroyHalt, DestroyWait};
use keyrail_core::name::KeyVersionName;
use keyrail_core::retirement::Obstacle;
use keyrail_core::system::ObservationRow;
use keyrail_core::time::{Elapsed, Timestamp, elapsed};
use keyrail_crypto::envelope::Kid;
use keyrail_store::Change;
use tokio::time::Instant;

use crate::error::EngineError;
use crate::ops::put_key_change;
use crate::ops::retire::{DestroyVersion, with_wait};
use crate::pipeline::{CommitError, execute_since};
use crate::request::Caller;
use crate::unsealed::Unsealed;
use crate::unsealed::alarm::{AlarmKind, about_version};

/// Carries all countdowns on, and destroys what has waited long enough.
pub(crate) async fn tick(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    // All of them wait together no longer than one may: else the last one's turn comes when the first one's count is
    // too old, and each is counted again and again.
    let (began, mut results) = (Instant::now(), Vec::new());
    for version in look(open).await? {
        results.push(destroy(open, &version, began).await);
    }
    results.into_iter().collect()
}

/// Carries all countdowns on by what went by until now, and destroys nothing. Answers which of them have waited long
/// enough.
pub(crate) async fn look(open: &Arc<Unsealed>) -> Result<Vec<DataKeyVersion>, EngineError> {
    if open.state().waiting_for_destruction().await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut change = Change::new();
    let over = carry_on(open, &mut change).await?;
    open.commit_bookkeeping(change.unrecorded("time that went by is no operation")).await?;
    Ok(over)
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

async fn destroy(open: &Arc<Unsealed>, version: &DataKeyVersion, began: Instant) -> Result<(), EngineError> {
    // A count that was waited for is used as soon as it has ended: it does not keep.
    if !open.counts.waits(&version.kid) && !open.retries.lock().is_due(&version.kid, open.now()) {
        return Ok(());
    }
    let Some(key) = open.state().data_key(&version.key).await? else { return Ok(()) };
    let key = open.state().key_name(&key).await?;
    let name = KeyVersionName { key, version: version.version };
    let op = DestroyVersion { name: name.clone(), acknowledged: Vec::new() };
    let done = execute_since(open, &Caller::system()?, op, began).await;
    match done {
        Err(EngineError::DestroyBlocked { obstacles }) if obstacles.iter().any(is_data) => stop(open, &name).await,
        // An asset that cannot be counted now, or a campaign that is under way, may pass. If it does not, somebody has to
        // look: each turn counts all assets of the key.
        Err(EngineError::DestroyBlocked { obstacles }) => {
            open.retries.lock().put_off(version.kid, open.now());
            open.raise_about(AlarmKind::DestroyWaits, &name.key, version, &obstacles).await.map(drop)
        }
        // The count goes on, or others are counted first: nobody has to look.
        Err(EngineError::StillCounting | EngineError::TooMany { .. }) => {
            open.retries.lock().put_off(version.kid, open.now());
            Ok(())
        }
        done => {
            open.retries.lock().forget(&version.kid);
            done.map(drop)
        }
    }
}

/// Destructions that something stands in the way of: when each is tried again.
#[derive(Default)]
pub(crate) struct Retries(HashMap<Kid, Retry>);

struct Retry {
    wait_seconds: u64,
    next_at: Timestamp,
}

impl Retries {
    fn is_due(&self, kid: &Kid, now: Timestamp) -> bool {
        // A clock that was set back does not put it off for longer than the wait itself.
        self.0.get(kid).is_none_or(|retry| now >= retry.next_at || now.plus_seconds(retry.wait_seconds) < retry.next_at)
    }

    /// Each time for twice as long.
    fn put_off(&mut self, kid: Kid, now: Timestamp) {
        if self.0.len() >= RETRIES_MAX && !self.0.contains_key(&kid) {
            self.0.clear();
        }
        let former = self.0.get(&kid).map_or(RETRY_SECONDS_MIN / 2, |retry| retry.wait_seconds);
        let wait_seconds = former.saturating_mul(2).min(RETRY_SECONDS_MAX);
        self.0.insert(kid, Retry { wait_seconds, next_at: now.plus_seconds(wait_seconds) });
    }

    fn forget(&mut self, kid: &Kid) {
        self.0.remove(kid);
    }
}

/// How long a destruction that something stands in the way of is put off at first, in seconds.
const RETRY_SECONDS_MIN: u64 = 60;

/// How long it is put off at most, in seconds.
const RETRY_SECONDS_MAX: u64 = 6 * 60 * 60;

/// How many of them are known; beyond it all are tried again.
const RETRIES_MAX: usize = 4_096;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_blocked_is_tried_less_and_less_often() {
        let (mut retries, kid) = (Retries::default(), Kid::from_bytes([1; 16]));
        let mut now = Timestamp::from_millis(0);
        let mut tried = Vec::new();
        for minute in 0..3 * 24 * 60 {
            if retries.is_due(&kid, now) {
                tried.push(minute);
                retries.put_off(kid, now);
            }
            now = now.plus_seconds(60);
        }
        assert_eq!(tried[..6], [0, 1, 3, 7, 15, 31]);
        assert!(tried.windows(2).all(|pair| pair[1] - pair[0] <= 6 * 60), "{tried:?}");
        assert!(tried.len() < 22, "{tried:?}");
        assert!(!retries.is_due(&kid, now.minus_seconds(60)));
        assert!(retries.is_due(&kid, now.minus_seconds(365 * 86_400)), "the clock was set back");
        retries.forget(&kid);
        assert!(retries.is_due(&kid, now));
    }
}
