//! Keys, their versions, and the moves that keep a keyring whole.

use keyrail_crypto::envelope::Kid;
use keyrail_crypto::suite::Suite;

use crate::id::{AppId, DataKeyId, DomainId, MasterKeyId, MasterVersionId};
use crate::lifecycle::{LifecycleError, VersionEvent, VersionState, transition};
use crate::name::{Name, VersionNumber};
use crate::text::text_enum;
use crate::time::Timestamp;

/// How many versions one key may have.
pub const VERSIONS_PER_KEY_MAX: usize = 10_000;

/// An isolation boundary: a tenant or a data domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Domain {
    /// Immutable id.
    pub id: DomainId,
    /// Unique name.
    pub name: Name,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// A low-code asset that uses keys: an app, workflow or flow in one environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct App {
    /// Immutable id.
    pub id: AppId,
    /// The domain it belongs to.
    pub domain: DomainId,
    /// Its environment.
    pub environment: Name,
    /// Its name, unique within domain and environment.
    pub name: Name,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// The master key of one domain and environment; its material is in its versions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MasterKey {
    /// Immutable id.
    pub id: MasterKeyId,
    /// The domain whose data keys it wraps.
    pub domain: DomainId,
    /// The environment whose data keys it wraps.
    pub environment: Name,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// One version of a master key, wrapped by the root key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MasterVersion {
    /// Immutable id.
    pub id: MasterVersionId,
    /// The master key.
    pub master_key: MasterKeyId,
    /// Its number within the master key.
    pub version: VersionNumber,
    /// Active wraps, deactivated unwraps only.
    pub state: VersionState,
    /// The wrapped key; `None` once destroyed.
    pub wrapped: Option<Vec<u8>>,
    /// Counts the wrappings of this key; part of what the wrapping is bound to.
    pub wrap_generation: u64,
    /// When it became active.
    pub activated_at: Timestamp,
    /// When its state last changed.
    pub state_changed_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

text_enum! {
    /// Whether a data key is in use at all.
    KeyStatus, "key status" {
        /// Has exactly one active version.
        Enabled = "enabled",
        /// Has none: its active version was suspended.
        Disabled = "disabled",
    }
}

/// A data key; its material is in its versions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataKey {
    /// Immutable id; every ciphertext is bound to it.
    pub id: DataKeyId,
    /// The app that uses it.
    pub app: AppId,
    /// Its name, unique within the app.
    pub name: Name,
    /// The label whose demands it keeps.
    pub label: Name,
    /// Whether it is in use.
    pub status: KeyStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// One version of a data key, wrapped by a master key version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataKeyVersion {
    /// Immutable id; stands in every ciphertext made under this version.
    pub kid: Kid,
    /// The data key.
    pub key: DataKeyId,
    /// Its number within the key.
    pub version: VersionNumber,
    /// What may be done with it.
    pub state: VersionState,
    /// The content algorithm of its ciphertexts.
    pub suite: Suite,
    /// The wrapped key; `None` once destroyed.
    pub wrapped: Option<Vec<u8>>,
    /// The master key version that wraps it.
    pub wrapped_by: MasterVersionId,
    /// Counts the wrappings of this key; part of what the wrapping is bound to.
    pub wrap_generation: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last became active.
    pub activated_at: Option<Timestamp>,
    /// When its state last changed.
    pub state_changed_at: Timestamp,
    /// When it stopped encrypting for another version; the write window counts from here. A version that was suspended
    /// while it was active keeps `None`: no other took its place, and it encrypts again when it is resumed.
    pub fenced_at: Option<Timestamp>,
    /// The longest write window, in seconds, that its label had when it was fenced: it was promised to whoever got a
    /// ciphertext before, whatever the key's label says later.
    pub fenced_window_seconds: Option<u64>,
    /// The countdown to destruction, if one runs.
    pub destroy: Option<DestroyWait>,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// A countdown to destruction, in observed time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DestroyWait {
    /// How long it waits in all, in seconds.
    pub wait_seconds: u64,
    /// How much of that was observed so far, in seconds.
    pub observed_seconds: u64,
    /// Why it stands still, if it does.
    pub halt: Option<DestroyHalt>,
    /// When it began: use from then on is use meanwhile. A countdown of an earlier schema does not know.
    pub began_at: Option<Timestamp>,
}

text_enum! {
    /// Why a countdown to destruction stands still until somebody asks for destruction again.
    DestroyHalt, "reason to halt destruction" {
        /// The wall clock was set by hand.
        ClockJumped = "clock-jumped",
        /// Somebody asked for data under this version to be decrypted.
        DecryptRefused = "decrypt-refused",
    }
}

impl DestroyWait {
    /// Whether the waiting is over.
    pub const fn is_over(&self) -> bool {
        self.halt.is_none() && self.observed_seconds >= self.wait_seconds
    }
}

impl DataKeyVersion {
    /// Permission to encrypt under this version.
    ///
    /// # Errors
    /// [`UseRefusal`] unless the version is active.
    pub fn for_encrypt(&self) -> Result<EncryptPermit<'_>, UseRefusal> {
        if self.state.encrypts() { Ok(EncryptPermit(self)) } else { Err(self.refusal()) }
    }

    /// Permission to decrypt under this version.
    ///
    /// # Errors
    /// [`UseRefusal`] unless the version is active, deactivated or compromised.
    pub fn for_decrypt(&self) -> Result<DecryptPermit<'_>, UseRefusal> {
        if self.state.decrypts() { Ok(DecryptPermit(self)) } else { Err(self.refusal()) }
    }

    /// The row after `event`.
    fn after(&self, event: VersionEvent, now: Timestamp) -> Result<Self, LifecycleError> {
        let state = transition(self.state, event)?;
        let mut row = Self { state, state_changed_at: now, generation: self.generation + 1, ..self.clone() };
        if self.would_encrypt() && !row.would_encrypt() {
            row.fenced_at = Some(if self.state.encrypts() { now } else { self.state_changed_at });
        }
        match state {
            VersionState::Active => {
                row.activated_at = Some(now);
                row.fenced_at = None;
            }
            VersionState::Destroyed => row.wrapped = None,
            _ => {}
        }
        row.destroy = None;
        Ok(row)
    }

    /// The row after `event`, if that may be what fences it.
    fn after_fence(&self, event: VersionEvent, fence: Fence) -> Result<Self, LifecycleError> {
        let mut row = self.after(event, fence.now)?;
        if self.fenced_at.is_none() && row.fenced_at.is_some() {
            row.fenced_window_seconds = self.fenced_window_seconds.max(Some(fence.write_window_seconds));
        }
        Ok(row)
    }

    /// Whether it encrypts, or will again once it is resumed: no other version took its place.
    fn would_encrypt(&self) -> bool {
        self.state.encrypts() || (self.state == VersionState::Suspended && self.fenced_at.is_none())
    }

    fn refusal(&self) -> UseRefusal {
        UseRefusal { version: self.version, state: self.state }
    }
}

/// Proof that a version may encrypt now.
pub struct EncryptPermit<'a>(&'a DataKeyVersion);

impl EncryptPermit<'_> {
    /// The version.
    pub fn version(&self) -> &DataKeyVersion {
        self.0
    }
}

/// Proof that a version may decrypt now.
pub struct DecryptPermit<'a>(&'a DataKeyVersion);

impl DecryptPermit<'_> {
    /// The version.
    pub fn version(&self) -> &DataKeyVersion {
        self.0
    }
}

/// A version is in a state that does not allow the use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("key version {version} is {state}")]
pub struct UseRefusal {
    /// The version's number.
    pub version: VersionNumber,
    /// Its state.
    pub state: VersionState,
}

/// A data key with all its versions, the only place where versions change together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keyring {
    /// The key.
    pub key: DataKey,
    /// Its versions, in the order of their numbers.
    pub versions: Vec<DataKeyVersion>,
}

/// What a new version is made of; the caller brings randomness and the wrapping.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewVersion {
    /// The id of the new version.
    pub kid: Kid,
    /// Its content algorithm.
    pub suite: Suite,
    /// The wrapped key, bound to [`Keyring::next_version`] and generation 1.
    pub wrapped: Vec<u8>,
    /// The master key version that wraps it.
    pub wrapped_by: MasterVersionId,
}

/// When a version stops encrypting for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fence {
    /// When that is decided.
    pub now: Timestamp,
    /// The write window of the key's label until then, in seconds.
    pub write_window_seconds: u64,
}

/// Rows that change together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyChange {
    /// The key's new row: its generation counts every change of the keyring.
    pub key: DataKey,
    /// A version that is new.
    pub added: Option<DataKeyVersion>,
    /// The new rows of versions that were there.
    pub changed: Vec<DataKeyVersion>,
}

impl Keyring {
    /// The version that encrypts, if the key is enabled.
    pub fn active(&self) -> Option<&DataKeyVersion> {
        self.versions.iter().find(|version| version.state == VersionState::Active)
    }

    /// The version with this number.
    ///
    /// # Errors
    /// [`KeyError::NoSuchVersion`].
    pub fn version(&self, number: VersionNumber) -> Result<&DataKeyVersion, KeyError> {
        self.versions
            .iter()
            .find(|version| version.version == number)
            .ok_or(KeyError::NoSuchVersion { version: number })
    }

    /// The version with this id.
    pub fn by_kid(&self, kid: &Kid) -> Option<&DataKeyVersion> {
        self.versions.iter().find(|version| version.kid == *kid)
    }

    /// The number that the next version gets.
    ///
    /// # Errors
    /// [`KeyError::TooManyVersions`].
    pub fn next_version(&self) -> Result<VersionNumber, KeyError> {
        if self.versions.len() >= VERSIONS_PER_KEY_MAX {
            return Err(KeyError::TooManyVersions { max: VERSIONS_PER_KEY_MAX });
        }
        let last = self.versions.iter().map(|version| version.version).max();
        last.map_or(Some(VersionNumber::FIRST), VersionNumber::next)
            .ok_or(KeyError::TooManyVersions { max: VERSIONS_PER_KEY_MAX })
    }

    /// Makes `new` the active version; the one before becomes deactivated.
    ///
    /// # Errors
    /// [`KeyError::Disabled`], [`KeyError::TooManyVersions`].
    pub fn rotate(&self, new: NewVersion, fence: Fence) -> Result<KeyChange, KeyError> {
        self.require_enabled()?;
        let added = self.new_active(new, fence.now)?;
        let former = self.active().map(|version| version.after_fence(VersionEvent::Deactivate, fence)).transpose()?;
        Ok(KeyChange {
            key: self.key_with(self.key.status, fence.now),
            added: Some(added),
            changed: former.into_iter().collect(),
        })
    }

    /// Makes a former version the active one again: the way back of a campaign.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`] unless the version is deactivated, [`KeyError::Disabled`].
    pub fn activate_former(&self, number: VersionNumber, fence: Fence) -> Result<KeyChange, KeyError> {
        self.require_enabled()?;
        let chosen = self.version(number)?.after(VersionEvent::Activate, fence.now)?;
        let former = self.active().map(|version| version.after_fence(VersionEvent::Deactivate, fence)).transpose()?;
        Ok(KeyChange {
            key: self.key_with(self.key.status, fence.now),
            added: None,
            changed: former.into_iter().chain([chosen]).collect(),
        })
    }

    /// Declares a version exposed. If it is the one that encrypts, or the suspended one that would encrypt again,
    /// `replacement` becomes active in the same change: otherwise the key could never be enabled again.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`], [`KeyError::ReplacementNeeded`].
    pub fn compromise(
        &self,
        number: VersionNumber,
        replacement: Option<NewVersion>,
        fence: Fence,
    ) -> Result<KeyChange, KeyError> {
        let exposed = self.version(number)?.after_fence(VersionEvent::Compromise, fence)?;
        let (added, status) = match (self.needs_replacement(number), replacement) {
            (true, None) => return Err(KeyError::ReplacementNeeded { version: number }),
            (true, Some(new)) => (Some(self.new_active(new, fence.now)?), KeyStatus::Enabled),
            (false, _) => (None, self.key.status),
        };
        Ok(KeyChange { key: self.key_with(status, fence.now), added, changed: vec![exposed] })
    }

    /// Whether the key has no version to encrypt with once this one is gone for good.
    pub fn needs_replacement(&self, number: VersionNumber) -> bool {
        self.encrypting().is_some_and(|version| version.version == number)
    }

    /// The active version; of a disabled key the suspended one that becomes active when it is resumed.
    fn encrypting(&self) -> Option<&DataKeyVersion> {
        self.versions.iter().find(|version| version.would_encrypt())
    }

    /// Suspends a version; suspending the active one disables the key.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`], [`KeyError::NoSuchVersion`].
    pub fn suspend(&self, number: VersionNumber, now: Timestamp) -> Result<KeyChange, KeyError> {
        let version = self.version(number)?;
        let status = if version.state.encrypts() { KeyStatus::Disabled } else { self.key.status };
        Ok(KeyChange {
            key: self.key_with(status, now),
            added: None,
            changed: vec![version.after(VersionEvent::Suspend, now)?],
        })
    }

    /// Resumes a suspended version. The one that was active last becomes active again, which enables the key; any
    /// other comes back to decrypt only.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`], [`KeyError::NoSuchVersion`].
    pub fn resume(&self, number: VersionNumber, now: Timestamp) -> Result<KeyChange, KeyError> {
        let resumed = self.version(number)?.after(VersionEvent::Resume, now)?;
        if self.key.status == KeyStatus::Enabled || !self.needs_replacement(number) {
            return Ok(KeyChange { key: self.key_with(self.key.status, now), added: None, changed: vec![resumed] });
        }
        // It is as old as it was: a break does not put its rotation off.
        let active = DataKeyVersion {
            generation: resumed.generation,
            activated_at: resumed.activated_at,
            ..resumed.after(VersionEvent::Activate, now)?
        };
        Ok(KeyChange { key: self.key_with(KeyStatus::Enabled, now), added: None, changed: vec![active] })
    }

    /// Retires a version: it opens nothing more.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`], [`KeyError::NoSuchVersion`].
    pub fn retire(&self, number: VersionNumber, now: Timestamp) -> Result<KeyChange, KeyError> {
        self.single(number, VersionEvent::Retire, now)
    }

    /// Brings a retired version back to decrypt.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`], [`KeyError::NoSuchVersion`].
    pub fn reinstate(&self, number: VersionNumber, now: Timestamp) -> Result<KeyChange, KeyError> {
        self.single(number, VersionEvent::Reinstate, now)
    }

    /// Drops the key material of a version, for good.
    ///
    /// # Errors
    /// [`KeyError::Lifecycle`], [`KeyError::NoSuchVersion`].
    pub fn destroy(&self, number: VersionNumber, now: Timestamp) -> Result<KeyChange, KeyError> {
        self.single(number, VersionEvent::Destroy, now)
    }

    fn single(&self, number: VersionNumber, event: VersionEvent, now: Timestamp) -> Result<KeyChange, KeyError> {
        Ok(KeyChange {
            key: self.key_with(self.key.status, now),
            added: None,
            changed: vec![self.version(number)?.after(event, now)?],
        })
    }

    /// The keyring after a change, for callers that go on with it.
    #[must_use]
    pub fn with(mut self, change: &KeyChange) -> Self {
        self.key = change.key.clone();
        for row in &change.changed {
            if let Some(version) = self.versions.iter_mut().find(|version| version.kid == row.kid) {
                *version = row.clone();
            }
        }
        self.versions.extend(change.added.clone());
        self
    }

    fn require_enabled(&self) -> Result<(), KeyError> {
        match self.key.status {
            KeyStatus::Enabled => Ok(()),
            KeyStatus::Disabled => Err(KeyError::Disabled { name: self.key.name.clone() }),
        }
    }

    fn key_with(&self, status: KeyStatus, now: Timestamp) -> DataKey {
        DataKey { status, updated_at: now, generation: self.key.generation + 1, ..self.key.clone() }
    }

    fn new_active(&self, new: NewVersion, now: Timestamp) -> Result<DataKeyVersion, KeyError> {
        Ok(DataKeyVersion {
            kid: new.kid,
            key: self.key.id,
            version: self.next_version()?,
            state: VersionState::Active,
            suite: new.suite,
            wrapped: Some(new.wrapped),
            wrapped_by: new.wrapped_by,
            wrap_generation: 1,
            created_at: now,
            activated_at: Some(now),
            state_changed_at: now,
            fenced_at: None,
            fenced_window_seconds: None,
            destroy: None,
            generation: 1,
        })
    }
}

/// Why a keyring does not make a move.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key is disabled.
    #[error("key `{name}` is disabled")]
    Disabled {
        /// The key's name.
        name: Name,
    },
    /// The version's state does not allow it.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// There is no such version.
    #[error("the key has no version {version}")]
    NoSuchVersion {
        /// The number asked for.
        version: VersionNumber,
    },
    /// The active version cannot go without another in its place.
    #[error("key version {version} is active and needs a replacement first")]
    ReplacementNeeded {
        /// The active version.
        version: VersionNumber,
    },
    /// The key has as many versions as it may have.
    #[error("the key has {max} versions, and cannot have more")]
    TooManyVersions {
        /// The limit.
        max: usize,
    },
}

#[cfg(test)]
mod tests;
