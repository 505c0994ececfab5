//! The root key of an opened store. It can be rotated while the store is in use, here or by another process.

use std::sync::Arc;

use keyrail_core::id::MasterVersionId;
use keyrail_core::system::RootSecretPurpose;
use keyrail_crypto::secret::{MasterKey, RootKey, StoreKey};
use keyrail_seal::{RootSpec, SealError};
use keyrail_store::State;
use parking_lot::RwLock;

use crate::bootstrap;
use crate::engine::TURN_WAIT_MAX;
use crate::error::EngineError;
use crate::keys;
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::roots::open_any;
use crate::unsealed::{MASTER_CACHE_SECONDS, Unsealed};

/// The root key that this process works with.
pub(super) struct RootInUse {
    held: RwLock<Held>,
    /// Held from before a rotation is committed until its root key is in use: who finds rows of the next one waits.
    rotation: tokio::sync::Mutex<()>,
}

struct Held {
    key: Arc<RootKey>,
    /// The slot of the root that opened the store, or that it was moved to since.
    slot: [u8; 16],
}

impl RootInUse {
    pub(super) fn new(key: RootKey, slot: [u8; 16]) -> Self {
        Self { held: RwLock::new(Held { key: Arc::new(key), slot }), rotation: tokio::sync::Mutex::default() }
    }

    fn key(&self) -> Arc<RootKey> {
        self.held.read().key.clone()
    }
}

impl Unsealed {
    /// The root key that the rows of the store are wrapped under now. Whoever wraps something under it asks here, under
    /// the generation that it commits with: what is wrapped under a former one opens nothing.
    ///
    /// # Errors
    /// [`EngineError::Root`] when another process rotated it and the root of trust cannot be used, [`EngineError::Store`].
    pub(crate) async fn root(&self) -> Result<Arc<RootKey>, EngineError> {
        let at_hand = self.root.key();
        if self.is_present(&at_hand).await? {
            return Ok(at_hand);
        }
        let _turn = self.root.rotation.lock().await;
        let at_hand = self.root.key();
        if self.is_present(&at_hand).await? {
            return Ok(at_hand);
        }
        self.reopen().await
    }

    /// Whether the rows of the store are wrapped under this root key.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub(crate) async fn is_present(&self, root: &RootKey) -> Result<bool, EngineError> {
        is_root_of(self.state(), root).await
    }

    /// The root key of a copy of the rows, which has to be that of the present ones.
    ///
    /// # Errors
    /// As [`Unsealed::root`]; [`EngineError::Contended`] if it was rotated since the copy was made.
    pub(crate) async fn root_of(&self, copy: &State) -> Result<Arc<RootKey>, EngineError> {
        let root = self.root().await?;
        if is_root_of(copy, &root).await? { Ok(root) } else { Err(EngineError::Contended) }
    }

    /// Opens the root key anew with the root of trust that is written down.
    async fn reopen(&self) -> Result<Arc<RootKey>, EngineError> {
        let rows = self.state().root_slots().await?;
        let (key, slot) = blocking(|| open_any(&rows, self.configured_root()?.resolve()?.as_ref()))?;
        let key = Arc::new(key);
        if !self.is_present(&key).await? {
            return Err(SealError::SlotDamaged.into());
        }
        self.set_root(key.clone(), slot);
        Ok(key)
    }

    /// Held while the root key is changed: [`Unsealed::root`] waits for its end.
    pub(crate) async fn rotating(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.root.rotation.lock().await
    }

    /// From here on this is the root key, and this the slot that it was opened with.
    pub(crate) fn set_root(&self, key: Arc<RootKey>, slot: [u8; 16]) {
        *self.root.held.write() = Held { key, slot };
    }

    /// The slot of the root that opens the store now.
    pub(crate) fn opened_by(&self) -> [u8; 16] {
        self.root.held.read().slot
    }

    pub(crate) fn set_opened_by(&self, slot: [u8; 16]) {
        self.root.held.write().slot = slot;
    }

    /// The turn to ask a root of trust: one request at a time does.
    pub(crate) async fn root_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, EngineError> {
        let turn = tokio::time::timeout(TURN_WAIT_MAX, self.root_turn.lock()).await;
        turn.map_err(|_| EngineError::RootBusy)
    }

    /// The root of trust that opens the store at a start.
    pub(crate) fn configured_root(&self) -> Result<RootSpec, EngineError> {
        let dir = self.data_dir().ok_or(EngineError::Bug { what: "the store has no directory" })?;
        bootstrap::configured_root(&Paths::new(dir))
    }

    /// An unwrapped master key version.
    pub(crate) async fn master(&self, id: MasterVersionId) -> Result<Arc<MasterKey>, EngineError> {
        let generation = self.generation();
        let now = self.now();
        if let Some(master) = self.masters.get(generation, now, &id) {
            return Ok(master);
        }
        let master = Arc::new(Box::pin(self.unwrap_master(&id)).await?);
        self.masters.put(generation, id, master.clone(), now.plus_seconds(MASTER_CACHE_SECONDS));
        Ok(master)
    }

    /// A master key version, unwrapped. One that does not open was altered, or the root key was rotated meanwhile.
    async fn unwrap_master(&self, id: &MasterVersionId) -> Result<MasterKey, EngineError> {
        let missing = || EngineError::Bug { what: "a master key version is missing" };
        let row = self.state().master_version(id).await?.ok_or_else(missing)?;
        if let Ok(master) = keys::unwrap_master_key(&self.root.key(), &row) {
            return Ok(master);
        }
        let root = self.root().await?;
        let row = self.state().master_version(id).await?.ok_or_else(missing)?;
        keys::unwrap_master_key(&root, &row)
    }
}

/// Whether these rows are wrapped under this root key.
async fn is_root_of(state: &State, root: &RootKey) -> Result<bool, EngineError> {
    let secrets = state.root_secrets().await?;
    let row = secrets.iter().find(|row| row.purpose == RootSecretPurpose::Store);
    let row = row.ok_or(EngineError::Root(SealError::SlotDamaged))?;
    Ok(keys::unwrap_root_secret::<StoreKey>(root, row).is_ok())
}
