//! The service itself: sealing, verifying, rewrapping, settings.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::MasterVersionId;
use keyrail_core::key::DataKeyVersion;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::VersionNumber;
use keyrail_core::record::Record;
use keyrail_core::system::{Setting, SettingName};
use keyrail_core::time::Timestamp;
use keyrail_crypto::envelope::Kid;
use keyrail_store::{Change, Finding, FindingKind, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::exposure::is_marked;
use crate::keys;
use crate::pipeline::{Acted, Context, Operation, Target, replay_answer};
use crate::unsealed::Unsealed;

macro_rules! service_operation {
    ($(#[$meta:meta])* $name:ident, $action:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Operation for $name {
            const ACTION: Action = Action::$action;
            type Loaded = ();
            type Answer = ();

            async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
                Ok(())
            }

            fn target(&self, (): &()) -> Target {
                Target::service("store", None)
            }

            async fn act(_: &Authorized<Self>, (): (), _: &Context<'_>) -> Result<Acted<()>, EngineError> {
                Ok(Acted::new(()))
            }
        }
    };
}

service_operation!(
    /// Closes the store; the record of it is the last before it is closed.
    Seal,
    SystemSeal
);
service_operation!(
    /// Opens the store; the record of it is the first after it was opened.
    Unseal,
    SystemUnseal
);

/// Reads every row of the store and names each that is not as it was last written, or missing.
#[derive(Clone, Copy, Debug)]
pub struct VerifyStore;

/// What [`VerifyStore`] found.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct StoreReport {
    /// What is wrong; empty if nothing is.
    pub findings: Vec<StoreFinding>,
    /// The log's size that the store remembers, and its root hash in hex.
    pub remembered: Option<RememberedHead>,
    /// What the log says of it, where the store was put back from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredView>,
}

/// A store that was put back from a backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RestoredView {
    /// When.
    pub at: Timestamp,
    /// The name of the former log.
    pub former_origin: String,
    /// Records in it at the time of the backup.
    pub former_log_size: u64,
    /// Key versions that were made after the backup. Their material is gone: values under them do not open.
    pub versions_lost: Vec<String>,
}

impl RestoredView {
    /// What the first record of the log tells.
    fn of(open: &Unsealed) -> Option<Self> {
        let first = open.log().read(0, 1).ok()?.pop()?;
        let record: Record = serde_json::from_slice(&first.body).ok()?;
        if record.action != Action::SystemRestore {
            return None;
        }
        let said = |name: &'static str| record.detail.iter().filter(move |detail| detail.name == name);
        Some(Self {
            at: record.time,
            former_origin: said("former_origin").next()?.value.clone(),
            former_log_size: said("former_log_size").next()?.value.parse().ok()?,
            versions_lost: said("version_lost").map(|detail| detail.value.clone()).collect(),
        })
    }
}

/// A head of the log that the store remembers.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct RememberedHead {
    /// Records in the log.
    pub size: u64,
    /// Root hash, in hex.
    pub root: String,
}

/// Something wrong with a row.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct StoreFinding {
    /// The table; empty for the file as a whole.
    pub table: String,
    /// The row's key.
    pub id: String,
    /// What kind of thing is wrong: `altered`, `stale`, `missing`, `unexpected`, `malformed` or `database`.
    pub kind: String,
    /// What is wrong, in words.
    pub problem: String,
}

impl StoreFinding {
    /// Looks at every row.
    ///
    /// # Errors
    /// [`EngineError::Store`] when they cannot be read.
    pub async fn all(open: &Unsealed) -> Result<Vec<Self>, EngineError> {
        let found = open.state().verify_all().await?;
        let told = |Finding { table, id, kind }| Self::new(table, &id, &kind);
        Ok(found.into_iter().map(told).collect())
    }

    /// The row that keeps a store from being opened, if it is one.
    pub fn of(error: &EngineError) -> Option<Self> {
        Some(match error {
            EngineError::StateOlder { .. } | EngineError::StateUnrecorded { .. } => {
                Self { problem: error.to_string(), ..Self::new("map_head", "1", &FindingKind::Stale) }
            }
            EngineError::RootSlot { id } => Self::new("root_slot", id, &FindingKind::Altered),
            EngineError::Store(StoreError::RowSeal { table, id }) => Self::new(table, id, &FindingKind::Altered),
            EngineError::Store(StoreError::RowStale { table, id }) => Self::new(table, id, &FindingKind::Stale),
            EngineError::Store(StoreError::RowMissing { table, id }) => Self::new(table, id, &FindingKind::Missing),
            EngineError::Store(StoreError::RowUnexpected { table, id }) => {
                Self::new(table, id, &FindingKind::Unexpected)
            }
            EngineError::Store(StoreError::Malformed { table, column }) => {
                Self::new(table, "", &FindingKind::Malformed { column })
            }
            _ => return None,
        })
    }

    fn new(table: &str, id: &str, kind: &FindingKind) -> Self {
        let problem = match kind {
            FindingKind::Altered => "the row was altered outside Keyrail".to_owned(),
            FindingKind::Stale => "the row is not the one that was last written".to_owned(),
            FindingKind::Missing => "the row is missing".to_owned(),
            FindingKind::Unexpected => "the row should not be there".to_owned(),
            FindingKind::Malformed { column } => format!("`{column}` is not readable"),
            FindingKind::Database { says } => says.clone(),
        };
        Self { table: table.to_owned(), id: id.to_owned(), kind: kind.as_str().to_owned(), problem }
    }
}

impl Operation for VerifyStore {
    const ACTION: Action = Action::SystemVerify;
    type Loaded = ();
    type Answer = StoreReport;

    async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
        Ok(())
    }

    fn target(&self, (): &()) -> Target {
        Target::service("store", None)
    }

    // Reading every row is work that only whoever may ask for it gets done.
    async fn act(_: &Authorized<Self>, (): (), cx: &Context<'_>) -> Result<Acted<StoreReport>, EngineError> {
        let findings = StoreFinding::all(cx.open).await?;
        let head = cx.open.state().log_head().await.ok().flatten();
        let remembered = head.map(|head| RememberedHead { size: head.size, root: hex::encode(head.root) });
        let restored = RestoredView::of(cx.open);
        let report = StoreReport { findings, remembered, restored };
        let found = report.findings.len();
        Ok(Acted::new(report).detail("findings", found))
    }
}

/// Puts data keys that an older master key version wraps under the active one, a batch at a time.
pub struct Rewrap {
    /// The older version.
    from: MasterVersionId,
    /// The first batch, if it was made before: while the one before it was committed.
    ready: Mutex<Option<Rewrapped>>,
}

/// A batch of data keys under the active master key version. What somebody changes meanwhile meets a conflict, and a new
/// batch is made.
pub struct Rewrapped {
    /// Of the state in which the master key version that wraps them was active.
    generation: u64,
    rows: Vec<DataKeyVersion>,
    versions: Option<(VersionNumber, VersionNumber)>,
}

/// How many data keys are rewrapped in one change.
const REWRAP_MAX: usize = 250;

impl Rewrap {
    pub(crate) fn new(from: MasterVersionId, ready: Rewrapped) -> Self {
        Self { from, ready: Mutex::new(Some(ready)) }
    }
}

impl Rewrapped {
    /// Rewraps what comes after a key.
    pub(crate) async fn make(
        open: &Unsealed,
        from: &MasterVersionId,
        after: Option<&Kid>,
    ) -> Result<Self, EngineError> {
        let generation = open.generation();
        let mut rows = open.state().wrapped_by(from, after, REWRAP_MAX).await?;
        if rows.is_empty() {
            return Ok(Self { generation, rows, versions: None });
        }
        let missing = || EngineError::Bug { what: "a master key version is missing" };
        let former = open.state().master_version(from).await?.ok_or_else(missing)?;
        if former.state == VersionState::Compromised {
            rows.retain(is_marked);
        }
        let versions = open.state().master_versions(&former.master_key).await?;
        let active = versions.iter().find(|row| row.state.encrypts()).ok_or_else(missing)?;
        let (old, new) = (open.master(*from).await?, open.master(active.id).await?);
        for row in &mut rows {
            // A destroyed version has nothing to wrap; it only moves along, so that the old master version ends unused.
            if row.wrapped.is_some() {
                let key = keys::unwrap_data_key(&old, row)?;
                row.wrap_generation += 1;
                row.wrapped = Some(keys::wrap_data_key(&new, &key, &row.kid, row.version, row.wrap_generation)?);
            }
            row.wrapped_by = active.id;
            row.generation += 1;
        }
        Ok(Self { generation, rows, versions: Some((former.version, active.version)) })
    }

    /// The last of its keys, if it has any.
    pub(crate) fn last(&self) -> Option<Kid> {
        self.rows.last().map(|row| row.kid)
    }
}

impl Operation for Rewrap {
    const ACTION: Action = Action::SystemRewrap;
    // A key is the same under another master key version, and the former one still opens what was read before.
    const FENCES: bool = false;
    type Loaded = Rewrapped;
    type Answer = usize;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Rewrapped, EngineError> {
        let ready = self.ready.lock().take();
        match ready.filter(|made| made.generation == open.generation()) {
            Some(ready) => Ok(ready),
            None => Rewrapped::make(open, &self.from, None).await,
        }
    }

    fn target(&self, _: &Rewrapped) -> Target {
        Target::service("master key version", self.from.to_string())
    }

    async fn act(_: &Authorized<Self>, made: Rewrapped, _: &Context<'_>) -> Result<Acted<usize>, EngineError> {
        let Some((from, to)) = made.versions else { return Ok(Acted::new(0)) };
        let mut change = Change::new();
        for row in &made.rows {
            change.update(row);
        }
        let acted = Acted::new(made.rows.len()).change(change).batch(made.rows.len(), 0);
        Ok(acted.detail("from", from).detail("to", to))
    }
}

/// Changes a setting.
#[derive(Clone, Debug)]
pub struct SetLocalOperator {
    /// Whether the holder of data directory and root may act without a token.
    pub allowed: bool,
}

impl Operation for SetLocalOperator {
    const ACTION: Action = Action::SystemUpdate;
    type Loaded = Option<Setting>;
    type Answer = ();
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().setting(&SettingName::LocalOperator).await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("setting", SettingName::LocalOperator.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        former: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<()>, EngineError> {
        let allowed = authorized.op().allowed;
        let value = if allowed { "on" } else { "off" };
        let former = former.ok_or(EngineError::Bug { what: "a setting is missing" })?;
        let row = Setting { value: value.to_owned(), updated_at: cx.now, generation: former.generation + 1, ..former };
        let mut change = Change::new();
        change.update(&row);
        Ok(Acted::new(()).change(change).detail("value", value))
    }
}
