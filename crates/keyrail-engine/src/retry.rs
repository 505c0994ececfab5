//! When a root of trust that did not open the store is tried again by itself.

use keyrail_seal::{SealError, SealState};
use keyrail_store::StoreError;
use parking_lot::Mutex;

use crate::error::{EngineError, Fault};

/// How long a root that is behind a device is left alone after several failures, in seconds.
const RETRY_WAIT_SECONDS_MAX: u64 = 15;

/// What to do about a store that is away, if it does not come back.
const AWAY: &str = "look at the database and the disk of the store; it is tried again by itself";

/// Whether the store cannot be reached at the moment: the same with nothing changed may go well.
fn is_away(error: &EngineError) -> bool {
    matches!(error, EngineError::Store(StoreError::Unreachable(_) | StoreError::Busy(_)))
}

/// What keeps the store from being opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SealCause {
    /// The word for programs.
    pub word: &'static str,
    /// What to do about it, if that is more than the state's own hint.
    pub hint: Option<&'static str>,
}

/// The last failure, until the store is opened or closed by hand.
#[derive(Default)]
pub(crate) struct Retry(Mutex<Option<Failed>>);

#[derive(Clone, Copy)]
struct Failed {
    cause: SealCause,
    /// Failures in a row.
    count: u32,
    /// When it is tried again, on the machine's own clock; `None`: never by itself.
    due_millis: Option<u64>,
}

impl Retry {
    /// Notes a failure. What somebody must put right in the store, and what costs much to try, is not tried again; a
    /// device is left alone longer each time, and so is whatever is in the way to the root; a file is looked at whenever
    /// it is time.
    pub(crate) fn failed(&self, error: &EngineError, now_millis: u64) {
        let mut last = self.0.lock();
        let count = last.map_or(0, |last| last.count).saturating_add(1);
        let wait_seconds = 1_u64.checked_shl(count - 1).unwrap_or(u64::MAX).min(RETRY_WAIT_SECONDS_MAX);
        let later = Some(now_millis.saturating_add(wait_seconds * 1_000));
        let goes_on = last.is_some_and(|last| last.due_millis.is_some());
        let (cause, due_millis) = match error {
            EngineError::Root(error) => {
                let (is_device, state) = (matches!(error, SealError::Token(_)), SealState::after(error));
                let due_millis = match state {
                    _ if is_device => later,
                    SealState::RootUnavailable => Some(now_millis),
                    _ => None,
                };
                // Of a file the state itself has more to say.
                let hint = error.hint().filter(|_| is_device || state == SealState::Sealed);
                (SealCause { word: error.word(), hint }, due_millis)
            }
            EngineError::RootSlot { .. } => {
                let error = SealError::SlotDamaged;
                (SealCause { word: error.word(), hint: error.hint() }, None)
            }
            // The database or the disk is away for a while, as the root was.
            other if is_away(other) || (goes_on && other.fault() == Fault::Dependency) => {
                (SealCause { word: other.code(), hint: Some(AWAY) }, later)
            }
            _ => {
                *last = None;
                return;
            }
        };
        *last = Some(Failed { cause, count, due_millis });
    }

    /// Whether it is tried again by itself.
    pub(crate) fn goes_on(&self) -> bool {
        self.0.lock().is_some_and(|last| last.due_millis.is_some())
    }

    pub(crate) fn forget(&self) {
        *self.0.lock() = None;
    }

    pub(crate) fn is_due(&self, now_millis: u64) -> bool {
        self.0.lock().and_then(|last| last.due_millis).is_some_and(|due| now_millis >= due)
    }

    pub(crate) fn cause(&self) -> Option<SealCause> {
        self.0.lock().map(|last| last.cause)
    }
}

/// The state of a store that could not be opened.
pub(crate) fn state_after(error: &EngineError) -> SealState {
    match error {
        EngineError::Root(error) => SealState::after(error),
        EngineError::NotInitialized => SealState::Uninitialized,
        _ => SealState::Sealed,
    }
}

#[cfg(test)]
mod tests {
    use keyrail_seal::TokenError;

    use super::*;

    #[test]
    fn a_device_is_left_alone_longer_each_time_and_a_file_is_not() {
        let retry = Retry::default();
        let mut now = 0;
        for wait in [1, 2, 4, 8, 15, 15] {
            retry.failed(&EngineError::Root(SealError::Token(TokenError::PinLocked)), now);
            assert!(!retry.is_due(now + wait * 1_000 - 1), "after {wait}");
            now += wait * 1_000;
            assert!(retry.is_due(now), "after {wait}");
        }
        let malformed = SealError::Malformed { path: "x".into(), what: "key file" };
        retry.failed(&EngineError::Root(malformed), now);
        assert!(retry.is_due(now));
        for last in [SealError::WrongSecret, SealError::SlotDamaged] {
            retry.failed(&EngineError::Root(last), now);
            assert!(!retry.is_due(u64::MAX) && retry.cause().is_some());
        }
        retry.failed(&EngineError::RootSlot { id: "00".to_owned() }, now);
        assert_eq!((retry.goes_on(), retry.cause().map(|cause| cause.word)), (false, Some("slot-damaged")));
        retry.forget();
        assert_eq!(retry.cause(), None);
    }

    fn away() -> EngineError {
        EngineError::Store(StoreError::Unreachable("no answer".into()))
    }

    /// A database that is away while a root is waited for does not end the waiting, nor does a log that cannot be opened.
    #[test]
    fn what_is_in_the_way_to_the_root_is_waited_for_as_well() {
        let missing = || EngineError::Root(SealError::Token(TokenError::TokenMissing { token: "t".to_owned() }));
        let full = || EngineError::Store(StoreError::Full("disk".into()));
        let file = || EngineError::File {
            action: "open",
            path: "p".to_owned(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        for (first, then, word) in [
            (Some(missing()), away(), Some("store_failed")),
            (Some(missing()), full(), Some("store_failed")),
            (Some(missing()), file(), Some("file_failed")),
            (None, away(), Some("store_failed")),
            // What nobody waited for is told at once.
            (None, full(), None),
            (None, file(), None),
            // What is stored is wrong, and stays so.
            (Some(missing()), EngineError::StateOlder { found: 1, logged: 2 }, None),
            (Some(missing()), EngineError::Store(StoreError::NotAStore { path: "p".into() }), None),
        ] {
            let retry = Retry::default();
            if let Some(first) = &first {
                retry.failed(first, 0);
            }
            retry.failed(&then, 0);
            assert_eq!(retry.cause().map(|cause| cause.word), word, "{first:?}, {then:?}");
            assert_eq!(
                (retry.is_due(60_000), retry.goes_on()),
                (word.is_some(), word.is_some()),
                "{first:?}, {then:?}"
            );
        }
    }
}
