//! Making, opening and closing a store.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_audit::{Enclosed, Keys, Site, VerifierKey};
use keyrail_core::access::{Action, Role};
use keyrail_core::id::RequestId;
use keyrail_core::label::default_labels;
use keyrail_core::record::{Detail, Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind};
use keyrail_core::system::{OutboxEntry, RootSecretPurpose, Setting, SettingName, SlotRole};
use keyrail_core::time::Clock;
use keyrail_core::token::TOKEN_TTL_SECONDS_MAX;
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::random;
use keyrail_crypto::secret::{RootKey, SigningSeed, StoreKey};
use keyrail_seal::{PipeWait, RootKind, RootOfTrust, RootSpec, SealError};
use keyrail_store::{Change, OpenMode, RowSealer, State, StoreError, bootstrap};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use crate::anchor::{AnchorSet, Anchors, LogSite};
use crate::error::EngineError;
use crate::history;
use crate::journal::Journal;
use crate::keys;
use crate::log_place::{self, Opening};
use crate::metrics::Metrics;
use crate::ops::evidence::details_of;
use crate::ops::root::{DealRecovery, NewRecovery, SlotView};
use crate::ops::token::{CreateToken, new_token};
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::pipeline::encode;
use crate::refusals::Refusals;
use crate::roots::{absolute, make_root, new_row, open_any};
use crate::store_place::{self, Placed, StorePlace, has_store};
use crate::unsealed::Unsealed;
use crate::unsealed::parts::Parts;
use crate::unsealed::tenure::{self, Tenure};
use crate::unsealed::told::Told;
use crate::usage::UsageBook;

/// Whether this process writes to the data directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// It looks only: no lock is taken, and nothing is recorded.
    Read,
    /// It is the one that writes.
    Write,
}

/// What a new store gives out, once.
pub struct Initialized {
    /// The first owner's token. It is kept nowhere.
    pub token: Zeroizing<String>,
    /// The log's public key: whoever verifies the log needs it from another place than the log.
    pub public_key: String,
    /// The root of trust that opens the store.
    pub root: RootSpec,
    /// Whether the root key lies beside the data, which production does not do.
    pub root_beside_data: bool,
    /// The recovery root, if one was asked for. Its shares are kept nowhere.
    pub recovery: Option<NewRecovery>,
}

/// The purposes that keys are derived for from the store's key.
pub(crate) const JOURNAL_PURPOSE: &str = "keyrail/journal";
const TOKEN_PURPOSE: &str = "keyrail/token";

/// Holds the data directory for one writer; released when dropped.
pub(crate) struct DirLock(#[allow(dead_code, reason = "the lock lives as long as the file is open")] File);

pub(crate) fn lock(paths: &Paths) -> Result<DirLock, EngineError> {
    let path = paths.lock();
    let failed = |source| file_failed("lock", &path, source);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EngineError::InUse),
        Err(error) => Err(file_failed("lock", &path, error.into())),
    }
}

pub(crate) fn file_failed(action: &'static str, path: &Path, source: std::io::Error) -> EngineError {
    EngineError::File { action, path: path.display().to_string(), source }
}

/// Makes a store. Killed at any moment it leaves either no store, and can be run again, or the whole one.
///
/// # Errors
/// [`EngineError::AlreadyInitialized`], [`EngineError::InUse`], [`EngineError::Root`], [`EngineError::File`];
/// [`EngineError::Invalid`] and [`EngineError::LogWithoutStore`] when other things lie where the log is to be.
pub(crate) async fn init(
    data_dir: PathBuf,
    root: Option<RootSpec>,
    recovery: Option<DealRecovery>,
    place: &StorePlace,
    clock: &dyn Clock,
) -> Result<Initialized, EngineError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&data_dir);
    made.map_err(|source| file_failed("create", &data_dir, source))?;
    let paths = Paths::new(&data_dir);
    let _lock = lock(&paths)?;
    if !has_store(&paths) {
        // Before a store is made that would look like one.
        require_free(&paths)?;
    }
    let Placed { store, shared } = place.make(&paths).await?;
    require_free(&paths)?;
    place.remember(&paths)?;
    let root_beside_data = root.is_none();
    let spec = root.unwrap_or_else(|| RootSpec::KeyFile(paths.default_root_key()));
    let spec = absolute(spec)?;
    let provider = blocking(|| make_root(&spec, PipeWait::Forever))?;
    write_root_spec(&paths, &spec)?;

    let root_key = RootKey::generate()?;
    // Deriving a key from a passphrase takes a second of computing; it happens before anything is served.
    let slot = blocking(|| provider.protect(&root_key))?;
    let claims = blocking(|| provider.claims())?;
    drop(provider);
    let (store_key, seed) = (StoreKey::generate()?, SigningSeed::generate()?);
    let now = clock.now();
    let secrets = [
        keys::wrap_root_secret(&root_key, &store_key, RootSecretPurpose::Store, now)?,
        keys::wrap_root_secret(&root_key, &seed, RootSecretPurpose::LogSigning, now)?,
    ];

    let origin = format!("keyrail/{}", hex::encode(random::array::<8>()?));
    let log_keys = Keys { seed, journal: store_key.mac_key(JOURNAL_PURPOSE)? };
    let is_shared = shared.is_some();
    let verifier = log_place::create(&paths, &origin, log_keys, shared.map(|shared| shared.log))?;
    let public_key = verifier.to_string();
    write_file(&paths.public_key(), format!("{public_key}\n").as_bytes())?;

    let mut change = Change::new();
    change.insert(&new_row(&slot, SlotRole::Primary, now));
    let recovery = match recovery {
        Some(asked) => {
            let (row, shares) = asked.deal(&root_key, now)?;
            change.insert(&row);
            Some(NewRecovery { slot: SlotView::of(&row, slot.id, now)?, shares })
        }
        None => None,
    };
    secrets.iter().for_each(|row| {
        change.insert(row);
    });
    let settings = [(SettingName::LocalOperator, "on".to_owned()), (SettingName::LogOrigin, origin)];
    for (name, value) in settings.into_iter().chain(place.setting()) {
        change.insert(&Setting { name, value, updated_at: now, generation: 1 });
    }
    let labels = default_labels(now).map_err(|_| EngineError::Bug { what: "a default label has no name" })?;
    labels.iter().for_each(|label| {
        change.insert(label);
    });
    let token_key = store_key.mac_key(TOKEN_PURPOSE)?;
    let request = CreateToken { role: Role::Owner, app: None, ttl_seconds: TOKEN_TTL_SECONDS_MAX };
    let (row, token) = new_token(|text| token_key.tag(&[b"token", text.as_bytes()]), &request, now)?;
    change.insert(&row);
    let mut record = init_record(RequestId::from_bytes(random::array()?), now, slot.kind(), row.id);
    record.detail.extend(details_of(&claims));
    let state = State::new(store, RowSealer::new(&store_key)?);
    let guard = is_shared.then(|| store_key.mac_key(JOURNAL_PURPOSE)).transpose()?;
    commit_first(&state, change, record, guard).await?;
    Ok(Initialized { token, public_key, root: spec, root_beside_data, recovery })
}

/// Stores the first rows with the first record: that goes into a log in the same database at once, or `guard` is none.
pub(crate) async fn commit_first(
    state: &State,
    change: Change,
    mut record: Record,
    guard: Option<MacKey>,
) -> Result<(), EngineError> {
    let staged = state.stage(change, record.id).await?;
    record.state = staged.mark();
    let body = encode(&record).map_err(EngineError::AuditUnavailable)?;
    match guard {
        Some(guard) => {
            let first = Enclosed::first(body, record.id, guard).map_err(EngineError::AuditUnavailable)?;
            state.commit_enclosed(staged, Arc::new(first)).await?;
        }
        None => state.commit_staged(staged, &OutboxEntry { request: record.id, log_index_min: 0, body }).await?,
    }
    Ok(())
}

fn init_record(
    id: RequestId,
    now: keyrail_core::time::Timestamp,
    root: RootKind,
    token: keyrail_core::id::TokenId,
) -> Record {
    let detail = |name: &str, value: String| Detail { name: name.to_owned(), value };
    Record {
        v: RECORD_FORMAT,
        id,
        time: now,
        kind: RecordKind::Operation,
        principal: keyrail_core::access::Principal::local_operator().label(),
        session: None,
        action: Action::SystemInit,
        resource: None,
        versions: Vec::new(),
        asset: None,
        origin: Origin { from: Some("local".to_owned()), ..Origin::default() },
        decision: RecordDecision::Allow,
        reason: "the store was empty".to_owned(),
        outcome: Outcome::Done,
        code: None,
        items: None,
        failed: None,
        detail: vec![detail("root", root.as_str().to_owned()), detail("token", token.to_string())],
        state: None,
    }
}

/// Refuses a directory that holds more than an `init` leaves that was killed: it is somebody's, or evidence.
fn require_free(paths: &Paths) -> Result<(), EngineError> {
    match keyrail_audit::site(&paths.audit(), &paths.journal())? {
        Site::Free => Ok(()),
        Site::Log => Err(EngineError::LogWithoutStore),
        Site::Foreign { path } => Err(EngineError::Invalid {
            problem: format!("`{}` is there already, and no part of a new store", path.display()),
            hint: "choose another --data-dir, or move it away; if a log of Keyrail is there, put its `store.sqlite` back",
        }),
    }
}

/// What there is in place of a store: nothing, or a log whose store is gone.
pub(crate) fn no_store(paths: &Paths) -> EngineError {
    match keyrail_audit::site(&paths.audit(), &paths.journal()) {
        Ok(Site::Log) => EngineError::LogWithoutStore,
        _ => EngineError::NotInitialized,
    }
}

/// Writes a small file as a whole: after a crash it is the old one or the new one.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<(), EngineError> {
    let temporary = path.with_extension("new");
    let failed = |source| file_failed("write", path, source);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Writes down what opens the store at a start.
///
/// # Errors
/// [`EngineError::File`].
pub(crate) fn write_root_spec(paths: &Paths, spec: &RootSpec) -> Result<(), EngineError> {
    write_file(&paths.root_spec(), format!("{spec}\n").as_bytes())
}

/// What opens the store of a data directory, as it is written down there.
///
/// # Errors
/// [`EngineError::NotInitialized`], [`EngineError::File`], [`EngineError::Root`].
pub(crate) fn configured_root(paths: &Paths) -> Result<RootSpec, EngineError> {
    let path = paths.root_spec();
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => EngineError::NotInitialized,
        _ => file_failed("read", &path, error),
    })?;
    text.trim_end().parse().map_err(|_| SealError::Malformed { path, what: "root of trust" }.into())
}

/// What an opened store shares with the process that it is in.
pub(crate) struct Around {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) anchors: Anchors,
}

/// Opens the store with a root of trust.
pub(crate) async fn unseal(
    paths: &Paths,
    access: Access,
    provider: &dyn RootOfTrust,
    around: Around,
) -> Result<Arc<Unsealed>, EngineError> {
    let mode = if access == Access::Write { OpenMode::Write } else { OpenMode::Read };
    if !has_store(paths) {
        return Err(no_store(paths));
    }
    let placed = store_place::open(paths, mode).await?;
    unseal_on(placed, paths, access, provider, around).await
}

/// Refuses rows that are not of the time of the log, and looks up in the map what was read before that was known.
async fn require_newest(
    state: &State,
    log: &Journal,
    access: Access,
    now: keyrail_core::time::Timestamp,
) -> Result<u64, EngineError> {
    let told = history::require_present(state, log, access, now).await?;
    state.check_bootstrap().await?;
    state.setting(&SettingName::LogOrigin).await?;
    state.log_head().await?;
    Ok(told)
}

/// Opens the rows of `store` and the log beside them.
pub(crate) async fn unseal_on(
    placed: impl Into<Placed>,
    paths: &Paths,
    access: Access,
    provider: &dyn RootOfTrust,
    around: Around,
) -> Result<Arc<Unsealed>, EngineError> {
    let Placed { store, shared } = placed.into();
    let (rows, leases) = shared.map(|shared| (shared.log, shared.leases)).unzip();
    let found = bootstrap(store.as_ref()).await?;
    if found.slots.is_empty() {
        return Err(no_store(paths));
    }
    let (root, opened_by) = blocking(|| open_any(&found.slots, provider))?;
    let secret = |purpose: RootSecretPurpose| {
        let missing = || StoreError::RowMissing { table: keys::ROOT_SECRET_TABLE, id: purpose.as_str().to_owned() };
        found.secrets.iter().find(|row| row.purpose == purpose).ok_or_else(missing)
    };
    let store_key: StoreKey = keys::unwrap_root_secret(&root, secret(RootSecretPurpose::Store)?)?;
    let seed: SigningSeed = keys::unwrap_root_secret(&root, secret(RootSecretPurpose::LogSigning)?)?;
    let state = State::new(store, RowSealer::new(&store_key)?);
    // What finds the log. Whether these rows are the newest is known when there is a log to ask.
    let found = state.by_seals_alone();
    found.check_bootstrap().await?;
    if found.setting(&SettingName::AcceptAsyncLoss).await?.is_some_and(|setting| setting.value == "on") {
        state.store().accept_async_loss();
    }
    let origin =
        found.setting(&SettingName::LogOrigin).await?.ok_or(EngineError::Bug { what: "the log has no name" })?.value;
    let verifier = VerifierKey::new(&origin, seed.public_key()?)
        .map_err(|_| EngineError::Bug { what: "the log has no usable name" })?;
    let remembered = found.log_head().await?;
    let mut site =
        LogSite { audit_dir: paths.audit(), cosigned_dir: paths.cosigned(), key: verifier.clone(), rows: None };
    let anchors = AnchorSet::new(&around.anchors, &site, &around.clock);
    let keys = Keys { seed, journal: store_key.mac_key(JOURNAL_PURPOSE)? };
    let guard = store_key.mac_key(JOURNAL_PURPOSE)?;
    let opening = Opening { paths, access, origin, keys, guard, remembered };
    let log = opening.open(rows, &anchors, &mut site)?;
    // The lease before the first look at the rows: what is changed from here on waits for this node.
    let tenure = Tenure::join(leases.filter(|_| access == Access::Write), around.clock.clone(), &log).await?;
    let newest = require_newest(&state, &log, access, around.clock.now()).await;
    if let (Err(_), Some(tenure)) = (&newest, &tenure) {
        tenure.end().await;
    }
    let told = newest?;
    let keepers = log.watch().map(|watch| anchors.keep(&site, &watch)).unwrap_or_default();
    let token_key = store_key.mac_key(TOKEN_PURPOSE)?;
    let audit_dir = paths.audit();
    let parts = Parts {
        state,
        log,
        verifier,
        audit_dir,
        clock: around.clock,
        root,
        opened_by,
        token_key,
        remembered,
        told: Told::at(told),
        usage: UsageBook::default(),
        tenure,
        metrics: around.metrics,
        refusals: around.refusals,
        anchors,
        keepers,
    };
    let open = Arc::new(Unsealed::new(parts));
    if access == Access::Write {
        crate::outbox::replay(&open).await?;
        tenure::keep(&open);
    }
    Ok(open)
}
