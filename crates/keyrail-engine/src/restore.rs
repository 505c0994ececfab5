//! Restoring a backup: the rows of then, a log of its own that names the former one, and revoked what was revoked since.

mod aftermath;
mod past;
mod switch;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_audit::{Checkpoint, Keys, Log, LogOptions, Remembered, VerifierKey};
use keyrail_core::access::{Action, Principal};
use keyrail_core::id::RequestId;
use keyrail_core::record::{Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind};
use keyrail_core::system::{RootSecret, RootSecretPurpose};
use keyrail_core::time::{Clock, Timestamp};
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::random;
use keyrail_crypto::secret::{RootKey, SigningSeed, StoreKey};
use keyrail_seal::{RootOfTrust, RootSpec};
use keyrail_store::{ImageError, ImageLoader, OpenMode, RowSealer, SqliteStore, State, StoreError, bootstrap};
use serde::Serialize;

use crate::anchor::Anchors;
use crate::authorize::Authorized;
use crate::backup::file::BackupReader;
use crate::backup::problem::BackupProblem;
use crate::backup::{Manifest, place, store_id};
use crate::bootstrap::{
    Access, Around, JOURNAL_PURPOSE, commit_first, configured_root, file_failed, lock, unseal, write_file,
    write_root_spec,
};
use crate::error::EngineError;
use crate::keys;
use crate::log_place;
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::pipeline::{Acted, Context, Operation, Target, execute};
use crate::refusals::AggregateWait;
use crate::request::Caller;
use crate::restore::aftermath::{Aftermath, aftermath};
pub use crate::restore::past::FormerLog;
use crate::restore::past::{From, Past};
pub(crate) use crate::restore::switch::settle;
use crate::restore::switch::{Staging, finish};
use crate::roots::absolute;
use crate::scheduler;
use crate::unsealed::Unsealed;

/// The generation of the rows is raised by so much: no head of the time that is lost is newer.
const GENERATION_GAP: u64 = 1 << 32;

/// A file of a data directory is the one place that a backup is put into.
const IN_DATABASE_HINT: &str =
    "restore its database with the means of PostgreSQL, or the backup into another --data-dir, as a file";

/// What is asked for.
pub struct RestoreAsk {
    /// Where the store is to be; what is there is kept beside.
    pub data_dir: PathBuf,
    /// The backup, or a directory with backups.
    pub from: PathBuf,
    /// The root that opens the backup; the one that is written down in the data directory if none is named.
    pub root: Option<RootSpec>,
    /// The size of the log that may be gone back to; without it nothing is restored.
    pub accept: Option<u64>,
    /// Where the log of the time after the backup is.
    pub log: FormerLog,
}

/// What was restored, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// Whether it was done.
    pub restored: bool,
    /// The backup.
    pub backup: String,
    /// When the rows were of this form.
    pub time: Timestamp,
    /// The name of the former log.
    pub former_origin: String,
    /// Records in it at the time of the backup: what has to be accepted.
    pub log_size: u64,
    /// Its root hash then, in hex.
    pub log_root: String,
    /// Records in it as it was found; none if there was no log to look at.
    pub log_size_found: Option<u64>,
    /// What has to be done again by hand, at once: the answer to an exposure of the root key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_do: Vec<String>,
    /// Rows, those of the map included.
    pub rows: u64,
    /// The changes that are taken back, by what they were; only what a log tells.
    pub changes_lost: BTreeMap<&'static str, u64>,
    /// What was revoked since and is revoked again.
    pub revoked_again: Vec<String>,
    /// Keys that got a new active version, since the one of the backup was none any more.
    pub rotated: Vec<String>,
    /// Key versions that were made since. Their material is gone: values under them do not open.
    pub versions_lost: Vec<String>,
    /// The name of the new log.
    pub origin: String,
    /// The key that verifies the new log.
    pub public_key: String,
    /// Where the former store and its log are.
    pub former: Option<String>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Restores a backup. Killed at any moment it leaves the former store or the restored one.
///
/// # Errors
/// [`EngineError::RollbackNotAccepted`] for another size than the backup's, [`EngineError::Backup`],
/// [`EngineError::FormerLog`], [`EngineError::Root`], [`EngineError::InUse`], [`EngineError::File`]; what the pipeline
/// refuses with.
pub(crate) async fn restore(
    ask: &RestoreAsk,
    caller: &Caller<'_>,
    clock: Arc<dyn Clock>,
) -> Result<RestoreReport, EngineError> {
    let began = clock.observe().uptime_millis;
    let dir = &ask.data_dir;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| file_failed("create", dir, source))?;
    let _lock = lock(&Paths::new(dir))?;
    finish(dir)?;
    if Paths::new(dir).store_url().exists() {
        return Err(EngineError::Invalid {
            problem: "the store of this data directory is in PostgreSQL".to_owned(),
            hint: IN_DATABASE_HINT,
        });
    }
    let spec = match &ask.root {
        Some(spec) => absolute(spec.clone())?,
        None => configured_root(&Paths::new(dir))?,
    };
    let provider = blocking(|| spec.resolve())?;
    let path = chosen(&ask.from, ask.accept)?;
    let reader = BackupReader::open(&path, provider.as_ref())?;
    let found = reader.manifest().log_size;
    if ask.accept.is_some_and(|accepted| accepted != found) {
        return Err(EngineError::RollbackNotAccepted { found, accepted: ask.accept });
    }
    require_same_store(dir, reader.manifest(), &path).await?;
    let staging = Staging::begin(dir)?;
    let work = Work { ask, path: &path, spec: &spec, provider: provider.as_ref(), clock: &clock, dir: staging.dir() };
    let mut report = match work.restore(reader, caller).await {
        Ok(report) => report,
        Err(error) => {
            staging.abandon()?;
            return Err(error);
        }
    };
    report.to_do.iter().for_each(|line| tracing::warn!("{line}"));
    if ask.accept.is_some() {
        report.former = staging.commit()?.map(|former| former.display().to_string());
        report.restored = true;
    } else {
        staging.abandon()?;
    }
    report.millis = clock.observe().uptime_millis.saturating_sub(began);
    Ok(report)
}

/// The file itself; in a directory the newest one of the accepted size, or the newest of all.
fn chosen(from: &Path, accept: Option<u64>) -> Result<PathBuf, EngineError> {
    if !from.is_dir() {
        return Ok(from.to_owned());
    }
    let mut found = place::list(from, None)?;
    let fits = found.iter().rposition(|(name, _)| accept.is_none_or(|size| name.log_size == size));
    // None of that size: the newest one tells which would have to be named.
    let at = fits.or(found.len().checked_sub(1));
    let Some(at) = at else {
        return Err(EngineError::Invalid {
            problem: format!("`{}` holds no backup", from.display()),
            hint: "name a directory that `keyrail backup` wrote to, or a file",
        });
    };
    Ok(found.swap_remove(at).1)
}

/// Refuses a backup of another store than the one that is there, if that can still be told.
async fn require_same_store(dir: &Path, manifest: &Manifest, path: &Path) -> Result<(), EngineError> {
    let store = Paths::new(dir).store();
    let Ok(store) = SqliteStore::open(&store, OpenMode::Read) else { return Ok(()) };
    let Ok(found) = bootstrap(&store).await else { return Ok(()) };
    let mut ids = found.secrets.iter().filter(|row| row.purpose == RootSecretPurpose::Store);
    let other = ids.any(|row| hex::encode(row.id) != manifest.store);
    if other { Err(BackupProblem::Foreign.at(path)) } else { Ok(()) }
}

/// A restore that is going on.
struct Work<'a> {
    ask: &'a RestoreAsk,
    path: &'a Path,
    spec: &'a RootSpec,
    provider: &'a dyn RootOfTrust,
    clock: &'a Arc<dyn Clock>,
    /// Where the store is made.
    dir: PathBuf,
}

impl Work<'_> {
    async fn restore(&self, mut reader: BackupReader, caller: &Caller<'_>) -> Result<RestoreReport, EngineError> {
        let paths = Paths::new(&self.dir);
        let state = self.load(&paths, &mut reader).await?;
        let manifest = reader.manifest().clone();
        let secrets = Secrets::of(&state, reader.root()).await?;
        let past = self.past(&state, &manifest, &secrets).await?;
        state.raise_generation(manifest.generation.max(past.generation) + GENERATION_GAP).await?;

        let origin = format!("keyrail/{}", hex::encode(random::array::<8>()?));
        let public_key = log_place::create(&paths, &origin, secrets.log_keys()?, None)?.to_string();
        write_file(&paths.public_key(), format!("{public_key}\n").as_bytes())?;
        let spec = if self.spec.is_recovery() { written_spec(&manifest)? } else { self.spec.clone() };
        write_root_spec(&paths, &spec)?;
        let now = self.clock.now();
        let after = aftermath(&state, reader.root(), &past, &origin, now).await?;
        let record = after.record(first_record(now)?, &manifest, &past);
        let Aftermath { change, revoked_again, rotated, versions_lost, .. } = after;
        commit_first(&state, change, record, None).await?;
        drop(state);
        self.admit(&paths, caller, &manifest).await?;
        Ok(RestoreReport {
            restored: false,
            backup: self.path.display().to_string(),
            time: manifest.time,
            former_origin: manifest.origin,
            log_size: manifest.log_size,
            log_root: manifest.log_root,
            log_size_found: past.size,
            to_do: past.to_do(),
            rows: manifest.rows.values().sum(),
            changes_lost: past.changes,
            revoked_again,
            rotated,
            versions_lost,
            origin,
            public_key,
            former: None,
            millis: 0,
        })
    }

    /// The rows of the backup, as they were, each compared with the map.
    async fn load(&self, paths: &Paths, reader: &mut BackupReader) -> Result<State, EngineError> {
        let refuse = |error: ImageError| match error {
            // A setting that only a store in a database has.
            ImageError::Store(StoreError::Constraint { .. }) => EngineError::Invalid {
                problem: "the backup is of a store in PostgreSQL, and not fit for a file".to_owned(),
                hint: "restore its database with the means of PostgreSQL",
            },
            error => BackupProblem::from(error).at(self.path),
        };
        let store = Arc::new(SqliteStore::open(&paths.store(), OpenMode::Create)?);
        let mut loader = ImageLoader::new(store.clone());
        while let Some(part) = blocking(|| reader.next())? {
            loader.take(&part).await.map_err(refuse)?;
        }
        let counts = loader.finish().await.map_err(refuse)?;
        let found = bootstrap(store.as_ref()).await?;
        let secret = found.secrets.iter().find(|row| row.purpose == RootSecretPurpose::Store);
        let incomplete = || BackupProblem::Incomplete.at(self.path);
        let key: StoreKey = keys::unwrap_root_secret(reader.root(), secret.ok_or_else(incomplete)?)?;
        let state = State::new(store, RowSealer::new(&key)?);
        state.require_whole().await.map_err(|error| refuse(error.into()))?;
        let manifest = reader.manifest();
        let map = state.map_state().await?.map(|map| (map.generation, hex::encode(map.root)));
        let same = counts == manifest.rows
            && map == Some((manifest.generation, manifest.state_root.clone()))
            && store_id(&state).await? == manifest.store;
        if same { Ok(state) } else { Err(incomplete()) }
    }

    /// What happened after the backup, as far as there is a log that tells it.
    async fn past(&self, state: &State, manifest: &Manifest, secrets: &Secrets<'_>) -> Result<Past, EngineError> {
        let unreadable = || BackupProblem::Incomplete.at(self.path);
        let public_key = secrets.seed()?.public_key()?;
        let key = VerifierKey::new(&manifest.origin, public_key).map_err(|_| unreadable())?;
        let mut root = [0; 32];
        hex::decode_to_slice(&manifest.log_root, &mut root).map_err(|_| unreadable())?;
        let head = Remembered { size: manifest.log_size, root };
        if self.ask.accept.is_some() && self.ask.log == FormerLog::Beside {
            self.publish_former(secrets)?;
        }
        let counted = state.usage_mark().await?.map_or(0, |mark| mark.log_index);
        let guard = secrets.journal()?;
        let (origin, public_key) = (manifest.origin.as_str(), &public_key);
        let from = From { origin, key: &key, public_key, head, counted, guard: &guard };
        blocking(|| past::read(&self.ask.log, &self.ask.data_dir, &from))
    }

    /// Of a log that was killed some records may not be in its files yet.
    fn publish_former(&self, secrets: &Secrets<'_>) -> Result<(), EngineError> {
        let former = Paths::new(&self.ask.data_dir);
        let Ok(note) = std::fs::read_to_string(former.audit().join("checkpoint")) else { return Ok(()) };
        let failed = |problem: String| EngineError::FormerLog { problem };
        let origin = Checkpoint::parse_unverified(&note).map_err(|error| failed(error.to_string()))?.origin;
        let options = LogOptions::new(former.audit(), former.journal(), origin);
        let keys = secrets.log_keys()?;
        let published = blocking(|| Log::open(options, keys).and_then(|(log, _)| log.close()));
        published.map(drop).map_err(|error| failed(error.to_string()))
    }

    /// Opens the restored store, which moves its first record into the log, and asks its own rules whether the caller may
    /// restore it.
    async fn admit(&self, paths: &Paths, caller: &Caller<'_>, manifest: &Manifest) -> Result<(), EngineError> {
        let around = Around {
            clock: self.clock.clone(),
            metrics: Arc::default(),
            refusals: Arc::default(),
            anchors: Anchors::default(),
        };
        let open = unseal(paths, Access::Write, self.provider, around).await?;
        let op = AdmitRestore { log_size: manifest.log_size, accepted: self.ask.accept.is_some() };
        let admitted = execute(&open, caller, op).await;
        let flushed = scheduler::flush(&open, AggregateWait::None).await;
        let closed = open.close().await;
        admitted.and(flushed).and(closed)
    }
}

/// What opens at a start what was opened by recovery shares this time.
fn written_spec(manifest: &Manifest) -> Result<RootSpec, EngineError> {
    let unreadable = EngineError::Bug { what: "a backup with no readable root" };
    manifest.configured_root.parse().map_err(|_| unreadable)
}

/// The keys directly under the root key.
struct Secrets<'a> {
    root: &'a RootKey,
    rows: Vec<RootSecret>,
}

impl<'a> Secrets<'a> {
    async fn of(state: &State, root: &'a RootKey) -> Result<Self, EngineError> {
        Ok(Self { root, rows: bootstrap(state.store().as_ref()).await?.secrets })
    }

    fn row(&self, purpose: RootSecretPurpose) -> Result<&RootSecret, EngineError> {
        let row = self.rows.iter().find(|row| row.purpose == purpose);
        row.ok_or(EngineError::Bug { what: "a store without its keys" })
    }

    fn seed(&self) -> Result<SigningSeed, EngineError> {
        keys::unwrap_root_secret(self.root, self.row(RootSecretPurpose::LogSigning)?)
    }

    fn journal(&self) -> Result<MacKey, EngineError> {
        let store: StoreKey = keys::unwrap_root_secret(self.root, self.row(RootSecretPurpose::Store)?)?;
        Ok(store.mac_key(JOURNAL_PURPOSE)?)
    }

    fn log_keys(&self) -> Result<Keys, EngineError> {
        Ok(Keys { seed: self.seed()?, journal: self.journal()? })
    }
}

/// The first record of the new log.
fn first_record(now: Timestamp) -> Result<Record, EngineError> {
    Ok(Record {
        v: RECORD_FORMAT,
        id: RequestId::from_bytes(random::array()?),
        time: now,
        kind: RecordKind::Operation,
        principal: Principal::system().label(),
        session: None,
        action: Action::SystemRestore,
        resource: None,
        versions: Vec::new(),
        asset: None,
        origin: Origin { from: Some("local".to_owned()), ..Origin::default() },
        decision: RecordDecision::Allow,
        reason: "the rows are those of a backup; who asked for it stands in the next record".to_owned(),
        outcome: Outcome::Done,
        code: None,
        items: None,
        failed: None,
        detail: Vec::new(),
        state: None,
    })
}

/// Asks the restored store whether the caller may restore it.
#[derive(Clone, Copy, Debug)]
struct AdmitRestore {
    log_size: u64,
    accepted: bool,
}

impl Operation for AdmitRestore {
    const ACTION: Action = Action::SystemRestore;
    type Loaded = ();
    type Answer = ();

    async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
        Ok(())
    }

    fn target(&self, (): &()) -> Target {
        Target::service("store", None)
    }

    async fn act(authorized: &Authorized<Self>, (): (), _: &Context<'_>) -> Result<Acted<()>, EngineError> {
        let op = authorized.op();
        let acted = Acted::new(()).detail("log_size", op.log_size);
        Ok(if op.accepted { acted.detail("accepted_rollback_to", op.log_size) } else { acted })
    }
}
