//! Rows of the service itself: what opens the store, what the log still waits for, what time was seen.

use crate::id::RequestId;
use crate::text::text_enum;
use crate::time::{Observation, Timestamp};

text_enum! {
    /// What a way to open the store is there for. Each opens it alone, whatever its role.
    SlotRole, "role of a root slot" {
        /// Of a root that the store is being moved to; a primary one as soon as it is configured.
        Pending = "pending",
        /// Opens the store at a start, by itself.
        Primary = "primary",
        /// Opens it when the primary root is lost.
        Recovery = "recovery",
        /// Opened it once, and opens nothing any more: kept so that its shares are told from others.
        Void = "void",
    }
}

/// How many ways to open a store there may be: a primary and several recovery roots, and those that are being changed.
pub const ROOT_SLOTS_MAX: usize = 8;

/// How many void ones are kept; beyond it the one that was made void first goes.
pub const VOID_SLOTS_MAX: usize = 16;

/// How long a rehearsal of a recovery root is good for, in seconds: what nobody tries does not work.
pub const REHEARSAL_SECONDS_MAX: u64 = 90 * 24 * 60 * 60;

/// One way to open the store: the root key, wrapped by a root of trust. Read before anything can be checked;
/// its seal is checked right after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootSlotRow {
    /// Immutable id of the slot.
    pub id: [u8; 16],
    /// The slot, in the encoding of `keyrail-seal`.
    pub slot: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
    /// What it is there for; rows of an earlier schema are primary.
    pub role: SlotRole,
    /// Whom its shares were encrypted to, in their order.
    pub recipients: Vec<String>,
    /// When somebody last proved that its root opens the store.
    pub rehearsed_at: Option<Timestamp>,
}

impl RootSlotRow {
    /// Whether it is time to prove that its root still opens the store: nobody did, or not for long.
    pub fn rehearsal_due(&self, now: Timestamp) -> bool {
        let due = |at: Timestamp| at.plus_seconds(REHEARSAL_SECONDS_MAX) < now;
        self.role == SlotRole::Recovery && self.rehearsed_at.is_none_or(due)
    }
}

text_enum! {
    /// What a key directly under the root key is for; each for one use.
    RootSecretPurpose, "purpose of a root secret" {
        /// Signs the log's checkpoints.
        LogSigning = "log-signing",
        /// Seals the store's rows, hashes tokens and guards the journal, each through its own derivation.
        Store = "store",
    }
}

/// A key directly under the root key that is not a master key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootSecret {
    /// What it is for.
    pub purpose: RootSecretPurpose,
    /// Immutable id, part of what the wrapping is bound to.
    pub id: [u8; 16],
    /// The wrapped key.
    pub wrapped: Vec<u8>,
    /// Counts the wrappings; part of what the wrapping is bound to.
    pub wrap_generation: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

text_enum! {
    /// Settings that change how the service behaves.
    SettingName, "setting" {
        /// `on` or `off`: whether the holder of data directory and root may act without a token.
        LocalOperator = "local-operator",
        /// The name of the log, in every checkpoint.
        LogOrigin = "log-origin",
        /// `on`: changes are done without a standby that has them; set when the store is made.
        AcceptAsyncLoss = "accept-async-loss",
    }
}

/// A setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Which one.
    pub name: SettingName,
    /// Its value.
    pub value: String,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// A record whose change is committed and which the log may not have yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutboxEntry {
    /// The record's request; the log gets it once.
    pub request: RequestId,
    /// The log's size when the change was committed: the record stands at this index or later.
    pub log_index_min: u64,
    /// The record's body.
    pub body: Vec<u8>,
}

/// The log's head as the store remembers it: an older log is told by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogHeadRow {
    /// Records in the log.
    pub size: u64,
    /// Root hash of the tree of that size.
    pub root: [u8; 32],
    /// Counts the changes of this row.
    pub generation: u64,
}

/// A node of the map over all rows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapNode {
    /// Immutable id of the node; none is given twice.
    pub id: u64,
    /// Its entries, in the encoding of `keyrail-store`.
    pub bytes: Vec<u8>,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// The head of the map over all rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapHead {
    /// The node that all others hang from.
    pub root_node: u64,
    /// That node's seal.
    pub root: [u8; 32],
    /// The id that the next new node gets.
    pub next_node: u64,
    /// Entries in the map.
    pub entries: u64,
    /// The request of the last change that has a record; none as long as the map is being built.
    pub recorded: Option<RequestId>,
    /// The generation that it made.
    pub recorded_generation: u64,
    /// Counts the commits.
    pub generation: u64,
}

/// The last look at the machine's clocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ObservationRow {
    /// What was seen.
    pub observation: Observation,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// How far the usage table has followed the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UsageMark {
    /// Records before this index are counted.
    pub log_index: u64,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// How long an idempotency key is remembered, in seconds.
pub const IDEMPOTENCY_SECONDS: u64 = 24 * 60 * 60;

/// How many idempotency keys are remembered at a time; beyond it, the one that would be forgotten next is forgotten now.
pub const IDEMPOTENCY_KEYS_MAX: u64 = 20_000;

/// How many of them one principal may have; beyond it, its requests with one are told to wait.
pub const IDEMPOTENCY_KEYS_PER_PRINCIPAL_MAX: u64 = 2_000;

/// The longest answer that is kept for a repetition, in bytes.
pub const IDEMPOTENCY_ANSWER_LEN_MAX: usize = 64 * 1024;

/// A change that was asked for under an idempotency key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdempotencyEntry {
    /// Keyed hash of principal and idempotency key.
    pub key_hash: [u8; 32],
    /// SHA-256 of the request; another request under the same key is refused.
    pub request_sha256: [u8; 32],
    /// The first answer, if it held no secret.
    pub answer: Option<Vec<u8>>,
    /// The request that made the change.
    pub request: RequestId,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
    /// Who asked, as [`crate::access::Principal::label`] gives it; rows of an earlier schema do not tell.
    pub principal: Option<String>,
}
