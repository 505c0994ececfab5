//! The versions of an asset's key, unwrapped for as long as a piece of work lasts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use keyrail_core::key::Keyring;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::KeyName;
use keyrail_crypto::envelope::{KeyRef, Kid};
use keyrail_engine::{EngineError, Material, OpenKey, Unsealed};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::cells::{Keys, Known};
use crate::error::AssetError;

/// How many foreign version ids are remembered, so that a table full of them costs no endless memory.
const OTHERS_MAX: usize = 100_000;

/// The versions of one key, as they were under one generation of the state.
pub struct Keyset {
    /// The generation.
    pub generation: u64,
    /// The key.
    pub key: Arc<OpenKey>,
    versions: BTreeMap<Kid, Version>,
    open: Arc<Unsealed>,
    handle: Handle,
    /// Ids that are none of this key's: whether they are of another key of ours.
    others: Mutex<HashMap<Kid, bool>>,
}

struct Version {
    number: u32,
    state: VersionState,
    material: Option<Arc<Material>>,
}

impl Keyset {
    /// Unwraps every version that may decrypt.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Unopenable`], [`EngineError::Store`].
    pub async fn load(open: &Arc<Unsealed>, name: &KeyName) -> Result<Self, EngineError> {
        // Taken first: if the state changes while the versions are read, what is done with them is fenced.
        let generation = open.generation();
        let absent = || EngineError::NotFound { what: "key", name: name.to_string() };
        let key = open.key(name).await?.ok_or_else(absent)?;
        let mut versions = BTreeMap::new();
        for row in &key.keyring.versions {
            let material = match row.for_decrypt() {
                Ok(permit) => Some(open.material_to_decrypt(&key, &permit).await?),
                Err(_) => None,
            };
            versions.insert(row.kid, Version { number: row.version.get(), state: row.state, material });
        }
        let (open, handle) = (open.clone(), Handle::current());
        Ok(Self { generation, key, versions, open, handle, others: Mutex::default() })
    }

    /// The keyring.
    pub fn keyring(&self) -> &Keyring {
        &self.key.keyring
    }

    /// What seals under the active version.
    ///
    /// # Errors
    /// [`EngineError::Key`] when the key is disabled.
    pub fn active(&self) -> Result<KeyRef<'_>, EngineError> {
        let disabled = || keyrail_core::key::KeyError::Disabled { name: self.keyring().key.name.clone() };
        let active = self.keyring().active().ok_or_else(disabled)?;
        let material = self.versions.get(&active.kid).and_then(|version| version.material.as_ref());
        Ok(material.ok_or_else(disabled)?.key_ref())
    }
}

impl Keyset {
    /// Whether an id that is none of this key's belongs to another key of ours. Blocks; not for async code.
    fn is_elsewhere(&self, kid: &Kid) -> Result<bool, AssetError> {
        if let Some(found) = self.others.lock().get(kid) {
            return Ok(*found);
        }
        let found = self.handle.block_on(self.open.state().data_key_version(kid));
        let found = found.map_err(|error| AssetError::Before(Box::new(error.into())))?.is_some();
        let mut others = self.others.lock();
        if others.len() < OTHERS_MAX {
            others.insert(*kid, found);
        }
        Ok(found)
    }
}

impl Keys for Keyset {
    fn known(&self, kid: &Kid) -> Result<Known<'_>, AssetError> {
        Ok(match self.versions.get(kid) {
            Some(Version { material: Some(material), .. }) => Known::Usable(material.key_ref()),
            Some(Version { state: VersionState::Destroyed, .. }) => Known::Destroyed,
            Some(Version { material: None, .. }) => Known::Unusable,
            None if self.is_elsewhere(kid)? => Known::Elsewhere,
            None => Known::Foreign,
        })
    }

    fn number(&self, kid: &Kid) -> u32 {
        self.versions.get(kid).map_or(u32::MAX, |version| version.number)
    }
}
