//! Use per key version, counted from the log: what the log says is what was done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use keyrail_core::access::{Action, token_label};
use keyrail_core::id::TokenId;
use keyrail_core::record::{Outcome, Record, VersionUse};
use keyrail_core::system::UsageMark;
use keyrail_core::time::Timestamp;
use keyrail_core::usage::{Usage, UsageCount, UsageKey, UsagePlace};
use keyrail_crypto::envelope::Kid;
use keyrail_store::{Change, StoreError};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::EngineError;
use crate::unsealed::Unsealed;
use crate::unsealed::commit::to_its_end;

/// How many records are counted in one step.
const STEP_LEN: usize = 10_000;

/// How many steps of one count may be overtaken by others.
const OVERTAKEN_MAX: usize = 64;

/// How many records are known without reading them; others are read from the log.
const FRESH_LEN_MAX: usize = 65_536;

/// A record that names more versions is read from the log: the bound above is one of memory, too.
const FRESH_VERSIONS_MAX: usize = 4;

/// Follows the log, one step at a time.
#[derive(Default)]
pub(crate) struct UsageBook {
    /// Held while a step is counted, so that no record counts twice.
    turn: tokio::sync::Mutex<()>,
    /// Records that were made durable by this process, by their index: they need not be read again.
    fresh: parking_lot::Mutex<BTreeMap<u64, Fresh>>,
}

impl UsageBook {
    /// Notes a record that is durable now, so that it can be counted without reading it.
    pub(crate) fn note(&self, index: u64, noted: Fresh) {
        let mut fresh = self.fresh.lock();
        if fresh.len() < FRESH_LEN_MAX {
            fresh.insert(index, noted);
        }
    }

    /// Drops what is known: another node counts.
    pub(crate) fn forget(&self) {
        self.fresh.lock().clear();
    }

    /// Takes what is known of the records before `end`.
    fn take_fresh(&self, end: u64) -> BTreeMap<u64, Fresh> {
        let mut fresh = self.fresh.lock();
        let later = fresh.split_off(&end);
        std::mem::replace(&mut *fresh, later)
    }

    /// Counts every record that is durable now.
    pub(crate) async fn catch_up(&self, open: &Arc<Unsealed>) -> Result<(), EngineError> {
        let end = open.log().size_now()?;
        let mut overtaken = 0;
        loop {
            let open = open.clone();
            // A step whose caller is gone ends all the same: the next one must not begin from its old mark.
            match to_its_end(async move { step(&open, end).await }).await? {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Somebody else over the same store counted these records: the next step goes on from his mark.
                Err(EngineError::Store(StoreError::Conflict { .. } | StoreError::Exists { .. }))
                    if overtaken < OVERTAKEN_MAX =>
                {
                    overtaken += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How often a version encrypted, as far as it is counted.
    pub(crate) async fn encryptions(&self, open: &Unsealed, kid: &Kid) -> Result<u64, EngineError> {
        let rows = open.state().usage_of(kid).await?;
        Ok(rows.iter().filter(|row| encrypts(row.key.action)).map(|row| row.count.count).sum())
    }
}

/// Counts the next records before `end`. Answers whether there are no more.
async fn step(open: &Arc<Unsealed>, end: u64) -> Result<bool, EngineError> {
    let _turn = open.usage().turn.lock().await;
    let mark = open.state().usage_mark().await?;
    let mark = mark.unwrap_or(UsageMark { log_index: 0, generation: 0 });
    if mark.log_index >= end {
        return Ok(true);
    }
    let count = usize::try_from(end - mark.log_index).unwrap_or(STEP_LEN).min(STEP_LEN);
    let next = UsageMark { log_index: mark.log_index + count as u64, generation: mark.generation + 1 };
    let counts = count_records(open, mark.log_index, next.log_index)?;
    store(open, counts, &next).await?;
    Ok(next.log_index >= end)
}

/// Counts the records from `index` on and before `end`: those that are known, and the others as the log has them.
fn count_records(open: &Unsealed, mut index: u64, end: u64) -> Result<BTreeMap<UsageKey, UsageCount>, EngineError> {
    let mut fresh = open.usage().take_fresh(end);
    let mut counts = BTreeMap::new();
    while index < end {
        if let Some(record) = fresh.remove(&index) {
            tally(&record.counted(), &mut counts);
            index += 1;
            continue;
        }
        let known = fresh.range(index..).next().map_or(end, |(known, _)| *known);
        let bodies = open.log().read_bundle(index, usize::try_from(known - index).unwrap_or(STEP_LEN))?;
        if bodies.is_empty() {
            return Err(EngineError::Bug { what: "the log is shorter than its size" });
        }
        for body in &bodies {
            let record = serde_json::from_slice::<Counted<'_>>(&body.body);
            tally(&record.map_err(|_| EngineError::Bug { what: "a record that is not readable" })?, &mut counts);
        }
        index += bodies.len() as u64;
    }
    Ok(counts)
}

/// Counts a record of another log.
pub(crate) fn tally_body(body: &[u8], counts: &mut BTreeMap<UsageKey, UsageCount>) {
    if let Ok(record) = serde_json::from_slice::<Counted<'_>>(body) {
        tally(&record, counts);
    }
}

/// What is noted of a record. Requests come by the ten thousand: most of these need no memory of their own.
pub(crate) struct Fresh {
    time: Timestamp,
    principal: Whose,
    action: Action,
    versions: Named,
    asset: bool,
    outcome: Outcome,
}

enum Whose {
    Token(TokenId),
    Other(String),
}

enum Named {
    One(VersionUse),
    Some(Vec<VersionUse>),
}

impl Fresh {
    /// Of a record that names more versions than are noted there is nothing: it is read when it is counted.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        (record.versions.len() <= FRESH_VERSIONS_MAX).then(|| Self {
            time: record.time,
            principal: record.session.map_or_else(|| Whose::Other(record.principal.clone()), Whose::Token),
            action: record.action,
            versions: match record.versions.as_slice() {
                [only] => Named::One(*only),
                versions => Named::Some(versions.to_vec()),
            },
            asset: record.asset.is_some(),
            outcome: record.outcome,
        })
    }

    fn counted(self) -> Counted<'static> {
        Counted {
            time: self.time,
            principal: Cow::Owned(match self.principal {
                Whose::Token(token) => token_label(token),
                Whose::Other(label) => label,
            }),
            action: self.action,
            versions: match self.versions {
                Named::One(only) => vec![only],
                Named::Some(versions) => versions,
            },
            asset: self.asset.then_some(IgnoredAny),
            outcome: self.outcome,
        }
    }
}

/// What of a record is counted. Reading no more than that keeps counting cheap.
#[derive(Deserialize)]
struct Counted<'a> {
    time: Timestamp,
    #[serde(borrow)]
    principal: Cow<'a, str>,
    action: Action,
    #[serde(default)]
    versions: Vec<VersionUse>,
    #[serde(default)]
    asset: Option<IgnoredAny>,
    outcome: Outcome,
}

async fn store(
    open: &Arc<Unsealed>,
    counts: BTreeMap<UsageKey, UsageCount>,
    mark: &UsageMark,
) -> Result<(), EngineError> {
    let mut change = Change::new();
    for (key, count) in counts {
        match open.state().usage(&key).await? {
            Some(former) => {
                change.update(&Usage { key, count: former.count.plus(count), generation: former.generation + 1 })
            }
            None => change.insert(&Usage { key, count, generation: 1 }),
        };
    }
    if mark.generation == 1 {
        change.insert(mark)
    } else {
        change.update(mark)
    };
    open.commit_unrecorded(change.unrecorded("the log itself is what is counted")).await
}

fn tally(record: &Counted<'_>, counts: &mut BTreeMap<UsageKey, UsageCount>) {
    if record.outcome != Outcome::Done || !is_use(record.action) {
        return;
    }
    let place = if record.asset.is_some() { UsagePlace::Asset } else { UsagePlace::Outside };
    for used in &record.versions {
        let action = if used.opened { Action::DataDecrypt } else { record.action };
        let key = UsageKey { kid: used.kid, principal: record.principal.to_string(), action, place };
        let count = UsageCount::once(used.count, record.time);
        counts.entry(key).and_modify(|sum| *sum = sum.plus(count)).or_insert(count);
    }
}

const fn is_use(action: Action) -> bool {
    encrypts(action) || matches!(action, Action::DataDecrypt | Action::KeyExport | Action::AssetUnprotect)
}

const fn encrypts(action: Action) -> bool {
    matches!(
        action,
        Action::DataEncrypt
            | Action::DataReencrypt
            | Action::DataDataKey
            | Action::AssetProtect
            | Action::CampaignStart
            | Action::CampaignRollback
    )
}

#[cfg(test)]
mod tests;
