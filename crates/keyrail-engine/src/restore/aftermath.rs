//! What has to change in the rows of a backup before anybody uses them again.

use std::collections::BTreeMap;

use keyrail_core::key::{DataKeyVersion, Fence, Keyring, NewVersion};
use keyrail_core::lifecycle::{Toward, VersionEvent, VersionState, toward};
use keyrail_core::name::KeyName;
use keyrail_core::record::{Detail, Record};
use keyrail_core::system::{OutboxEntry, Setting, SettingName, SlotRole, UsageMark};
use keyrail_core::time::Timestamp;
use keyrail_core::token::Token;
use keyrail_core::usage::Usage;
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::secret::RootKey;
use keyrail_store::{Change, State};

use crate::backup::Manifest;
use crate::error::EngineError;
use crate::keys;
use crate::ops::put_key_change;
use crate::restore::past::{Named, Past};

/// How many lines of each kind the record of a restore has; the others are counted.
const LINES_MAX: usize = 1_000;

/// The change, and what of it is told.
pub(super) struct Aftermath {
    pub(super) change: Change,
    pub(super) revoked_again: Vec<String>,
    pub(super) rotated: Vec<String>,
    pub(super) versions_lost: Vec<String>,
    origin: String,
}

/// Works out the change that the first record of the new log tells of.
pub(super) async fn aftermath(
    state: &State,
    root: &RootKey,
    past: &Past,
    origin: &str,
    now: Timestamp,
) -> Result<Aftermath, EngineError> {
    let mut after = Aftermath {
        change: Change::new(),
        revoked_again: Vec::new(),
        rotated: Vec::new(),
        versions_lost: Vec::new(),
        origin: origin.to_owned(),
    };
    after.begin_log(state, now).await?;
    after.revoke_access(state, past, now).await?;
    let mut by_key: BTreeMap<&str, Vec<(&Kid, &Named)>> = BTreeMap::new();
    for (kid, named) in &past.versions {
        by_key.entry(named.key.as_str()).or_default().push((kid, named));
    }
    for (name, versions) in by_key {
        after.carry_key(state, root, past, name, &versions, now).await?;
    }
    after.count(state, past).await?;
    Ok(after)
}

impl Aftermath {
    /// From here on the log is another one, which has none of the former one's records.
    async fn begin_log(&mut self, state: &State, now: Timestamp) -> Result<(), EngineError> {
        let former = state.setting(&SettingName::LogOrigin).await?;
        let former = former.ok_or(EngineError::Bug { what: "the log has no name" })?;
        let generation = former.generation + 1;
        self.change.update(&Setting { value: self.origin.clone(), updated_at: now, generation, ..former });
        if let Some(head) = state.log_head().await? {
            self.change.delete(&head);
        }
        if let Some(mark) = state.usage_mark().await? {
            self.change.update(&UsageMark { log_index: 0, generation: mark.generation + 1 });
        }
        // The former log has their records: the backup was made when it had.
        let settled: Vec<_> =
            state.all::<OutboxEntry>(Vec::new()).await?.into_iter().map(|entry| entry.request).collect();
        self.change.settle(&settled);
        Ok(())
    }

    async fn revoke_access(&mut self, state: &State, past: &Past, now: Timestamp) -> Result<(), EngineError> {
        for id in &past.tokens {
            let Some(token) = state.token(id).await?.filter(|token| token.revoked_at.is_none()) else { continue };
            self.change.update(&Token { revoked_at: Some(now), generation: token.generation + 1, ..token });
            self.revoked_again.push(format!("token {id}"));
        }
        let slots = state.root_slots().await?;
        for row in slots.iter().filter(|row| past.slots.contains(&row.id) && row.role != SlotRole::Primary) {
            self.change.delete(row);
            self.revoked_again.push(format!("root slot {}", hex::encode(row.id)));
        }
        let allowed = state.setting(&SettingName::LocalOperator).await?.filter(|row| row.value != "off");
        if let (true, Some(row)) = (past.local_operator_off, allowed) {
            let generation = row.generation + 1;
            self.change.update(&Setting { value: "off".to_owned(), updated_at: now, generation, ..row });
            self.revoked_again.push("acting without a token".to_owned());
        }
        Ok(())
    }

    /// Brings the versions of a key to what the log shows of them.
    async fn carry_key(
        &mut self,
        state: &State,
        root: &RootKey,
        past: &Past,
        name: &str,
        versions: &[(&Kid, &Named)],
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let known = match name.parse::<KeyName>() {
            Ok(name) => state.keyring_by_name(&name).await?.map(|keyring| (name, keyring)),
            Err(_) => None,
        };
        let is_known = |kid: &Kid| known.as_ref().is_some_and(|(_, keyring)| keyring.by_kid(kid).is_some());
        let lost: Vec<_> = versions.iter().filter(|(kid, _)| !is_known(kid)).collect();
        for (kid, named) in &lost {
            self.versions_lost.push(format!("{name}@{} {kid} used {} times", named.version, named.uses));
        }
        let Some((name, mut keyring)) = known else { return Ok(()) };
        let restored: Vec<(Kid, VersionState)> =
            keyring.versions.iter().filter_map(|row| Some((row.kid, *past.states.get(&row.kid)?))).collect();
        for (kid, named) in lost {
            if keyring.version(named.version).is_err()
                && let Some(row) = keyring.versions.last().map(|last| gone(last, **kid, named, now))
            {
                self.change.insert(&row);
                keyring.versions.push(row);
            }
        }
        for (kid, logged) in restored {
            keyring = self.carry_version(state, root, (&name, keyring), kid, logged, now).await?;
        }
        Ok(())
    }

    async fn carry_version(
        &mut self,
        state: &State,
        root: &RootKey,
        (name, mut keyring): (&KeyName, Keyring),
        kid: Kid,
        logged: VersionState,
        now: Timestamp,
    ) -> Result<Keyring, EngineError> {
        let label = state.label_by_name(&keyring.key.label).await?;
        let demands = label.ok_or(EngineError::Bug { what: "a key's label is missing" })?.demands;
        let fence = Fence { now, write_window_seconds: demands.write_window_seconds };
        let mut moved = None;
        for _ in 0..STEPS_MAX {
            let Some(row) = keyring.by_kid(&kid) else { break };
            let number = row.version;
            let replaces = match toward(row.state, logged) {
                Toward::Done => break,
                Toward::Replace => true,
                Toward::Happens(event) => event == VersionEvent::Compromise && keyring.needs_replacement(number),
            };
            let step = toward(row.state, logged);
            let new = match replaces {
                true => Some(fresh(state, root, name, &keyring, demands.suite).await?),
                false => None,
            };
            if replaces {
                self.rotated.push(name.to_string());
            }
            let rows = match (step, new) {
                (Toward::Replace, Some(new)) => keyring.rotate(new, fence)?,
                (Toward::Happens(VersionEvent::Compromise), new) => keyring.compromise(number, new, fence)?,
                (Toward::Happens(VersionEvent::Suspend), _) => keyring.suspend(number, now)?,
                (Toward::Happens(VersionEvent::Resume), _) => keyring.resume(number, now)?,
                (Toward::Happens(VersionEvent::Retire), _) => keyring.retire(number, now)?,
                (Toward::Happens(VersionEvent::Destroy), _) => keyring.destroy(number, now)?,
                _ => return Err(EngineError::Bug { what: "a step that brings no version anywhere" }),
            };
            put_key_change(&mut self.change, &rows);
            keyring = keyring.with(&rows);
            moved = keyring.by_kid(&kid).map(|row| format!("{name}@{} is {}", row.version, row.state));
        }
        // That the active version has a successor again is told as a rotation.
        self.revoked_again.extend(moved.filter(|_| logged != VersionState::Deactivated));
        Ok(keyring)
    }

    /// Uses that the backup does not count and the log tells.
    async fn count(&mut self, state: &State, past: &Past) -> Result<(), EngineError> {
        for (key, count) in &past.usage {
            if state.data_key_version(&key.kid).await?.is_none() {
                continue;
            }
            match state.usage(key).await? {
                Some(former) => self.change.update(&Usage {
                    key: key.clone(),
                    count: former.count.plus(*count),
                    generation: former.generation + 1,
                }),
                None => self.change.insert(&Usage { key: key.clone(), count: *count, generation: 1 }),
            };
        }
        Ok(())
    }

    /// Tells the record what was restored, and what became of the time after it.
    pub(super) fn record(&self, mut record: Record, manifest: &Manifest, past: &Past) -> Record {
        let mut tell = |name: &str, value: String| record.detail.push(Detail { name: name.to_owned(), value });
        tell("former_origin", manifest.origin.clone());
        tell("former_log_size", manifest.log_size.to_string());
        tell("former_log_root", manifest.log_root.clone());
        tell("former_state", format!("{} {}", manifest.generation, manifest.state_root));
        tell("backup_time", manifest.time.to_string());
        tell("log_size_found", past.size.map_or("none".to_owned(), |size| size.to_string()));
        past.to_do().into_iter().for_each(|line| tell("to_do", line));
        for (action, count) in &past.changes {
            tell("changes_lost", format!("{action}: {count}"));
        }
        for (name, lines) in
            [("revoked_again", &self.revoked_again), ("rotated", &self.rotated), ("version_lost", &self.versions_lost)]
        {
            lines.iter().take(LINES_MAX).for_each(|line| tell(name, line.clone()));
            if let Some(more) = lines.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
                tell(name, format!("and {more} more"));
            }
        }
        record
    }
}

/// No way through the states is longer.
const STEPS_MAX: usize = 8;

/// A new version, wrapped by the active master key of the key's place.
async fn fresh(
    state: &State,
    root: &RootKey,
    name: &KeyName,
    keyring: &Keyring,
    suite: keyrail_crypto::suite::Suite,
) -> Result<NewVersion, EngineError> {
    let place = &name.app.environment;
    let missing = EngineError::Bug { what: "a key without a master key" };
    let domain =
        state.domain_by_name(&place.domain).await?.ok_or(EngineError::Bug { what: "a key without a domain" })?;
    let master = state.active_master(&domain.id, &place.environment).await?.ok_or(missing)?;
    let unwrapped = keys::unwrap_master_key(root, &master)?;
    keys::new_data_key(&unwrapped, master.id, keyring.next_version()?, suite)
}

/// A version that was made after the backup: its number is not given again, and values under it are told as lost.
fn gone(like: &DataKeyVersion, kid: Kid, named: &Named, now: Timestamp) -> DataKeyVersion {
    DataKeyVersion {
        kid,
        version: named.version,
        state: VersionState::Destroyed,
        wrapped: None,
        wrap_generation: 1,
        created_at: now,
        activated_at: Some(now),
        state_changed_at: now,
        fenced_at: None,
        fenced_window_seconds: None,
        destroy: None,
        generation: 1,
        ..like.clone()
    }
}
