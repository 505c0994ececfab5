//! What an operation can end with, other than its answer.

mod hints;

use keyrail_audit::{AppendError, LogError};
use keyrail_core::campaign::CampaignError;
use keyrail_core::key::KeyError;
use keyrail_core::label::DemandError;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::VersionNumber;
use keyrail_core::retirement::Obstacle;
use keyrail_core::time::Timestamp;
use keyrail_crypto::CryptoError;
use keyrail_seal::{SealError, SealState};
use keyrail_store::StoreError;

use crate::backup::problem::BackupProblem;

/// Whose fault an error is; it decides the exit code and the HTTP status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// What is asked for does not exist, or the caller may not know that it does.
    Absent,
    /// A bug of Keyrail.
    Bug,
    /// The request cannot be carried out as it stands.
    Caller,
    /// The request is at odds with the present state, and may be right later.
    Conflict,
    /// A disk, a database or another service does not do its part.
    Dependency,
    /// Policy, a key's state or an approval says no.
    Policy,
    /// Too much at once.
    Load,
    /// What is stored is damaged or was altered.
    StoredData,
    /// No credential, or one that is not good.
    Unauthenticated,
}

/// Why an operation has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The caller showed no usable credential.
    #[error("a valid token is needed")]
    Unauthenticated,
    /// Too many failed log-ins in a short time.
    #[error("too many requests without a valid token")]
    TooManyFailures,
    /// Policy refuses.
    #[error("not allowed: {reason}")]
    Refused {
        /// The rule that refused.
        reason: &'static str,
    },
    /// There is no such thing, or the caller may not know.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A thing of that name is there already.
    #[error("{what} `{name}` exists already")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The request is not well formed.
    #[error("{problem}")]
    Invalid {
        /// What is wrong with it, in one sentence.
        problem: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A list, a body or a text is longer than its limit.
    #[error("{what} has {len} {unit}, and may have {max} at most")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How large it is.
        len: usize,
        /// How large it may be.
        max: usize,
    },
    /// The thing has changed since the caller looked.
    #[error("it has changed since: it is at generation {found}, and {expected} was expected")]
    Changed {
        /// The generation the caller named.
        expected: u64,
        /// The generation it has.
        found: u64,
    },
    /// Another request under the same idempotency key was different, or its answer cannot be given again.
    #[error("the idempotency key was used before{}", if *.same { "; the change is made, and its answer is kept nowhere: it held a secret or was too long" } else { " for another request" })]
    IdempotencyConflict {
        /// Whether it was the same request.
        same: bool,
    },
    /// A key does not make the move.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A campaign does not make the move.
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    /// A label demands what cannot be kept.
    #[error(transparent)]
    Demand(#[from] DemandError),
    /// A key version is in a state that does not allow the use.
    #[error("key version {version} is {state}")]
    VersionUnusable {
        /// The version.
        version: VersionNumber,
        /// Its state.
        state: VersionState,
    },
    /// Something stands in the way of retirement.
    #[error("the version cannot be retired yet: {}", join(.obstacles))]
    RetireBlocked {
        /// What stands in the way.
        obstacles: Vec<Obstacle>,
    },
    /// Something stands in the way of destruction.
    #[error("the version cannot be destroyed yet: {}", join(.obstacles))]
    DestroyBlocked {
        /// What stands in the way.
        obstacles: Vec<Obstacle>,
    },
    /// There are as many as there may be.
    #[error("there are {max} {what}, and there may be no more")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: u64,
    },
    /// The write window of the version is still open, longer than a request may wait.
    #[error("the write window is open for another {seconds_left} s")]
    WriteWindowOpen {
        /// How long it stays open.
        seconds_left: u64,
    },
    /// Destruction is waiting.
    #[error("destruction waits for another {seconds_left} s of observed time")]
    DestroyWaiting {
        /// How long it has to wait.
        seconds_left: u64,
    },
    /// The assets are counted for longer than a request may take.
    #[error("the assets are still being counted")]
    StillCounting,
    /// A ciphertext does not open.
    #[error("the ciphertext does not open")]
    Unopenable,
    /// A text is no ciphertext.
    #[error("this is not a ciphertext")]
    NotCiphertext,
    /// A ciphertext belongs to another key.
    #[error("the ciphertext does not belong to this key")]
    OtherKey,
    /// A context has too many or too long pairs.
    #[error("the context is not usable")]
    BadContext,
    /// The store is sealed.
    #[error("{}", .state.sentence())]
    Sealed {
        /// In which way.
        state: SealState,
    },
    /// The root of trust is the right one, and its slot in the store was altered.
    #[error("the root slot in the store is damaged: {id}")]
    RootSlot {
        /// The slot's id, in hex.
        id: String,
    },
    /// Another request opens, closes or moves the store, or uses its root of trust, for longer than this one may wait.
    #[error("another request is still at the root of trust")]
    RootBusy,
    /// This server takes no root of trust from there.
    #[error("this server takes no root of trust from `{root}`")]
    RootPlace {
        /// The root that was named.
        root: String,
    },
    /// The root of trust did not open the store.
    #[error("the root of trust did not open the store")]
    Root(#[source] SealError),
    /// Recovery shares cannot be used: which of them, and why. Never what is in them.
    #[error(transparent)]
    Shares(SealError),
    /// The store is there already.
    #[error("the data directory holds a store already")]
    AlreadyInitialized,
    /// There is no store.
    #[error("the data directory holds no store")]
    NotInitialized,
    /// There is a log, and its store is gone.
    #[error("the data directory holds a log and no store")]
    LogWithoutStore,
    /// Another process writes to the data directory.
    #[error("another process uses the data directory")]
    InUse,
    /// A record cannot be made durable, so nothing is done.
    #[error("the audit log takes no records")]
    AuditUnavailable(#[source] AppendError),
    /// The change may or may not be made; its request id tells later.
    #[error("it is not known whether it was done")]
    Indeterminate,
    /// The store has not ended a former change, so no other is begun.
    #[error("the store has not answered for {seconds} seconds, and a change is still on its way")]
    StoreStuck {
        /// Since when, in seconds.
        seconds: u64,
    },
    /// This node has not heard from the store that it shares with others for too long.
    #[error("this node has no lease: the database of the store has not answered for too long")]
    NoLease,
    /// The state kept changing while the operation ran.
    #[error("the state kept changing; nothing was done")]
    Contended,
    /// The service is going down.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The log has fewer records than the store remembers.
    #[error("the audit log has {found} records, and had {remembered} before")]
    LogOlder {
        /// Records in the log.
        found: u64,
        /// Records that the store remembers.
        remembered: u64,
    },
    /// The rows of the store are older than the log says.
    #[error("state is older than the log: generation {found}, the log says {logged}")]
    StateOlder {
        /// The generation of the rows.
        found: u64,
        /// The generation that the log tells of.
        logged: u64,
    },
    /// The store holds a change that the log does not tell of.
    #[error("the state holds a change without its record: generation {generation}")]
    StateUnrecorded {
        /// The generation that the change made.
        generation: u64,
    },
    /// The log has fewer records than an anchor remembers.
    #[error("the log has {found} records, and the anchor at {place} remembers {remembered}")]
    AnchorAhead {
        /// Records in the log.
        found: u64,
        /// Records that the anchor remembers.
        remembered: u64,
        /// Where the anchor is.
        place: String,
    },
    /// The log is not the one that an anchor remembers.
    #[error("the log is not the one of {size} records that the anchor at {place} remembers")]
    AnchorFork {
        /// The size at which it was remembered.
        size: u64,
        /// Where the anchor is.
        place: String,
    },
    /// An anchor remembers another log, or nothing that can be read.
    #[error("the anchor at {place} remembers no head of this log: {problem}")]
    AnchorOther {
        /// Where the anchor is.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An anchor that is required cannot be used.
    #[error("the anchor at {place} cannot be used: {problem}")]
    AnchorUnavailable {
        /// Where the anchor is.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The log does not open or does not verify.
    #[error("the audit log failed")]
    Log(#[from] LogError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// An asset could not be read or written.
    #[error("asset `{asset}`: {problem}")]
    Asset {
        /// The asset's name.
        asset: String,
        /// Whose fault it is.
        fault: Fault,
        /// The stable code.
        code: &'static str,
        /// What happened, in one sentence without data.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A backup that cannot be used.
    #[error("the backup `{path}` cannot be used: {problem}")]
    Backup {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: BackupProblem,
    },
    /// A restore would take back what nobody said may be taken back.
    #[error("the backup is of a log of {found} records, and {}", accepted_text(*.accepted))]
    RollbackNotAccepted {
        /// Records in the log of the backup.
        found: u64,
        /// What the caller named.
        accepted: Option<u64>,
    },
    /// The log of the time after a backup cannot be used.
    #[error("the log of the time after the backup cannot be used: {problem}")]
    FormerLog {
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the data directory.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The ciphers failed for another reason than a bad ciphertext.
    #[error("a cryptographic operation failed")]
    Crypto(#[source] CryptoError),
    /// A clock of the machine was set.
    #[error("the clock was set by hand at {at}")]
    ClockJumped {
        /// When it was noticed.
        at: Timestamp,
    },
    /// Keyrail contradicts itself.
    #[error("this is a bug: {what}")]
    Bug {
        /// What cannot be.
        what: &'static str,
    },
}

impl From<CryptoError> for EngineError {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::Unopenable => Self::Unopenable,
            other => Self::Crypto(other),
        }
    }
}

impl From<SealError> for EngineError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Recipients { .. }
            | SealError::Share { .. }
            | SealError::SharesAreDealt
            | SealError::SharesDoNotOpen { .. }
            | SealError::TooFewShares { .. }
            | SealError::TooManyShares { .. } => Self::Shares(error),
            other => Self::Root(other),
        }
    }
}

impl EngineError {
    /// The stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyInitialized => "already_initialized",
            Self::AnchorAhead { .. } => "anchor_ahead",
            Self::AnchorFork { .. } => "anchor_fork",
            Self::AnchorOther { .. } => "anchor_other_log",
            Self::AnchorUnavailable { .. } => "anchor_unavailable",
            Self::Asset { code, .. } => code,
            Self::AuditUnavailable(_) => "audit_unavailable",
            Self::Backup { problem, .. } => problem.code(),
            Self::BadContext => "bad_context",
            Self::Bug { .. } => "bug",
            Self::Campaign(_) => "campaign_state",
            Self::Changed { .. } => "changed",
            Self::ClockJumped { .. } => "clock_jumped",
            Self::Contended => "contended",
            Self::Crypto(_) => "crypto_failed",
            Self::Demand(_) => "demand_out_of_range",
            Self::DestroyBlocked { .. } => "destroy_blocked",
            Self::DestroyWaiting { .. } => "destroy_waiting",
            Self::Exists { .. } => "exists",
            Self::FormerLog { .. } => "former_log",
            Self::RollbackNotAccepted { .. } => "rollback_not_accepted",
            Self::File { .. } => "file_failed",
            Self::IdempotencyConflict { .. } => "idempotency_conflict",
            Self::InUse => "data_dir_in_use",
            Self::Indeterminate => "indeterminate",
            Self::Invalid { .. } => "invalid",
            Self::Key(KeyError::Disabled { .. }) => "key_disabled",
            Self::Key(KeyError::NoSuchVersion { .. }) => "no_such_version",
            Self::Key(_) => "key_state",
            Self::Log(_) => "log_failed",
            Self::LogOlder { .. } => "log_older",
            Self::LogWithoutStore => "log_without_store",
            Self::NotCiphertext => "not_ciphertext",
            Self::NotFound { .. } => "not_found",
            Self::NotInitialized => "not_initialized",
            Self::OtherKey => "other_key",
            Self::Refused { .. } => "refused",
            Self::RetireBlocked { .. } => "retire_blocked",
            Self::Root(_) | Self::RootSlot { .. } => "root_failed",
            Self::RootBusy => "root_busy",
            Self::RootPlace { .. } => "root_place",
            Self::Sealed { .. } => "sealed",
            Self::Shares(_) => "bad_shares",
            Self::ShuttingDown => "shutting_down",
            Self::StateOlder { .. } => "state_older",
            Self::StateUnrecorded { .. } => "state_unrecorded",
            Self::StillCounting => "still_counting",
            Self::Store(error) if error.fault() == keyrail_store::Fault::StoredData => "store_damaged",
            Self::Store(_) => "store_failed",
            Self::NoLease => "no_lease",
            Self::StoreStuck { .. } => "store_stuck",
            Self::TooLarge { .. } => "too_large",
            Self::TooMany { .. } => "too_many",
            Self::TooManyFailures => "too_many_failures",
            Self::Unauthenticated => "unauthenticated",
            Self::Unopenable => "unopenable",
            Self::VersionUnusable { .. } => "version_unusable",
            Self::WriteWindowOpen { .. } => "write_window_open",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Asset { fault, .. } => *fault,
            Self::Backup { problem, .. } => problem.fault(),
            Self::BadContext
            | Self::RollbackNotAccepted { .. }
            | Self::Demand(_)
            | Self::Invalid { .. }
            | Self::NotCiphertext
            | Self::OtherKey
            | Self::Shares(_)
            | Self::TooLarge { .. } => Fault::Caller,
            Self::TooMany { .. }
            | Self::AlreadyInitialized
            | Self::Changed { .. }
            | Self::Exists { .. }
            | Self::IdempotencyConflict { .. } => Fault::Conflict,
            Self::Bug { .. } => Fault::Bug,
            Self::Key(KeyError::NoSuchVersion { .. }) | Self::NotFound { .. } | Self::NotInitialized => Fault::Absent,
            Self::Campaign(_)
            | Self::DestroyBlocked { .. }
            | Self::DestroyWaiting { .. }
            | Self::Key(_)
            | Self::Refused { .. }
            | Self::RetireBlocked { .. }
            | Self::RootPlace { .. }
            | Self::StillCounting
            | Self::VersionUnusable { .. }
            | Self::WriteWindowOpen { .. } => Fault::Policy,
            Self::Contended | Self::RootBusy | Self::TooManyFailures => Fault::Load,
            Self::Unauthenticated => Fault::Unauthenticated,
            Self::AnchorAhead { .. }
            | Self::AnchorFork { .. }
            | Self::AnchorOther { .. }
            | Self::LogOlder { .. }
            | Self::FormerLog { .. }
            | Self::LogWithoutStore
            | Self::RootSlot { .. }
            | Self::StateOlder { .. }
            | Self::StateUnrecorded { .. }
            | Self::Unopenable => Fault::StoredData,
            Self::Store(error) => store_fault(error),
            Self::Root(error) => root_fault(error),
            Self::AnchorUnavailable { .. }
            | Self::AuditUnavailable(_)
            | Self::ClockJumped { .. }
            | Self::Crypto(_)
            | Self::File { .. }
            | Self::InUse
            | Self::Indeterminate
            | Self::Log(_)
            | Self::Sealed { .. }
            | Self::NoLease
            | Self::ShuttingDown
            | Self::StoreStuck { .. } => Fault::Dependency,
        }
    }
}

fn store_fault(error: &StoreError) -> Fault {
    match error.fault() {
        keyrail_store::Fault::Bug => Fault::Bug,
        keyrail_store::Fault::Caller => Fault::Conflict,
        keyrail_store::Fault::Dependency => Fault::Dependency,
        keyrail_store::Fault::StoredData => Fault::StoredData,
    }
}

fn root_fault(error: &SealError) -> Fault {
    match error {
        SealError::SlotDamaged => Fault::StoredData,
        _ => Fault::Dependency,
    }
}

fn accepted_text(accepted: Option<u64>) -> String {
    accepted.map_or("nobody accepted that".to_owned(), |size| format!("a rollback to {size} was accepted"))
}

fn join(obstacles: &[Obstacle]) -> String {
    let texts: Vec<_> = obstacles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
