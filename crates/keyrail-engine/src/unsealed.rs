//! The opened store: state, log, keys and caches, as long as the service is unsealed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyrail_audit::{AppendError, Checkpoint, Epoch, VerifierKey};
use keyrail_core::access::{Action, Decision, Principal};
use keyrail_core::id::{MasterVersionId, RequestId};
use keyrail_core::key::{DataKeyVersion, DecryptPermit, DestroyHalt, DestroyWait, EncryptPermit, Keyring};
use keyrail_core::label::Demands;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{AppPath, KeyName};
use keyrail_core::record::{Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind, VersionUse};
use keyrail_core::system::{LogHeadRow, OutboxEntry};
use keyrail_core::time::{Clock, Timestamp};
use keyrail_core::token::Token;
use keyrail_crypto::envelope::{KeyRef, Kid};
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::random;
use keyrail_crypto::secret::{DataKey, MasterKey, RootKey};
use keyrail_store::{Change, Recorded, State, StoreError};
use parking_lot::{Mutex, RwLock};

use crate::authorize::DecisionKey;
use crate::cache::GenerationCache;
use crate::error::EngineError;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::ops::put_key_change;
use crate::ops::retire::with_wait;
use crate::pipeline::{CommitError, Operation, append, encode, execute};
use crate::ports::AssetPort;
use crate::refusals::Refusals;
use crate::request::Caller;
use crate::usage::UsageBook;

/// How many tokens, decisions and keys are kept at hand.
const CACHE_ENTRIES_MAX: usize = 4_096;

/// How many unwrapped master key versions are kept at hand.
const MASTERS_MAX: usize = 256;

/// How long an unwrapped master key may stay in memory without a change of state, in seconds.
const MASTER_CACHE_SECONDS: u64 = 300;

/// Everything that is there while the store is unsealed.
pub struct Unsealed {
    state: State,
    log: Journal,
    verifier: VerifierKey,
    audit_dir: PathBuf,
    clock: Arc<dyn Clock>,
    root: RootKey,
    token_key: MacKey,
    local_operator: AtomicBool,
    /// Counts the changes of state that a decision may depend on; also the log's epoch.
    generation: AtomicU64,
    /// Held while a change is committed, fenced and recorded, so that the log has changes in their order.
    order: tokio::sync::Mutex<()>,
    pub(crate) tokens: GenerationCache<[u8; 32], Arc<Token>>,
    pub(crate) decisions: GenerationCache<DecisionKey, Decision>,
    pub(crate) keyrings: GenerationCache<KeyName, Arc<OpenKey>>,
    masters: GenerationCache<MasterVersionId, Arc<MasterKey>>,
    /// Outbox rows that the log has: deleted along with the next change.
    settled: Mutex<Vec<RequestId>>,
    remembered: Mutex<Option<LogHeadRow>>,
    assets: OnceLock<Arc<dyn AssetPort>>,
    usage: UsageBook,
    refusals: Refusals,
    metrics: Arc<Metrics>,
    ticks: AtomicU64,
    /// Set when the sweep must not wait for its turn.
    sweep_wanted: AtomicBool,
    wake: tokio::sync::Notify,
    /// When the last alarm about each version was raised.
    alarms: Mutex<HashMap<Kid, Timestamp>>,
}

/// What [`Unsealed`] is made of.
pub(crate) struct Parts {
    pub(crate) state: State,
    pub(crate) log: Journal,
    pub(crate) verifier: VerifierKey,
    pub(crate) audit_dir: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) root: RootKey,
    pub(crate) token_key: MacKey,
    pub(crate) local_operator: bool,
    pub(crate) remembered: Option<LogHeadRow>,
    pub(crate) usage: UsageBook,
    pub(crate) metrics: Arc<Metrics>,
}

/// The first generation of a process; nothing is decided under generation 0.
const GENERATION_FIRST: u64 = 1;

impl Unsealed {
    pub(crate) fn new(parts: Parts) -> Self {
        parts.log.set_epoch(Epoch(GENERATION_FIRST));
        Self {
            state: parts.state,
            log: parts.log,
            verifier: parts.verifier,
            audit_dir: parts.audit_dir,
            clock: parts.clock,
            root: parts.root,
            token_key: parts.token_key,
            local_operator: AtomicBool::new(parts.local_operator),
            generation: AtomicU64::new(GENERATION_FIRST),
            order: tokio::sync::Mutex::new(()),
            tokens: GenerationCache::new(CACHE_ENTRIES_MAX),
            decisions: GenerationCache::new(CACHE_ENTRIES_MAX),
            keyrings: GenerationCache::new(CACHE_ENTRIES_MAX),
            masters: GenerationCache::new(MASTERS_MAX),
            settled: Mutex::default(),
            remembered: Mutex::new(parts.remembered),
            assets: OnceLock::new(),
            usage: parts.usage,
            refusals: Refusals::default(),
            metrics: parts.metrics,
            ticks: AtomicU64::new(0),
            sweep_wanted: AtomicBool::new(false),
            wake: tokio::sync::Notify::new(),
            alarms: Mutex::default(),
        }
    }

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
        let note = std::fs::read_to_string(&path).map_err(failed)?;
        let invalid = |error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        let head = Checkpoint::verify(&note, &self.verifier).map_err(invalid)?;
        Ok((note, head))
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
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn root(&self) -> &RootKey {
        &self.root
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

    pub(crate) fn local_operator_allowed(&self) -> bool {
        self.local_operator.load(Ordering::Acquire)
    }

    pub(crate) fn set_local_operator(&self, allowed: bool) {
        self.local_operator.store(allowed, Ordering::Release);
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
        let Some(keyring) = self.state.keyring_by_name(name).await? else { return Ok(None) };
        let label = self.state.label_by_name(&keyring.key.label).await?;
        let demands = label.ok_or(EngineError::Bug { what: "a key's label is missing" })?.demands;
        let good_until = now.plus_seconds(demands.cache_seconds_max);
        let key = Arc::new(OpenKey { name: name.clone(), keyring, demands, materials: RwLock::default() });
        self.keyrings.put(generation, name.clone(), key.clone(), good_until);
        Ok(Some(key))
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
        let unwrapped = self.unwrap_data_key(version).await?;
        let material = Arc::new(Material { key_id: *version.key.as_bytes(), version: version.clone(), key: unwrapped });
        key.materials.write().push(material.clone());
        Ok(material)
    }

    /// The unwrapped key of a version, for export and rewrapping; no cache is involved.
    pub(crate) async fn unwrap_data_key(&self, version: &DataKeyVersion) -> Result<DataKey, EngineError> {
        let master = self.master(version.wrapped_by).await?;
        crate::keys::unwrap_data_key(&master, version)
    }

    /// An unwrapped master key version.
    pub(crate) async fn master(&self, id: MasterVersionId) -> Result<Arc<MasterKey>, EngineError> {
        let generation = self.generation();
        let now = self.now();
        if let Some(master) = self.masters.get(generation, now, &id) {
            return Ok(master);
        }
        let row = self
            .state
            .master_version(&id)
            .await?
            .ok_or(EngineError::Bug { what: "a master key version is missing" })?;
        let master = Arc::new(crate::keys::unwrap_master_key(&self.root, &row)?);
        self.masters.put(generation, id, master.clone(), now.plus_seconds(MASTER_CACHE_SECONDS));
        Ok(master)
    }

    /// Commits a change together with its record, fences everything decided before, and makes the record
    /// durable in the log. `generation` is the one the change was decided under.
    pub(crate) async fn commit(&self, change: Change, record: &Record, generation: u64) -> Result<(), CommitError> {
        let _order = self.order.lock().await;
        if self.generation() != generation {
            return Err(CommitError::Fenced);
        }
        self.write(change, record).await?;
        let next = generation + 1;
        self.generation.store(next, Ordering::Release);
        self.log.set_epoch(Epoch(next));
        self.forget_before(next);
        let handed = self.hand_over(record, next).await;
        if self.sweep_wanted.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
        handed
    }

    /// Commits a change that no decision depends on (rewrapping, a campaign's progress), with its record but without a fence.
    ///
    /// # Errors
    /// [`EngineError::Store`], [`EngineError::AuditUnavailable`], [`EngineError::Indeterminate`].
    pub async fn commit_background(&self, change: Change, record: &Record) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        let committed = match self.write(change, record).await {
            Ok(()) => self.hand_over(record, self.generation()).await,
            Err(error) => Err(error),
        };
        committed.map_err(|error| match error {
            CommitError::Failed(error) => error,
            CommitError::Fenced => EngineError::Contended,
        })
    }

    async fn write(&self, mut change: Change, record: &Record) -> Result<(), CommitError> {
        let body = encode(record).map_err(|error| CommitError::Failed(EngineError::AuditUnavailable(error)))?;
        let outbox = OutboxEntry { request: record.id, log_index_min: self.log.head().size, body };
        let settled = std::mem::take(&mut *self.settled.lock());
        change.settle(&settled);
        let head = self.remember_head(&mut change);
        match self.state.commit(change.recorded(outbox)).await {
            Ok(()) => {
                *self.remembered.lock() = Some(head);
                Ok(())
            }
            Err(error) => {
                self.settled.lock().extend(settled);
                self.after_failed_commit(error, record.id).await
            }
        }
    }

    /// A commit that failed for sure is an error; one whose fate is unknown is looked up by its request id.
    async fn after_failed_commit(&self, error: StoreError, request: RequestId) -> Result<(), CommitError> {
        if matches!(error, StoreError::Conflict { .. }) {
            return Err(CommitError::Fenced);
        }
        if !matches!(error, StoreError::Indeterminate { .. }) {
            return Err(CommitError::Failed(error.into()));
        }
        match self.state.outbox_has(&request).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CommitError::Failed(error.into())),
            Err(_) => Err(CommitError::Failed(EngineError::Indeterminate)),
        }
    }

    /// The record is safe in the outbox; now the log gets it. Until it has it, no answer leaves.
    async fn hand_over(&self, record: &Record, epoch: u64) -> Result<(), CommitError> {
        let appended = match encode(record) {
            Ok(body) => self.log.append(body, Epoch(epoch)).await.map(drop),
            Err(error) => Err(error),
        };
        match appended {
            Ok(()) => {
                self.settled.lock().push(record.id);
                Ok(())
            }
            // The change is made and its record waits in the outbox: the next start moves it on.
            Err(AppendError::Fenced | _) => Err(CommitError::Failed(EngineError::Indeterminate)),
        }
    }

    fn remember_head(&self, change: &mut Change) -> LogHeadRow {
        let head = self.log.head();
        let former = *self.remembered.lock();
        let row =
            LogHeadRow { size: head.size, root: head.root, generation: former.map_or(1, |row| row.generation + 1) };
        if former.is_some() {
            change.update(&row)
        } else {
            change.insert(&row)
        };
        row
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

    /// Makes a record durable, on condition that the state is still of `generation`.
    ///
    /// # Errors
    /// [`EngineError::Contended`] if the state changed, [`EngineError::AuditUnavailable`].
    pub async fn append_record(&self, record: &Record, generation: u64) -> Result<(), EngineError> {
        append(self, record, generation).await.map_err(|error| match error {
            AppendError::Fenced => EngineError::Contended,
            other => EngineError::AuditUnavailable(other),
        })
    }

    /// Commits rows that no decision reads and no auditor asks about.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn commit_unrecorded(&self, change: Recorded) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        Ok(self.state.commit(change).await?)
    }

    /// Commits a change of rows that decisions read, without a record: countdowns and the like. Caches are dropped.
    pub(crate) async fn commit_bookkeeping(&self, change: Recorded) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        self.state.commit(change).await?;
        let next = self.generation() + 1;
        self.generation.store(next, Ordering::Release);
        self.log.set_epoch(Epoch(next));
        self.forget_before(next);
        Ok(())
    }

    /// Somebody asked for data under a retired version: an alarm, and its countdown to destruction stands still.
    pub(crate) async fn refused_decrypt(&self, key: &OpenKey, version: &DataKeyVersion) -> Result<(), EngineError> {
        if version.state != VersionState::Retired || !self.writes() {
            return Ok(());
        }
        let now = self.now();
        let counting = version.destroy.filter(|wait| wait.halt.is_none());
        let recent = self.alarms.lock().get(&version.kid).is_some_and(|at| now.seconds_since(*at) < ALARM_SECONDS);
        if recent && counting.is_none() {
            return Ok(());
        }
        let record = alarm(key, version, now)?;
        match counting {
            None => append(self, &record, self.generation())
                .await
                .or_else(fenced_is_fine)
                .map_err(EngineError::AuditUnavailable)?,
            Some(wait) => {
                let halted = DestroyWait { halt: Some(DestroyHalt::DecryptRefused), ..wait };
                let mut change = Change::new();
                put_key_change(&mut change, &with_wait(key, version, halted, now));
                // Fenced means that the version changed meanwhile; the caller's operation begins anew and comes here again.
                if let Err(CommitError::Failed(error)) = self.commit(change, &record, self.generation()).await {
                    return Err(error);
                }
            }
        }
        self.metrics.count_alarm();
        let mut alarms = self.alarms.lock();
        if alarms.len() >= CACHE_ENTRIES_MAX {
            alarms.clear();
        }
        alarms.insert(version.kid, now);
        Ok(())
    }

    /// Publishes the log and ends its writer.
    pub(crate) fn close(&self) -> Result<(), EngineError> {
        Ok(self.log.close()?)
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

    /// Ends when background work is wanted before its turn.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn next_tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes the log's present head and the settled outbox rows into the store, so that an older log is told.
    pub(crate) async fn remember(&self) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        let known = self.remembered.lock().map(|row| row.size);
        let settled = std::mem::take(&mut *self.settled.lock());
        if known == Some(self.log.head().size) && settled.is_empty() {
            return Ok(());
        }
        let mut change = Change::new();
        change.settle(&settled);
        let head = self.remember_head(&mut change);
        self.state.commit(change.unrecorded("the log's head is remembered")).await?;
        *self.remembered.lock() = Some(head);
        Ok(())
    }

    pub(crate) fn note_settled(&self, requests: impl IntoIterator<Item = RequestId>) {
        self.settled.lock().extend(requests);
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

/// How long an alarm about the same version is not repeated, in seconds.
const ALARM_SECONDS: u64 = 60;

/// An alarm is true under any state.
fn fenced_is_fine(error: AppendError) -> Result<(), AppendError> {
    if error == AppendError::Fenced { Ok(()) } else { Err(error) }
}

fn alarm(key: &OpenKey, version: &DataKeyVersion, now: Timestamp) -> Result<Record, EngineError> {
    Ok(Record {
        v: RECORD_FORMAT,
        id: RequestId::from_bytes(random::array()?),
        time: now,
        kind: RecordKind::Alarm,
        principal: Principal::system().label(),
        session: None,
        action: Action::DataDecrypt,
        resource: Some(format!("{}@{}", key.name, version.version)),
        versions: vec![VersionUse { version: version.version, kid: version.kid, count: 1 }],
        asset: None,
        origin: Origin::default(),
        decision: RecordDecision::Refuse,
        reason: "somebody asked for data under a retired version".to_owned(),
        outcome: Outcome::Refused,
        code: Some("version_unusable".to_owned()),
        items: None,
        failed: None,
        detail: Vec::new(),
    })
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
