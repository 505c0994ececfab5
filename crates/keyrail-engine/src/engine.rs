//! The engine of one data directory: sealed or open.

use std::path::PathBuf;
use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::record::{Record, RecordDecision};
use keyrail_core::time::Clock;
use keyrail_seal::{RootOfTrust, RootSpec, SealError, SealState};
use parking_lot::{Mutex, RwLock};

use crate::authenticate::{authenticate, is_plausible};
use crate::authorize::may;
use crate::bootstrap::{self, Access, DirLock, Initialized};
use crate::error::EngineError;
use crate::health::{Health, HealthCheck};
use crate::metrics::{Metrics, MetricsSnapshot};
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::pipeline::{Context, Operation, execute, fail, record_of};
use crate::ports::AssetPort;
use crate::refusals::{AggregateWait, Refusals};
use crate::request::{Caller, Credential};
use crate::scheduler;
use crate::unsealed::Unsealed;

/// How many attempts to open the store may fail within [`ATTEMPTS_SECONDS`], until callers are told to wait: each may
/// cost the computing of a passphrase.
const FAILED_ATTEMPTS_MAX: u64 = 5;

/// How long failed attempts to open the store are counted together, in seconds.
const ATTEMPTS_SECONDS: u64 = 10;

/// What an engine is made with.
pub struct EngineOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Whether this process writes to it.
    pub access: Access,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// Makes what counts and moves the data of assets, for an opened store.
    pub assets: Option<MakeAssets>,
}

/// Makes an [`AssetPort`] for an opened store.
pub type MakeAssets = fn(&Arc<Unsealed>) -> Arc<dyn AssetPort>;

/// The engine of one data directory.
pub struct Engine {
    options: EngineOptions,
    paths: Paths,
    phase: RwLock<Phase>,
    /// Held while the store is opened or closed.
    turning: tokio::sync::Mutex<()>,
    metrics: Arc<Metrics>,
    /// Outlives the opened store, so that neither limit nor count begins anew with each attempt to open it.
    refusals: Arc<Refusals>,
    attempts: Mutex<Attempts>,
    _lock: Option<DirLock>,
}

struct Phase {
    state: SealState,
    open: Option<Arc<Unsealed>>,
}

/// Failed attempts to open the store, on the machine's own clock.
#[derive(Default)]
struct Attempts {
    since_millis: u64,
    failed: u64,
}

/// An attempt to open the store: however it ends short of that, the store shows the state that it had before.
struct Attempt<'a> {
    engine: &'a Engine,
    former: SealState,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.engine.seal_state() == SealState::Unsealing {
            self.engine.set_phase(self.former, None);
        }
    }
}

impl Engine {
    /// Makes a store in a data directory.
    ///
    /// # Errors
    /// [`EngineError::AlreadyInitialized`], [`EngineError::InUse`], [`EngineError::Root`], [`EngineError::File`].
    pub async fn init(
        data_dir: PathBuf,
        root: Option<RootSpec>,
        clock: &dyn Clock,
    ) -> Result<Initialized, EngineError> {
        bootstrap::init(data_dir, root, clock).await
    }

    /// Takes hold of a data directory; its store stays sealed.
    ///
    /// # Errors
    /// [`EngineError::NotInitialized`], [`EngineError::InUse`], [`EngineError::File`].
    pub fn open(options: EngineOptions) -> Result<Self, EngineError> {
        let paths = Paths::new(&options.data_dir);
        if !paths.store().exists() {
            return Err(EngineError::NotInitialized);
        }
        let lock = match options.access {
            Access::Write => Some(bootstrap::lock(&paths)?),
            Access::Read => None,
        };
        let phase = RwLock::new(Phase { state: SealState::Sealed, open: None });
        Ok(Self {
            options,
            paths,
            phase,
            turning: tokio::sync::Mutex::new(()),
            metrics: Arc::default(),
            refusals: Arc::default(),
            attempts: Mutex::default(),
            _lock: lock,
        })
    }

    /// The files of the data directory.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Whether the store is open, and if not, why.
    pub fn seal_state(&self) -> SealState {
        self.phase.read().state
    }

    /// The root of trust that `init` wrote down.
    ///
    /// # Errors
    /// [`EngineError::NotInitialized`], [`EngineError::File`], [`EngineError::Root`].
    pub fn configured_root(&self) -> Result<RootSpec, EngineError> {
        bootstrap::configured_root(&self.paths)
    }

    /// The opened store.
    ///
    /// # Errors
    /// [`EngineError::Sealed`].
    pub fn unsealed(&self) -> Result<Arc<Unsealed>, EngineError> {
        let phase = self.phase.read();
        phase.open.clone().ok_or(EngineError::Sealed { state: phase.state })
    }

    /// Opens the store with the root of trust that `init` wrote down. One that is open stays open.
    ///
    /// # Errors
    /// [`EngineError::Root`], [`EngineError::Store`], [`EngineError::Log`], [`EngineError::LogOlder`].
    pub async fn unseal(&self) -> Result<(), EngineError> {
        let _turn = self.turning.lock().await;
        if self.seal_state() == SealState::Unsealed {
            return Ok(());
        }
        self.set_phase(SealState::Unsealing, None);
        let open = self.open_by_root().await.inspect_err(|error| self.set_phase(state_after(error), None))?;
        self.publish(open);
        Ok(())
    }

    /// Opens the store on behalf of a caller, who must be allowed to: until that is decided nobody else sees it open.
    /// An attempt that fails or is given up leaves the state as it was: what somebody sealed is not opened by itself
    /// because somebody else tried.
    ///
    /// # Errors
    /// As [`Engine::unseal`], and what the pipeline refuses with; [`EngineError::TooManyFailures`].
    pub async fn unseal_for(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        // Who asks is known only once the store is open, and opening may take a second of computing: attempts do not queue.
        let _turn = self.turning.try_lock().map_err(|_| EngineError::Sealed { state: SealState::Unsealing })?;
        if self.seal_state() == SealState::Unsealed {
            return Ok(());
        }
        if !is_plausible(caller.credential) {
            return Err(self.refusals.note(EngineError::Unauthenticated, &caller.origin, self.options.clock.now()));
        }
        self.begin_attempt(caller)?;
        let attempt = Attempt { engine: self, former: self.seal_state() };
        self.set_phase(SealState::Unsealing, None);
        let open = self.open_by_root().await?;
        match execute(&open, caller, crate::ops::system::Unseal).await {
            Ok(()) => {
                self.publish(open);
                *self.attempts.lock() = Attempts::default();
                Ok(())
            }
            Err(error) => {
                drop(attempt);
                finish(&open, AggregateWait::Usual).await?;
                Err(error)
            }
        }
    }

    /// Counts an attempt to open the store; it no longer counts when it succeeds. Whoever acts in this process holds
    /// the data directory anyway and needs no limit.
    fn begin_attempt(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        if !matches!(caller.credential, Credential::Token(_)) {
            return Ok(());
        }
        let now_millis = self.options.clock.observe().uptime_millis;
        let mut attempts = self.attempts.lock();
        if now_millis.saturating_sub(attempts.since_millis) >= ATTEMPTS_SECONDS * 1_000 {
            *attempts = Attempts { since_millis: now_millis, failed: 0 };
        }
        if attempts.failed >= FAILED_ATTEMPTS_MAX {
            return Err(EngineError::TooManyFailures);
        }
        attempts.failed += 1;
        Ok(())
    }

    /// Tries a root that was not available again: until it is, the store shows why it is closed, and not each attempt.
    async fn retry(&self) -> Result<(), EngineError> {
        let _turn = self.turning.lock().await;
        if self.seal_state() == SealState::RootUnavailable {
            let open = self.open_by_root().await.inspect_err(|error| self.set_phase(state_after(error), None))?;
            self.publish(open);
        }
        Ok(())
    }

    async fn open_by_root(&self) -> Result<Arc<Unsealed>, EngineError> {
        // A passphrase may come through a pipe, whose writer takes its time.
        match blocking(|| self.provider()) {
            Ok(provider) => {
                let options = &self.options;
                bootstrap::unseal(
                    &self.paths,
                    options.access,
                    provider.as_ref(),
                    options.clock.clone(),
                    self.metrics.clone(),
                    self.refusals.clone(),
                )
                .await
            }
            Err(error) => Err(error),
        }
    }

    fn provider(&self) -> Result<Box<dyn RootOfTrust>, EngineError> {
        Ok(self.configured_root()?.resolve()?)
    }

    fn publish(&self, open: Arc<Unsealed>) {
        if let Some(make) = &self.options.assets {
            open.set_assets(make(&open));
        }
        self.set_phase(SealState::Unsealed, Some(open));
    }

    fn set_phase(&self, state: SealState, open: Option<Arc<Unsealed>>) {
        *self.phase.write() = Phase { state, open };
    }

    /// Closes the store on behalf of a caller: keys leave memory as soon as running operations end.
    ///
    /// # Errors
    /// What the pipeline refuses with, [`EngineError::Log`].
    pub async fn seal_for(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        let _turn = self.turning.lock().await;
        let open = self.unsealed()?;
        execute(&open, caller, crate::ops::system::Seal).await?;
        self.set_phase(SealState::Sealed, None);
        finish(&open, AggregateWait::None).await
    }

    /// Runs one operation.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn execute<Op: Operation>(&self, caller: &Caller<'_>, op: Op) -> Result<Op::Answer, EngineError> {
        let open = self.unsealed()?;
        execute(&open, caller, op).await
    }

    /// Whether the caller may see what the service is about; for pages that are no operations.
    ///
    /// # Errors
    /// [`EngineError::Unauthenticated`], [`EngineError::Refused`].
    pub async fn allow(&self, caller: &Caller<'_>, action: Action) -> Result<(), EngineError> {
        let open = self.unsealed()?;
        let now = open.now();
        let principal = authenticate(&open, caller.credential, now).await;
        let principal = principal.map_err(|error| open.refusals().note(error, &caller.origin, now))?;
        let Err(refusal) = may(&principal, action) else { return Ok(()) };
        let cx = Context { open: &open, now, generation: open.generation(), if_match: None };
        let record = record_of(action, caller, &cx, &principal, refusal.reason, None);
        let record = Record { decision: RecordDecision::Refuse, ..record };
        Err(fail(&open, record, refusal.error, cx.generation).await)
    }

    /// Whether the caller's credential is good, without deciding anything: before a long body is read.
    ///
    /// # Errors
    /// [`EngineError::Unauthenticated`], [`EngineError::TooManyFailures`], [`EngineError::Sealed`].
    pub async fn authenticate(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        let open = self.unsealed()?;
        let now = open.now();
        let principal = authenticate(&open, caller.credential, now).await;
        principal.map(drop).map_err(|error| open.refusals().note(error, &caller.origin, now))
    }

    /// Does the background work that is due: call it about once a second.
    ///
    /// # Errors
    /// The first thing that failed; the rest was tried all the same.
    pub async fn tick(&self) -> Result<(), EngineError> {
        match self.seal_state() {
            SealState::Unsealed => scheduler::tick(&self.unsealed()?).await,
            SealState::RootUnavailable => self.retry().await,
            _ => Ok(()),
        }
    }

    /// Ends when background work is wanted before its turn; never while the store is closed.
    pub async fn woken(&self) {
        match self.unsealed() {
            Ok(open) => open.woken().await,
            Err(_) => std::future::pending().await,
        }
    }

    /// How the service is.
    pub async fn health(&self) -> Health {
        let Ok(open) = self.unsealed() else { return Health::new(self.seal_state(), Vec::new()) };
        let store = match open.stuck() {
            Some(stuck) => Some(stuck.to_string()),
            None => open.state().store().health().await.err().map(|error| error.to_string()),
        };
        let waits = || open.has_pending().then(|| "a change waits for its record".to_owned());
        let audit = open.log().health().failure.or_else(waits);
        let checks = vec![HealthCheck::of("store", store), HealthCheck::of("audit", audit)];
        Health::new(SealState::Unsealed, checks)
    }

    /// The counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.metrics.snapshot()
    }

    /// Closes everything: what was counted is recorded, the log is published.
    ///
    /// # Errors
    /// [`EngineError::Log`] when the log could not be published; its records are safe in the journal.
    pub async fn close(&self) -> Result<(), EngineError> {
        let _turn = self.turning.lock().await;
        let Ok(open) = self.unsealed() else { return Ok(()) };
        self.set_phase(SealState::Sealed, None);
        finish(&open, AggregateWait::None).await
    }
}

async fn finish(open: &Arc<Unsealed>, refusals: AggregateWait) -> Result<(), EngineError> {
    let flushed = scheduler::flush(open, refusals).await;
    open.close().await?;
    flushed
}

fn state_after(error: &EngineError) -> SealState {
    match error {
        EngineError::Root(SealError::WrongSecret | SealError::OtherKind { .. }) => SealState::WrongSecret,
        EngineError::Root(SealError::File { .. } | SealError::Malformed { .. } | SealError::Permissions { .. }) => {
            SealState::RootUnavailable
        }
        EngineError::NotInitialized => SealState::Uninitialized,
        _ => SealState::Sealed,
    }
}
