//! What a caller can do about an error.

use keyrail_core::key::KeyError;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::retirement::Obstacle;
use keyrail_seal::SealError;

use super::EngineError;

impl EngineError {
    /// What the caller can do, on a line of its own.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Asset { hint, .. } => return Some(hint.clone()),
            Self::Backup { .. } | Self::FormerLog { .. } | Self::RollbackNotAccepted { .. } => {
                return restore_hint(self);
            }
            Self::Invalid { hint, .. } => hint,
            Self::RetireBlocked { obstacles } | Self::DestroyBlocked { obstacles } => {
                return obstacles.first().map(Obstacle::hint);
            }
            Self::Root(error) | Self::Shares(error) => {
                error.hint().unwrap_or("try again; if it fails again, look at the log of this process")
            }
            Self::RootSlot { .. } => return SealError::SlotDamaged.hint().map(str::to_owned),
            Self::Store(error) => return Some(error.hint().to_owned()),
            Self::Key(error) => key_hint(error),
            Self::VersionUnusable { state: VersionState::Retired, .. } => {
                "bring it back with `keyrail key reinstate`, then move its data with a campaign"
            }
            Self::VersionUnusable { state: VersionState::Suspended, .. } => "resume it with `keyrail key resume`",
            Self::VersionUnusable { .. } => "`keyrail key show` tells the state of each version",
            Self::Unauthenticated => TOKEN_HINT,
            Self::TooManyFailures => "wait ten seconds, then use a valid token",
            Self::Refused { .. } => "ask an owner for a token whose role includes this action",
            Self::NotFound { .. } => "check the name; a token that is confined to one app sees only that app",
            Self::Changed { .. } => "read it again and send its new ETag in If-Match",
            Self::WriteWindowOpen { .. } => {
                "a caller may still store what it was given; try again when the window is closed"
            }
            Self::StillCounting => "ask again in a few seconds: the count goes on, and the request waits for it",
            Self::DestroyWaiting { .. } => WAITING_HINT,
            Self::Unopenable => {
                "check that the context is the one it was encrypted with; if it is, the ciphertext was altered"
            }
            Self::NotCiphertext => "a ciphertext is a text that begins with kr1.",
            Self::OtherKey => "name the key that it was encrypted under",
            Self::BadContext => CONTEXT_HINT,
            Self::Sealed { state } => return Some(state.hint().to_owned()),
            Self::AlreadyInitialized => "choose another --data-dir, or use the store that is there",
            Self::NotInitialized => "make one with `keyrail init`",
            Self::InUse => "name the running server with --server, or stop it",
            Self::AuditUnavailable(_) => {
                "look at the health endpoint; the disk of the data directory may be full or failing"
            }
            Self::Indeterminate => "look the request id up in the log with `keyrail audit show` before trying again",
            Self::Contended => "try again",
            Self::RootBusy => "try again when it has ended; `keyrail root status` tells whether the store is open",
            Self::RootPlace { .. } => PLACE_HINT,
            Self::TooMany { .. } => "give up what is no longer needed, or wait until some of them are over",
            Self::LogOlder { .. } | Self::StateOlder { .. } | Self::StateUnrecorded { .. } => times_hint(self),
            Self::AnchorAhead { .. }
            | Self::AnchorFork { .. }
            | Self::AnchorOther { .. }
            | Self::AnchorUnavailable { .. } => anchor_hint(self),
            Self::LogWithoutStore => "put `store.sqlite` back, or choose another --data-dir: the log is evidence",
            Self::IdempotencyConflict { same } => idempotency_hint(*same),
            Self::Campaign(_) => "`keyrail campaign status` tells how far it is",
            Self::ClockJumped { .. } => "correct the clock, then ask for destruction again",
            Self::Bug { .. } => "please report it",
            Self::Crypto(_) => "try again; if it fails again, look at the log of this process",
            Self::Demand(_) => "choose a value within these bounds",
            Self::Exists { .. } => "choose another name, or use what is there",
            Self::File { .. } => "check that the path is there and belongs to this user",
            Self::Log(_) => "`keyrail audit verify` tells what is wrong with its files",
            Self::ShuttingDown => "try again when the service is back",
            Self::NoLease => "see whether the database runs and can be reached; it goes on by itself",
            Self::StoreStuck { .. } => STUCK_HINT,
            Self::TooLarge { .. } => "send it in smaller parts",
        };
        Some(hint.to_owned())
    }
}

const STUCK_HINT: &str =
    "look at the disk of the data directory; the change that is on its way is recorded when it has ended";

const WAITING_HINT: &str =
    "keep the service running: only observed time counts, and `keyrail key reinstate` stops the countdown";

const CONTEXT_HINT: &str =
    "a context has at most 32 pairs, keys of 1 to 128 bytes and values of at most 4096 bytes, each key once";

const TOKEN_HINT: &str =
    "pass a token with --token-file, KEYRAIL_TOKEN or the Authorization header; `keyrail token create` makes one";

const PLACE_HINT: &str =
    "start the server with --allow-root and the place, or stop it and run the command on its data directory";

const ANCHOR_HINT: &str = "an older copy of the data directory was put back, or it went on elsewhere: keep the files as they \
    are, and look at who could write to them";

const OTHER_ANCHOR_HINT: &str =
    "name the anchor of this store, or give this one a file of its own with `keyrail anchor create`";

const AWAY_ANCHOR_HINT: &str =
    "mount its volume or start the witness; without --anchor-required the store opens with a warning";

/// Where an anchor remembers another log, or cannot be asked.
fn anchor_hint(error: &EngineError) -> &'static str {
    match error {
        EngineError::AnchorAhead { .. } | EngineError::AnchorFork { .. } => ANCHOR_HINT,
        EngineError::AnchorOther { .. } => OTHER_ANCHOR_HINT,
        _ => AWAY_ANCHOR_HINT,
    }
}

/// Where a backup is not used.
fn restore_hint(error: &EngineError) -> Option<String> {
    match error {
        EngineError::Backup { problem, .. } => Some(problem.hint().to_owned()),
        EngineError::FormerLog { .. } => Some(
            "name an export of it with --log DIR; with --log none nothing that was revoked since is revoked again"
                .to_owned(),
        ),
        EngineError::RollbackNotAccepted { found, .. } => {
            Some(format!("nothing was restored; to take back what came after: --accept-rollback-to {found}"))
        }
        _ => None,
    }
}

/// Where store and log are not of one time.
fn times_hint(error: &EngineError) -> &'static str {
    match error {
        EngineError::StateOlder { .. } => {
            "an older copy of the store was put in place; put store and log of one copy back, or restore a backup with `keyrail restore`"
        }
        EngineError::StateUnrecorded { .. } => {
            "the log was cut off, or the store is another one; put store and log of one copy back"
        }
        _ => "an older copy of the log was put in place; restore log and store from the same backup",
    }
}

fn idempotency_hint(same: bool) -> &'static str {
    if same {
        "look for what was made, revoke it if it is a token, and ask again under a new idempotency key"
    } else {
        "use a new idempotency key for a new request"
    }
}

fn key_hint(error: &KeyError) -> &'static str {
    match error {
        KeyError::Lifecycle(error) => error.hint(),
        KeyError::Disabled { .. } => "resume its suspended version: `keyrail key resume`",
        KeyError::NoSuchVersion { .. } => "`keyrail key show` lists the versions",
        KeyError::ReplacementNeeded { .. } => "rotate the key first: `keyrail key rotate`",
        _ => "make another key: `keyrail key create`",
    }
}
