//! The opened store: state, log, keys and caches, as long as the service is unsealed.

pub(crate) mod alarm;
pub(crate) mod commit;
pub(crate) mod late;
pub(crate) mod parts;
mod present;
pub(crate) mod root;
pub(crate) mod tenure;
pub(crate) mod told;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyrail_audit::{Checkpoint, VerifierKey};
use keyrail_core::access::Decision;
use keyrail_core::id::{MasterVersionId, RequestId};
use keyrail_core::key::{DataKeyVersion, DecryptPermit, EncryptPermit, Fence, Keyring};
use keyrail_core::label::Demands;
use keyrail_core::name::{AppPath, KeyName};
use keyrail_core::system::{LogHeadRow, SettingName};
use keyrail_core::time::{Clock, Observation, Timestamp};
use keyrail_core::token::Token;
use keyrail_crypto::envelope::{KeyRef, Kid};
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::{DataKey, MasterKey};
use keyrail_seal::SealState;
use keyrail_store::State;
use parking_lot::{Mutex, RwLock};

use crate::anchor::{AnchorSet, AnchorView, Keepers};
use crate::authorize::DecisionKey;
use crate::cache::GenerationCache;
use crate::clock::ClockWatch;
use crate::countdown::Retries;
use crate::counting::Counts;
use crate::error::EngineError;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::parallel::blocking;
use crate::pipeline::{Operation, execute};
use crate::ports::AssetPort;
use crate::refusals::Refusals;
use crate::request::Caller;
use crate::scheduler::Walk;
use crate::unsealed::alarm::Raised;
use crate::unsealed::commit::Pending;
use crate::unsealed::late::Late;
use crate::unsealed::present::OwnFence;
use crate::unsealed::root::RootInUse;
use crate::unsealed::tenure::Tenure;
use crate::unsealed::told::Told;
use crate::usage::UsageBook;

/// How many tokens, decisions and keys are kept at hand.
const CACHE_ENTRIES_MAX: usize = 4_096;

/// How many unwrapped versions of one key are kept at hand: with [`CACHE_ENTRIES_MAX`] keys, 2 MiB in all.
const MATERIALS_PER_KEY_MAX: usize = 16;

/// How many fences are known by their time; one that is older than all of these is long complete.
const FENCES_MAX: usize = 4_096;

/// How many unwrapped master key versions are kept at hand.
const MASTERS_MAX: usize = 256;

/// How long an unwrapped master key may stay in memory without a change of state, in seconds.
const MASTER_CACHE_SECONDS: u64 = 300;

/// The first generation of a process; nothing is decided under generation 0.
const GENERATION_FIRST: u64 = 1;

/// Everything that is there while the store is unsealed.
pub struct Unsealed {
    state: State,
    log: Journal,
    verifier: VerifierKey,
    audit_dir: PathBuf,
    clock: Arc<dyn Clock>,
    root: RootInUse,
    /// Held by a request while it waits for a root of trust: each keeps a thread.
    root_turn: tokio::sync::Mutex<()>,
    token_key: MacKey,
    /// Whether the local operator may act, as the store said under a generation.
    local_operator: Mutex<Option<(u64, bool)>>,
    /// Counts the changes of state that a decision may depend on; also the log's epoch.
    generation: AtomicU64,
    /// Held while a change is committed, fenced and recorded, so that the log has changes in their order.
    order: tokio::sync::Mutex<()>,
    /// Set under `order` when the store is closed: whoever still works with it changes nothing any more.
    closed: AtomicBool,
    /// Tokens by the SHA-256 of what was shown.
    pub(crate) tokens: GenerationCache<[u8; 32], Arc<Token>>,
    pub(crate) decisions: GenerationCache<DecisionKey, Decision>,
    pub(crate) keyrings: GenerationCache<KeyName, Arc<OpenKey>>,
    masters: GenerationCache<MasterVersionId, Arc<MasterKey>>,
    /// Outbox rows that the log has: deleted along with the next change.
    settled: Mutex<Vec<RequestId>>,
    remembered: Mutex<Option<LogHeadRow>>,
    /// How far the log tells of the rows.
    told: Told,
    assets: OnceLock<Arc<dyn AssetPort>>,
    usage: UsageBook,
    /// Counts of assets that go on by themselves.
    pub(crate) counts: Counts,
    /// How long a request waits for them.
    pub(crate) count_wait: std::time::Duration,
    refusals: Arc<Refusals>,
    metrics: Arc<Metrics>,
    anchors: AnchorSet,
    /// What tells the anchors of new heads, until the store is closed.
    keepers: Mutex<Option<Keepers>>,
    ticks: AtomicU64,
    /// Set when the sweep must not wait for its turn.
    sweep_wanted: AtomicBool,
    /// Set when there is more to rewrap than was done at once.
    rewrap_on: AtomicBool,
    /// Where the sweep is among all keys; held by whoever sweeps.
    pub(crate) walk: tokio::sync::Mutex<Walk>,
    wake: Arc<tokio::sync::Notify>,
    /// How many files of the log an alarm told of that were given up.
    given_up_told: AtomicU64,
    /// Alarms that were raised already.
    alarms: Mutex<Raised>,
    /// Destructions that something stands in the way of.
    pub(crate) retries: Mutex<Retries>,
    /// The one change whose record the log does not have yet.
    pending: Mutex<Option<Pending>>,
    /// The one commit that the store did not end in time.
    late: Mutex<Option<Late>>,
    /// How long a commit may take.
    commit_wait: std::time::Duration,
    opened_at: Timestamp,
    /// When the last fences were complete, oldest first.
    fences: Mutex<VecDeque<Observation>>,
    /// Of a store that is shared: versions that changes of this node fenced, oldest first.
    own_fences: Mutex<VecDeque<OwnFence>>,
    watch: ClockWatch,
    /// Held while a backup is made.
    pub(crate) backing_up: tokio::sync::Mutex<()>,
    /// This node's place among others over the same store; none where one process has the store for itself.
    tenure: Option<Arc<Tenure>>,
    /// Signalled when time has gone by, for whoever waits for it.
    ticked: tokio::sync::Notify,
}

impl Unsealed {
    /// The store's rows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The audit log.
    pub fn log(&self) -> &Journal {
        &self.log
    }

    /// The log's public key.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signed head of what the audit files hold, and its size.
    ///
    /// # Errors
    /// [`EngineError::File`] when it cannot be read.
    pub fn published_checkpoint(&self) -> Result<(String, Checkpoint), EngineError> {
        let path = self.audit_dir.join("checkpoint");
        let failed = |source| crate::bootstrap::file_failed("read", &path, source);
        let note = match self.log.note_reader() {
            Some(rows) => blocking(|| rows.read())?,
            None => std::fs::read_to_string(&path).map_err(failed)?,
        };
        let invalid = |error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        let head = Checkpoint::verify(&note, &self.verifier).map_err(invalid)?;
        Ok((note, head))
    }

    /// The directory that holds the store and the log.
    pub fn data_dir(&self) -> Option<&Path> {
        self.audit_dir.parent()
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The clocks of the machine.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The generation of the state, which decisions and caches belong to.
    pub fn generation(&self) -> u64 {
        // Other nodes raise the epoch of a log that they share.
        self.generation.load(Ordering::Acquire).max(self.log.epoch().0)
    }

    pub(crate) fn usage(&self) -> &UsageBook {
        &self.usage
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who can count and move the data of assets.
    pub fn assets(&self) -> Option<&Arc<dyn AssetPort>> {
        self.assets.get()
    }

    /// Says once who can count and move the data of assets.
    pub(crate) fn set_assets(&self, port: Arc<dyn AssetPort>) {
        // A second call would bring the same port; the first one stays.
        let _already_set = self.assets.set(port);
    }

    /// Whether the local operator may act: what the store says. No such setting means no.
    pub(crate) async fn local_operator_allowed(&self) -> Result<bool, EngineError> {
        let generation = self.generation();
        if let Some((known_under, allowed)) = *self.local_operator.lock()
            && known_under == generation
        {
            return Ok(allowed);
        }
        let row = self.state.setting(&SettingName::LocalOperator).await?;
        let allowed = row.is_some_and(|row| row.value == "on");
        *self.local_operator.lock() = Some((generation, allowed));
        Ok(allowed)
    }

    /// The hash under which a token is stored.
    pub(crate) fn token_hash(&self, text: &str) -> [u8; 32] {
        self.token_key.tag(&[b"token", text.as_bytes()])
    }

    /// The hash under which a principal's idempotency key is stored.
    pub(crate) fn idempotency_hash(&self, principal: &str, key: &str) -> [u8; 32] {
        self.token_key.tag(&[b"idempotency", principal.as_bytes(), key.as_bytes()])
    }

    /// A data key with its versions and its label's demands.
    ///
    /// # Errors
    /// [`EngineError::Store`]; an unknown name is `None`.
    pub async fn key(&self, name: &KeyName) -> Result<Option<Arc<OpenKey>>, EngineError> {
        let generation = self.generation();
        let now = self.now();
        if let Some(key) = self.keyrings.get(generation, now, name) {
            return Ok(Some(key));
        }
        let Some(key) = Box::pin(self.read_key(name)).await? else { return Ok(None) };
        let good_until = now.plus_seconds(key.demands.cache_seconds_max);
        // With a cache time of zero the material leaves memory with the operation.
        if good_until > now {
            self.keyrings.put(generation, name.clone(), key.clone(), good_until);
        }
        Ok(Some(key))
    }

    /// As [`Unsealed::key`], from the store itself: a cache may hold a row from before the last step of a countdown.
    pub(crate) async fn read_key(&self, name: &KeyName) -> Result<Option<Arc<OpenKey>>, EngineError> {
        let Some(keyring) = self.state.keyring_by_name(name).await? else { return Ok(None) };
        let label = self.state.label_by_name(&keyring.key.label).await?;
        let demands = label.ok_or(EngineError::Bug { what: "a key's label is missing" })?.demands;
        Ok(Some(Arc::new(OpenKey { name: name.clone(), keyring, demands, materials: RwLock::default() })))
    }

    /// Whether an app is registered.
    pub(crate) async fn app_exists(&self, path: &AppPath) -> Result<bool, EngineError> {
        let Some(domain) = self.state.domain_by_name(&path.environment.domain).await? else { return Ok(false) };
        Ok(self.state.app_by_name(&domain.id, &path.environment.environment, &path.app).await?.is_some())
    }

    /// The material of a version that may encrypt now.
    ///
    /// # Errors
    /// [`EngineError::Unopenable`] if the stored wrapping was altered, [`EngineError::Store`].
    pub async fn material_to_encrypt(
        &self,
        key: &OpenKey,
        permit: &EncryptPermit<'_>,
    ) -> Result<Arc<Material>, EngineError> {
        self.material(key, permit.version()).await
    }

    /// The material of a version that may decrypt now.
    ///
    /// # Errors
    /// [`EngineError::Unopenable`] if the stored wrapping was altered, [`EngineError::Store`].
    pub async fn material_to_decrypt(
        &self,
        key: &OpenKey,
        permit: &DecryptPermit<'_>,
    ) -> Result<Arc<Material>, EngineError> {
        self.material(key, permit.version()).await
    }

    async fn material(&self, key: &OpenKey, version: &DataKeyVersion) -> Result<Arc<Material>, EngineError> {
        if let Some(material) = key.material_at_hand(&version.kid) {
            return Ok(material);
        }
        let unwrapped = Box::pin(self.unwrap_data_key(version)).await?;
        let material = Arc::new(Material { key_id: *version.key.as_bytes(), version: version.clone(), key: unwrapped });
        Ok(key.keep(material))
    }

    /// The unwrapped key of a version, for export and rewrapping; no cache is involved.
    pub(crate) async fn unwrap_data_key(&self, version: &DataKeyVersion) -> Result<DataKey, EngineError> {
        let master = self.master(version.wrapped_by).await?;
        crate::keys::unwrap_data_key(&master, version)
    }

    /// Runs one operation.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn execute<Op: Operation>(
        self: &Arc<Self>,
        caller: &Caller<'_>,
        op: Op,
    ) -> Result<Op::Answer, EngineError> {
        execute(self, caller, op).await
    }

    /// Ends all changes, then publishes the log and ends its writer. What is being committed is committed before.
    ///
    /// # Errors
    /// [`EngineError::Log`]; [`EngineError::StoreStuck`] if a commit goes on all the same, which [`Unsealed::take_late`]
    /// gives.
    pub(crate) async fn close(&self) -> Result<(), EngineError> {
        {
            let _order = self.order.lock().await;
            self.closed.store(true, Ordering::Release);
        }
        let ended = self.late_ends().await;
        let closed = self.log.close();
        if let Some(keepers) = self.keepers.lock().take() {
            crate::parallel::blocking(|| keepers.end());
        }
        if let Some(tenure) = &self.tenure {
            tenure.end().await;
        }
        closed?;
        ended
    }

    /// The places outside the store that remember the head of the log, and how they are.
    pub fn anchors(&self) -> Vec<AnchorView> {
        self.anchors.views(self.log.published().size)
    }

    /// By how many seconds the anchor that is furthest behind lags; `None` without anchors.
    pub fn anchor_lag_seconds(&self) -> Option<u64> {
        (!self.anchors.is_empty()).then(|| self.anchors.lag_seconds())
    }

    pub(crate) fn anchor_set(&self) -> &AnchorSet {
        &self.anchors
    }

    /// Refuses what began before the store was closed and has not ended: the store may be open anew, for somebody
    /// else.
    ///
    /// # Errors
    /// [`EngineError::Sealed`].
    pub fn still_open(&self) -> Result<(), EngineError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(EngineError::Sealed { state: SealState::Sealed });
        }
        Ok(())
    }

    /// Whether this process writes to the data directory.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.log, Journal::Write(_))
    }

    /// Asks for a sweep as soon as the present change is committed.
    pub(crate) fn want_sweep(&self) {
        self.sweep_wanted.store(true, Ordering::Release);
    }

    pub(crate) fn take_sweep_wish(&self) -> bool {
        self.sweep_wanted.swap(false, Ordering::AcqRel)
    }

    /// Asks for the next tick at once, to go on with rewrapping.
    pub(crate) fn rewrap_goes_on(&self) {
        self.rewrap_on.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether background work that began is not at its end.
    pub(crate) async fn has_more_to_do(&self) -> bool {
        self.rewrap_on.load(Ordering::Acquire) || self.walk.lock().await.goes_on()
    }

    pub(crate) fn take_rewrap_on(&self) -> bool {
        self.rewrap_on.swap(false, Ordering::AcqRel)
    }

    /// Ends when background work is wanted before its turn.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn next_tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends when time has gone by, or after `limit` at the latest.
    pub(crate) async fn time_passes(&self, limit: std::time::Duration) {
        tokio::select! {
            () = self.ticked.notified() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    pub(crate) fn tell_time_passed(&self) {
        self.ticked.notify_waiters();
    }

    /// When the wall clock was last seen to be set by hand, if it was since the store was opened.
    pub(crate) fn clock_set_at(&self) -> Option<Timestamp> {
        self.look_at_clock();
        self.watch.set_at()
    }

    /// Looks whether the wall clock was set by hand; by how many milliseconds, if it was. Nothing that was good until
    /// some time of day is believed any more then.
    pub(crate) fn look_at_clock(&self) -> Option<i64> {
        let off_millis = self.watch.look(self.clock.observe())?;
        self.forget();
        Some(off_millis)
    }

    /// Drops what the caches hold.
    pub(crate) fn forget(&self) {
        self.tokens.clear();
        self.decisions.clear();
        self.keyrings.clear();
        self.masters.clear();
    }

    /// What the caches hold now.
    pub fn cached(&self) -> Cached {
        Cached {
            tokens: self.tokens.len(),
            decisions: self.decisions.len(),
            keys: self.keyrings.len(),
            masters: self.masters.len(),
        }
    }

    fn forget_before(&self, generation: u64) {
        self.tokens.advance(generation);
        self.decisions.advance(generation);
        self.keyrings.advance(generation);
        self.masters.advance(generation);
    }

    /// Drops cached key material whose time is over.
    pub(crate) fn purge(&self, now: Timestamp) {
        self.tokens.purge(now);
        self.decisions.purge(now);
        self.keyrings.purge(now);
        self.masters.purge(now);
    }
}

/// How many entries each cache holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cached {
    /// Tokens that were looked up.
    pub tokens: usize,
    /// Decisions.
    pub decisions: usize,
    /// Data keys, each with the versions used so far unwrapped.
    pub keys: usize,
    /// Unwrapped master key versions.
    pub masters: usize,
}

/// A data key that was loaded under one generation, with the material of the versions used so far.
pub struct OpenKey {
    /// Its full name.
    pub name: KeyName,
    /// The key and its versions.
    pub keyring: Keyring,
    /// What its label demands.
    pub demands: Demands,
    materials: RwLock<Vec<Arc<Material>>>,
}

impl OpenKey {
    /// The fence of a version that stops encrypting now.
    pub fn fence(&self, now: Timestamp) -> Fence {
        Fence { now, write_window_seconds: self.demands.write_window_seconds }
    }

    /// Keeps a version's material at hand, once; beyond the limit the one that came first goes.
    fn keep(&self, material: Arc<Material>) -> Arc<Material> {
        let mut materials = self.materials.write();
        if let Some(known) = materials.iter().find(|known| known.version.kid == material.version.kid) {
            return known.clone();
        }
        if materials.len() >= MATERIALS_PER_KEY_MAX {
            materials.remove(0);
        }
        materials.push(material.clone());
        material
    }

    fn material_at_hand(&self, kid: &Kid) -> Option<Arc<Material>> {
        self.materials.read().iter().find(|material| material.version.kid == *kid).cloned()
    }
}

/// The unwrapped key of one version, in locked memory.
pub struct Material {
    key_id: [u8; 16],
    /// The version's row.
    pub version: DataKeyVersion,
    key: DataKey,
}

impl Material {
    /// What the envelope needs to encrypt or decrypt.
    pub fn key_ref(&self) -> KeyRef<'_> {
        KeyRef { kid: &self.version.kid, key_id: &self.key_id, key: &self.key, suite: self.version.suite }
    }
}

#[cfg(test)]
mod tests;
