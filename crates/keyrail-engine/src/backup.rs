//! Backups: all rows of a store at one moment, sealed for whoever can open the store. `spec/backup.md` has the format.

pub(crate) mod file;
pub(crate) mod place;
pub(crate) mod problem;
pub(crate) mod schedule;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_audit::Head;
use keyrail_core::system::{RootSecret, RootSecretPurpose, RootSlotRow, SlotRole};
use keyrail_core::time::Timestamp;
use keyrail_seal::{RootOfTrust, RootSpec};
use keyrail_store::{ImageCheck, RowCounts, State};
use serde::{Deserialize, Serialize};

use crate::backup::file::{BackupFile, BackupReader};
use crate::backup::place::BackupName;
use crate::backup::problem::BackupProblem;
use crate::error::EngineError;
use crate::parallel::blocking;
use crate::paths::Paths;
use crate::unsealed::Unsealed;

/// What a backup says of itself; sealed like the rows.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Manifest {
    /// Which store it is of, in hex: the id of its store key, which never changes.
    pub(crate) store: String,
    /// When the rows were of this form.
    pub(crate) time: Timestamp,
    /// The name of the log.
    pub(crate) origin: String,
    /// The key that verifies the log.
    pub(crate) public_key: String,
    /// Records in the log then.
    pub(crate) log_size: u64,
    /// Root hash of the log then, in hex.
    pub(crate) log_root: String,
    /// The generation of the map over the rows.
    pub(crate) generation: u64,
    /// The root of the map, in hex.
    pub(crate) state_root: String,
    /// The root of trust that opened the store at a start; no secret.
    pub(crate) configured_root: String,
    /// How many rows each table has, those without rows left out.
    pub(crate) rows: RowCounts,
}

/// A backup that was made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, utoipa::ToSchema)]
pub struct BackupView {
    /// The file, on the machine of the service.
    pub file: String,
    /// When the rows were of this form.
    pub time: Timestamp,
    /// Records in the log then: what a restore has to name.
    pub log_size: u64,
    /// Root hash of the log then, in hex.
    pub log_root: String,
    /// Rows, those of the map included.
    pub rows: u64,
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Older backups of this store that were removed.
    pub removed: u64,
}

/// A backup as it was opened and read to its end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, utoipa::ToSchema)]
pub struct BackupCheck {
    /// The file.
    pub file: String,
    /// When the rows were of this form.
    pub time: Timestamp,
    /// The name of the log.
    pub origin: String,
    /// Records in the log then: what a restore has to name.
    pub log_size: u64,
    /// Root hash of the log then, in hex.
    pub log_root: String,
    /// Rows, those of the map included.
    pub rows: u64,
    /// Whether it opened and is whole; one that is not is an error.
    pub whole: bool,
}

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ask {
    /// Where to put it.
    pub(crate) dir: PathBuf,
    /// How many backups of this store are kept there; `None` for all.
    pub(crate) keep: Option<u32>,
}

/// Makes a backup beside running work. Killed at any moment it leaves a whole file under its name, or none.
///
/// # Errors
/// [`EngineError::Store`], also for rows that are not as they were last written: such a backup would be no help;
/// [`EngineError::File`].
pub(crate) async fn make(open: &Arc<Unsealed>, ask: &Ask) -> Result<BackupView, EngineError> {
    let began = open.clock().observe();
    let _turn = open.backing_up.lock().await;
    place::prepare(&ask.dir, open.data_dir())?;
    open.usage().catch_up(open).await?;
    let time = open.now();
    let (state, head) = open.at_one_moment().await?;
    state.require_whole().await?;
    let manifest = describe(open, &state, head, time).await?;
    let name = BackupName::new(&manifest.store, time, manifest.log_size);
    blocking(|| place::sweep(&ask.dir, &name.store))?;
    let mut slots = state.root_slots().await?;
    slots.retain(|row| row.role != SlotRole::Void);
    let root = open.root_of(&state).await?;
    let mut file = blocking(|| BackupFile::create(&ask.dir, &name, &slots, &root, &manifest))?;
    let rows = state.write_image(|part| blocking(|| file.write(part))).await?;
    let written = blocking(|| file.finish())?;
    let removed = blocking(|| place::keep(&ask.dir, &name, ask.keep))?;
    let millis = open.clock().observe().uptime_millis.saturating_sub(began.uptime_millis);
    tracing::info!(file = %written.path.display(), rows, millis, "a backup was made");
    Ok(BackupView {
        file: written.path.display().to_string(),
        time,
        log_size: manifest.log_size,
        log_root: manifest.log_root,
        rows,
        bytes: written.len,
        sha256: hex::encode(written.sha256),
        millis,
        removed,
    })
}

async fn describe(open: &Unsealed, state: &State, head: Head, time: Timestamp) -> Result<Manifest, EngineError> {
    let map = state.map_state().await?.ok_or(EngineError::Bug { what: "a store without a map" })?;
    let mut rows = state.row_counts().await?;
    rows.retain(|_, count| *count > 0);
    Ok(Manifest {
        store: store_id(state).await?,
        time,
        origin: open.verifier_key().name().to_owned(),
        public_key: open.verifier_key().to_string(),
        log_size: head.size,
        log_root: hex::encode(head.root),
        generation: map.generation,
        state_root: hex::encode(map.root),
        configured_root: open.configured_root()?.to_string(),
        rows,
    })
}

/// What tells a store from others: the id of its store key, in hex.
pub(crate) async fn store_id(state: &State) -> Result<String, EngineError> {
    let secrets = state.all::<RootSecret>(Vec::new()).await?;
    let found = secrets.iter().find(|row| row.purpose == RootSecretPurpose::Store);
    found.map(|row| hex::encode(row.id)).ok_or(EngineError::Bug { what: "a store without a store key" })
}

/// Opens a backup, and reads it to its end.
///
/// # Errors
/// [`EngineError::Backup`], [`EngineError::Root`], [`EngineError::File`].
pub(crate) fn check(path: &Path, root: &dyn RootOfTrust) -> Result<BackupCheck, EngineError> {
    let mut reader = BackupReader::open(path, root)?;
    let mut image = ImageCheck::default();
    let refuse = |problem: BackupProblem| problem.at(path);
    while let Some(part) = reader.next()? {
        image.take(&part).map_err(|error| refuse(error.into()))?;
    }
    let counts = image.finish().map_err(|error| refuse(error.into()))?;
    let Manifest { time, origin, log_size, log_root, rows, .. } = reader.into_manifest();
    if counts != rows {
        return Err(refuse(BackupProblem::Incomplete));
    }
    let rows = rows.values().sum();
    Ok(BackupCheck { file: path.display().to_string(), time, origin, log_size, log_root, rows, whole: true })
}

/// The backups in a directory, oldest first.
///
/// # Errors
/// [`EngineError::File`].
pub fn backups_in(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    Ok(place::list(dir, None)?.into_iter().map(|(_, path)| path).collect())
}

/// The root of trust that is written down in a data directory.
///
/// # Errors
/// [`EngineError::NotInitialized`], [`EngineError::File`], [`EngineError::Root`].
pub fn configured_root(data_dir: &Path) -> Result<RootSpec, EngineError> {
    crate::bootstrap::configured_root(&Paths::new(data_dir))
}

/// As much of a slot's row as opening needs.
pub(crate) fn slot_rows(slots: &[Vec<u8>], now: Timestamp) -> Vec<RootSlotRow> {
    let row = |slot: &Vec<u8>| RootSlotRow {
        id: slot.get(1..17).and_then(|id| id.try_into().ok()).unwrap_or_default(),
        slot: slot.clone(),
        created_at: now,
        generation: 1,
        role: SlotRole::Primary,
        recipients: Vec::new(),
        rehearsed_at: None,
    };
    slots.iter().map(row).collect()
}
