//! The engine of one data directory: sealed or open.

use std::path::PathBuf;
use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::record::{Record, RecordDecision};
use keyrail_core::time::Clock;
use keyrail_seal::{RootOfTrust, RootSpec, SealError, SealState};
use parking_lot::RwLock;

use crate::authenticate::authenticate;
use crate::authorize::may;
use crate::bootstrap::{self, Access, DirLock, Initialized};
use crate::error::EngineError;
use crate::health::{Health, HealthCheck};
use crate::metrics::{Metrics, MetricsSnapshot};
use crate::paths::Paths;
use crate::pipeline::{Context, Operation, execute, fail, record_of};
use crate::ports::AssetPort;
use crate::request::Caller;
use crate::scheduler;
use crate::unsealed::Unsealed;

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
    _lock: Option<DirLock>,
}

struct Phase {
    state: SealState,
    open: Option<Arc<Unsealed>>,
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
        Ok(Self { options, paths, phase, turning: tokio::sync::Mutex::new(()), metrics: Arc::default(), _lock: lock })
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
        let open = self.try_open().await?;
        self.publish(open);
        Ok(())
    }

    /// Opens the store on behalf of a caller, who must be allowed to: until that is decided nobody else sees it open.
    ///
    /// # Errors
    /// As [`Engine::unseal`], and what the pipeline refuses with.
    pub async fn unseal_for(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        // Who asks is known only once the store is open, and opening may take a second of computing: attempts do not queue.
        let _turn = self.turning.try_lock().map_err(|_| EngineError::Sealed { state: SealState::Unsealing })?;
        if self.seal_state() == SealState::Unsealed {
            return Ok(());
        }
        let open = self.try_open().await?;
        match execute(&open, caller, crate::ops::system::Unseal).await {
            Ok(()) => {
                self.publish(open);
                Ok(())
            }
            Err(error) => {
                self.set_phase(SealState::Sealed, None);
                finish(&open).await?;
                Err(error)
            }
        }
    }

    /// Tries a root that was not available again: until it is, the store shows why it is closed, and not each attempt.
    async fn retry(&self) -> Result<(), EngineError> {
        let _turn = self.turning.lock().await;
        if self.seal_state() == SealState::RootUnavailable {
            let open = self.open_by_root().await?;
            self.publish(open);
        }
        Ok(())
    }

    async fn try_open(&self) -> Result<Arc<Unsealed>, EngineError> {
        self.set_phase(SealState::Unsealing, None);
        self.open_by_root().await
    }

    async fn open_by_root(&self) -> Result<Arc<Unsealed>, EngineError> {
        // A passphrase may come through a pipe, whose writer takes its time.
        let opened = match tokio::task::block_in_place(|| self.provider()) {
            Ok(provider) => {
                let options = &self.options;
                bootstrap::unseal(
                    &self.paths,
                    options.access,
                    provider.as_ref(),
                    options.clock.clone(),
                    self.metrics.clone(),
                )
                .await
            }
            Err(error) => Err(error),
        };
        opened.inspect_err(|error| self.set_phase(state_after(error), None))
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
        finish(&open).await
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
        let store = open.state().store().health().await.err().map(|error| error.to_string());
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
        finish(&open).await
    }
}

async fn finish(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    let flushed = scheduler::flush(open).await;
    open.close()?;
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
