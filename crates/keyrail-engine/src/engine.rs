//! The engine of one data directory: sealed or open.

mod roots;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyrail_core::access::Action;
use keyrail_core::record::{Origin, RecordDecision};
use keyrail_core::time::Clock;
use keyrail_seal::{PipeWait, RootOfTrust, RootSpec, SealState};
use parking_lot::{Mutex, RwLock};

use crate::anchor::Anchors;
use crate::attempts::Attempts;
use crate::authenticate::{authenticate, is_plausible};
use crate::authorize::may;
use crate::backup::schedule::{self, BackupHealth, BackupPlan};
use crate::backup::{self, BackupCheck};
use crate::bootstrap::{self, Access, Around, DirLock, Initialized};
use crate::error::EngineError;
use crate::health::{Health, HealthCheck};
use crate::kept::Kept;
use crate::metrics::{Metrics, MetricsSnapshot};
use crate::migration;
use crate::ops::root::DealRecovery;
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::pipeline::{Context, Operation, execute, fail, record_of};
use crate::ports::AssetPort;
use crate::refusals::{AggregateWait, Refusals};
use crate::request::{Caller, Credential, KeptCaller};
use crate::restore::{self, RestoreAsk, RestoreReport};
use crate::retry::{Retry, SealCause, state_after};
use crate::root_place::RootPlaces;
use crate::roots::RootSource;
use crate::scheduler;
use crate::store_place::{StorePlace, has_store};
use crate::unsealed::Unsealed;
use crate::unsealed::commit::to_its_end;
use crate::unsealed::late::{Late, answer_of_seal};

/// How long a request that opens, closes or moves the store, or asks a root of trust, waits for those before it.
pub(crate) const TURN_WAIT_MAX: Duration = Duration::from_secs(30);

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
    inner: Arc<Inner>,
}

/// What opening and closing hold: both go on when the caller, or the engine itself, is gone.
struct Inner {
    options: EngineOptions,
    anchors: Anchors,
    paths: Paths,
    phase: RwLock<Phase>,
    /// Held while the store is opened, and while it is closed until its log has ended: the next one writes the same
    /// files.
    turning: Arc<tokio::sync::Mutex<()>>,
    metrics: Arc<Metrics>,
    /// Outlives the opened store, so that neither limit nor count begins anew with each attempt to open it.
    refusals: Arc<Refusals>,
    attempts: Attempts,
    retry: Retry,
    /// Backups that this process makes by itself.
    backups: OnceLock<BackupPlan>,
    /// Where roots of trust may be that callers name; anywhere unless that was said.
    places: OnceLock<RootPlaces>,
    /// A commit of the store that was closed last, if it went on. Changed under `turning`.
    late: Mutex<Option<Late>>,
    _lock: Option<DirLock>,
}

struct Phase {
    state: SealState,
    open: Option<Arc<Unsealed>>,
}

/// An attempt to open the store: however it ends short of that, the store shows the state that it had before.
struct Attempt<'a> {
    engine: &'a Inner,
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
        bootstrap::init(data_dir, root, None, &StorePlace::DataDir, clock).await
    }

    /// The same, with a recovery root that opens the store, too, or with its rows in another place than the data
    /// directory.
    ///
    /// # Errors
    /// As [`Engine::init`], and [`EngineError::Store`].
    pub async fn init_with(
        data_dir: PathBuf,
        root: Option<RootSpec>,
        recovery: Option<DealRecovery>,
        place: &StorePlace,
        clock: &dyn Clock,
    ) -> Result<Initialized, EngineError> {
        bootstrap::init(data_dir, root, recovery, place, clock).await
    }

    /// Puts a store back from a backup. What lies in the data directory is kept beside, and nothing of it is changed unless
    /// the size that is accepted is the backup's.
    ///
    /// # Errors
    /// [`EngineError::RollbackNotAccepted`], [`EngineError::Backup`], [`EngineError::FormerLog`], [`EngineError::Root`],
    /// [`EngineError::InUse`], [`EngineError::File`]; what the pipeline refuses with.
    pub async fn restore(
        ask: &RestoreAsk,
        caller: &Caller<'_>,
        clock: Arc<dyn Clock>,
    ) -> Result<RestoreReport, EngineError> {
        restore::restore(ask, caller, clock).await
    }

    /// Takes hold of a data directory; its store stays sealed.
    ///
    /// # Errors
    /// [`EngineError::NotInitialized`], [`EngineError::LogWithoutStore`], [`EngineError::InUse`], [`EngineError::File`].
    pub fn open(options: EngineOptions) -> Result<Self, EngineError> {
        Self::open_anchored(options, Anchors::default())
    }

    /// [`Engine::open`], with places outside the store that remember the head of its log.
    ///
    /// # Errors
    /// Those of [`Engine::open`].
    pub fn open_anchored(options: EngineOptions, anchors: Anchors) -> Result<Self, EngineError> {
        let paths = Paths::new(&options.data_dir);
        // A restore that was killed when the store was whole is ended before anybody looks.
        restore::settle(paths.root())?;
        if !has_store(&paths) {
            return Err(bootstrap::no_store(&paths));
        }
        let lock = match options.access {
            Access::Write => Some(bootstrap::lock(&paths)?),
            Access::Read => None,
        };
        let phase = RwLock::new(Phase { state: SealState::Sealed, open: None });
        let inner = Inner {
            options,
            anchors,
            paths,
            phase,
            turning: Arc::default(),
            metrics: Arc::default(),
            refusals: Arc::default(),
            attempts: Attempts::default(),
            retry: Retry::default(),
            backups: OnceLock::new(),
            places: OnceLock::new(),
            late: Mutex::default(),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The files of the data directory.
    pub fn paths(&self) -> &Paths {
        &self.inner.paths
    }

    /// Whether the store is open, and if not, why.
    pub fn seal_state(&self) -> SealState {
        self.inner.seal_state()
    }

    /// What keeps the store from being opened, in more words than the state has.
    pub fn seal_cause(&self) -> Option<SealCause> {
        let phase = self.inner.phase.read();
        let is_shut = !matches!(phase.state, SealState::Unsealed | SealState::Unsealing);
        is_shut.then(|| self.inner.retry.cause()).flatten()
    }

    /// Whether the store, which is closed, is opened by itself once what keeps it closed is over.
    pub fn opens_by_itself(&self) -> bool {
        self.inner.retry.goes_on()
    }

    /// The root of trust that `init` wrote down.
    ///
    /// # Errors
    /// [`EngineError::NotInitialized`], [`EngineError::File`], [`EngineError::Root`].
    pub fn configured_root(&self) -> Result<RootSpec, EngineError> {
        self.inner.configured_root()
    }

    /// The opened store.
    ///
    /// # Errors
    /// [`EngineError::Sealed`].
    pub fn unsealed(&self) -> Result<Arc<Unsealed>, EngineError> {
        self.inner.unsealed()
    }

    /// Opens the store with the root of trust that is written down. One that is open stays open.
    ///
    /// # Errors
    /// [`EngineError::Root`], [`EngineError::Store`], [`EngineError::Log`], [`EngineError::LogOlder`];
    /// [`EngineError::StoreStuck`] as long as a commit from before it was sealed has not ended.
    pub async fn unseal(&self) -> Result<(), EngineError> {
        self.unseal_with(&RootSource::Configured).await
    }

    /// As [`Engine::unseal`], with another root of trust.
    ///
    /// # Errors
    /// As [`Engine::unseal`].
    pub async fn unseal_with(&self, root: &RootSource) -> Result<(), EngineError> {
        let _turn = self.inner.turning.lock().await;
        if self.seal_state() == SealState::Unsealed {
            return Ok(());
        }
        self.inner.former_has_ended()?;
        self.inner.set_phase(SealState::Unsealing, None);
        self.inner.open_and_publish(root, PipeWait::Forever).await
    }

    /// Opens the store on behalf of a caller, who must be allowed to: until that is decided nobody else sees it open.
    /// An attempt that fails leaves the state as it was: what somebody sealed is not opened by itself because somebody
    /// else tried. One that began goes on to its end without its caller.
    ///
    /// # Errors
    /// As [`Engine::unseal`], and what the pipeline refuses with; [`EngineError::TooManyFailures`].
    pub async fn unseal_for(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        self.unseal_for_with(caller, RootSource::Configured).await
    }

    /// As [`Engine::unseal_for`], with another root of trust.
    ///
    /// # Errors
    /// As [`Engine::unseal_for`].
    pub async fn unseal_for_with(&self, caller: &Caller<'_>, root: RootSource) -> Result<(), EngineError> {
        if self.seal_state() == SealState::Unsealed {
            return Ok(());
        }
        let inner = self.inner.clone();
        if !is_plausible(caller.credential) {
            return Err(inner.refusals.note(EngineError::Unauthenticated, caller.origin, inner.options.clock.now()));
        }
        // Whoever acts in this process holds the data directory anyway and needs no limit.
        if matches!(caller.credential, Credential::Token(_)) {
            let now_millis = inner.options.clock.observe().uptime_millis;
            inner.attempts.begin(caller.origin.from.as_deref(), now_millis)?;
        }
        // Who asks is known only once the store is open. Attempts come one after the other, no more than are counted.
        let turn = tokio::time::timeout(TURN_WAIT_MAX, inner.turning.clone().lock_owned()).await;
        let turn = turn.map_err(|_| EngineError::Sealed { state: inner.seal_state() })?;
        let caller = KeptCaller::of(caller);
        let opened = to_its_end(async move {
            let _turn = turn;
            inner.open_for(&caller.caller(), &root).await
        });
        opened.await?
    }

    /// Closes the store on behalf of a caller: keys leave memory as soon as running operations end. Once it began it
    /// goes on to its end without its caller.
    ///
    /// # Errors
    /// What the pipeline refuses with, [`EngineError::RootBusy`]; [`EngineError::StoreStuck`] if the store is closed and a
    /// commit is still on its way, which keeps it closed until it has ended.
    pub async fn seal_for(&self, caller: &Caller<'_>) -> Result<(), EngineError> {
        let turn = self.turn(caller).await?;
        let (inner, caller) = (self.inner.clone(), KeptCaller::of(caller));
        let closed = to_its_end(async move {
            let _turn = turn;
            let open = inner.unsealed()?;
            execute(&open, &caller.caller(), crate::ops::system::Seal).await?;
            answer_of_seal(inner.close(open).await)
        });
        closed.await?
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
        let (now, generation) = (open.now(), open.present()?);
        let principal = authenticate(&open, caller.credential, now).await;
        let principal = principal.map_err(|error| open.refusals().note(error, caller.origin, now))?;
        let Err(refusal) = may(&principal, action) else { return Ok(()) };
        let kept = &Kept::new();
        let cx = Context { open: &open, now, generation, if_match: None, kept };
        let mut record = record_of(action, caller, &cx, &principal, refusal.reason, None);
        record.decision = RecordDecision::Refuse;
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
        principal.map(drop).map_err(|error| open.refusals().note(error, caller.origin, now))
    }

    /// Counts a request that was refused with `code` before it was an operation: it could not be read, say, or was too
    /// long. The count of each caller is recorded every ten seconds. While the store is closed nobody knows who calls,
    /// and nothing is counted.
    pub async fn note_no_operation(&self, caller: &Caller<'_>, code: &str) {
        let Ok(open) = self.unsealed() else { return };
        let now = open.now();
        match authenticate(&open, caller.credential, now).await {
            Ok(principal) => open.refusals().note_no_operation(&principal, code, caller.origin, now),
            // The caller has its answer, whatever this would be.
            Err(error) => drop(open.refusals().note(error, caller.origin, now)),
        }
    }

    /// The same of a request that was turned away because there is too much to do: whose it was is not looked up, which
    /// would be more to do.
    pub fn note_turned_away(&self, origin: &Origin, code: &str) {
        if let Ok(open) = self.unsealed() {
            open.refusals().note_turned_away(code, origin, open.now());
        }
    }

    /// Does the background work that is due: call it about once a second.
    ///
    /// # Errors
    /// The first thing that failed; the rest was tried all the same.
    pub async fn tick(&self) -> Result<(), EngineError> {
        match self.seal_state() {
            SealState::Unsealed => {
                let open = self.unsealed()?;
                let ticked = scheduler::tick(&open).await;
                let begun = match self.inner.backups.get() {
                    Some(plan) => schedule::begin_if_due(&open, plan).await,
                    None => Ok(()),
                };
                ticked.and(begun)
            }
            _ if self.inner.retry.is_due(self.inner.uptime_millis()) => self.inner.retry().await,
            _ => Ok(()),
        }
    }

    /// Tells that a thread that answers requests has nothing to do: what was done is recorded at once, and not together
    /// with what follows.
    pub fn rest(&self) {
        if let Ok(open) = self.unsealed() {
            open.log().rest();
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
        let Ok(open) = self.unsealed() else {
            return Health::new(self.seal_state(), self.seal_cause(), Vec::new());
        };
        let store = match open.stuck() {
            Some(stuck) => Some(stuck.to_string()),
            None => open.state().store().health().await.err().map(|error| error.to_string()),
        };
        let waits = || open.has_pending().then(|| "a change waits for its record".to_owned());
        let audit = open.log().health().failure.or_else(waits);
        let mut checks = vec![HealthCheck::of("store", store), HealthCheck::of("audit", audit)];
        let anchors = open.anchor_set();
        if !anchors.is_empty() {
            let check = HealthCheck::of("anchor", anchors.problem(open.log().published().size));
            checks.push(if anchors.required() { check } else { check.advice() });
        }
        Health { backup: self.backup_health(), ..Health::new(SealState::Unsealed, None, checks) }
    }

    /// How the last backup is; none where nobody makes any.
    pub fn backup_health(&self) -> Option<BackupHealth> {
        self.inner.metrics.backups().health(self.inner.backups.get(), self.inner.options.clock.now())
    }

    /// From here on the background work makes backups. The first plan stays.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for a directory that cannot hold any, or a time that is too short; [`EngineError::File`].
    pub fn schedule_backups(&self, plan: BackupPlan) -> Result<(), EngineError> {
        plan.check(self.inner.paths.root())?;
        let _first_stays = self.inner.backups.set(plan);
        Ok(())
    }

    /// Opens a backup with a root of trust, and reads it to its end. No store is needed, and nothing is changed.
    ///
    /// # Errors
    /// [`EngineError::Backup`], [`EngineError::Root`], [`EngineError::File`].
    pub fn check_backup(path: &Path, root: &dyn RootOfTrust) -> Result<BackupCheck, EngineError> {
        backup::check(path, root)
    }

    /// The counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.inner.metrics.snapshot()
    }

    /// Closes everything: what was counted is recorded, the log is published.
    ///
    /// # Errors
    /// [`EngineError::Log`] when the log could not be published; its records are safe in the journal.
    pub async fn close(&self) -> Result<(), EngineError> {
        let turn = self.inner.turning.clone().lock_owned().await;
        let inner = self.inner.clone();
        let closed = to_its_end(async move {
            let _turn = turn;
            match inner.unsealed() {
                Ok(open) => inner.close(open).await,
                Err(_) => {
                    inner.refusals.tell_lost();
                    Ok(())
                }
            }
        });
        closed.await?
    }
}

impl Inner {
    fn seal_state(&self) -> SealState {
        self.phase.read().state
    }

    fn configured_root(&self) -> Result<RootSpec, EngineError> {
        bootstrap::configured_root(&self.paths)
    }

    fn unsealed(&self) -> Result<Arc<Unsealed>, EngineError> {
        let phase = self.phase.read();
        phase.open.clone().ok_or(EngineError::Sealed { state: phase.state })
    }

    fn set_phase(&self, state: SealState, open: Option<Arc<Unsealed>>) {
        *self.phase.write() = Phase { state, open };
    }

    fn uptime_millis(&self) -> u64 {
        self.options.clock.observe().uptime_millis
    }

    fn publish(&self, open: Arc<Unsealed>) {
        self.retry.forget();
        if let Some(make) = &self.options.assets {
            open.set_assets(make(&open));
        }
        self.set_phase(SealState::Unsealed, Some(open));
    }

    async fn open_for(&self, caller: &Caller<'_>, root: &RootSource) -> Result<(), EngineError> {
        if self.seal_state() == SealState::Unsealed {
            return Ok(());
        }
        self.former_has_ended()?;
        let attempt = Attempt { engine: self, former: self.seal_state() };
        self.set_phase(SealState::Unsealing, None);
        let open = self.open_by_root(root, PipeWait::Limited).await?;
        match execute(&open, caller, crate::ops::system::Unseal).await {
            Ok(()) => {
                self.publish(open.clone());
                self.attempts.forget();
                self.settle_migration(&open, root).await;
                Ok(())
            }
            Err(error) => {
                drop(attempt);
                // The caller is told why it stays closed, whatever else went wrong.
                if let Err(failure) = self.finish(&open, AggregateWait::Usual).await {
                    tracing::error!(error = %failure, "a refused attempt to open the store did not end cleanly");
                }
                Err(error)
            }
        }
    }

    /// Tries a root that was not available again: until it is, the store shows why it is closed, and not each attempt.
    async fn retry(&self) -> Result<(), EngineError> {
        let _turn = self.turning.lock().await;
        if !self.retry.is_due(self.uptime_millis()) {
            return Ok(());
        }
        self.former_has_ended()?;
        self.open_and_publish(&RootSource::Configured, PipeWait::Limited).await
    }

    /// Whether all that the former store was writing is written: what is read before is not what counts.
    fn former_has_ended(&self) -> Result<(), EngineError> {
        self.late.lock().as_ref().and_then(Late::stuck).map_or(Ok(()), Err)
    }

    async fn open_and_publish(&self, root: &RootSource, wait: PipeWait) -> Result<(), EngineError> {
        let open = self.open_by_root(root, wait).await.inspect_err(|error| {
            self.retry.failed(error, self.uptime_millis());
            self.set_phase(state_after(error), None);
        })?;
        self.publish(open.clone());
        self.settle_migration(&open, root).await;
        Ok(())
    }

    /// Ends a move to another root that was interrupted, once the store is opened with the root that is written down.
    async fn settle_migration(&self, open: &Arc<Unsealed>, root: &RootSource) {
        if self.options.access == Access::Write
            && matches!(root, RootSource::Configured)
            && let Err(error) = migration::settle(open).await
        {
            tracing::warn!(error = %error, "a move to another root of trust was interrupted, and could not be ended");
        }
    }

    async fn open_by_root(&self, root: &RootSource, wait: PipeWait) -> Result<Arc<Unsealed>, EngineError> {
        // A passphrase may come through a pipe, whose writer takes its time.
        match blocking(|| root.resolve(|| self.configured_root(), wait)) {
            Ok(provider) => {
                let around = Around {
                    clock: self.options.clock.clone(),
                    metrics: self.metrics.clone(),
                    refusals: self.refusals.clone(),
                    anchors: self.anchors.clone(),
                };
                bootstrap::unseal(&self.paths, self.options.access, provider.as_ref(), around).await
            }
            Err(error) => Err(error),
        }
    }

    /// From here on nothing new begins; when it returns, the log has ended and nothing of the former store is written,
    /// or what still is keeps it closed.
    async fn close(&self, open: Arc<Unsealed>) -> Result<(), EngineError> {
        self.retry.forget();
        self.set_phase(SealState::Sealed, None);
        self.finish(&open, AggregateWait::None).await
    }

    async fn finish(&self, open: &Arc<Unsealed>, refusals: AggregateWait) -> Result<(), EngineError> {
        // A commit that ends now is recorded by the flush; one that does not is told by what follows.
        let _told_again = open.late_ends().await;
        let flushed = scheduler::flush(open, refusals).await;
        let closed = open.close().await;
        *self.late.lock() = open.take_late();
        closed?;
        flushed
    }
}

#[cfg(test)]
impl Engine {
    /// Shows a store as open that a test opened by itself.
    pub(crate) fn with_opened(self, open: Arc<Unsealed>) -> Self {
        self.inner.publish(open);
        self
    }
}
