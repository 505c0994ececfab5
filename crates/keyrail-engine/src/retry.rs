//! When a root of trust that did not open the store is tried again by itself.

use keyrail_seal::{SealError, SealState};
use parking_lot::Mutex;

use crate::error::EngineError;

/// How long a root that is behind a device is left alone after several failures, in seconds.
const RETRY_WAIT_SECONDS_MAX: u64 = 15;

/// What keeps the root of trust from opening the store.
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
    /// device is left alone longer each time, a file is looked at whenever it is time.
    pub(crate) fn failed(&self, error: &EngineError, now_millis: u64) {
        let EngineError::Root(error) = error else { return self.forget() };
        let mut last = self.0.lock();
        let count = last.map_or(0, |last| last.count).saturating_add(1);
        let is_device = matches!(error, SealError::Token(_));
        let wait_seconds = 1_u64.checked_shl(count - 1).unwrap_or(u64::MAX).min(RETRY_WAIT_SECONDS_MAX);
        let due_millis = match SealState::after(error) {
            _ if is_device => Some(now_millis.saturating_add(wait_seconds * 1_000)),
            SealState::RootUnavailable => Some(now_millis),
            _ => None,
        };
        let cause = SealCause { word: error.word(), hint: error.hint().filter(|_| is_device) };
        *last = Some(Failed { cause, count, due_millis });
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
        retry.forget();
        assert_eq!(retry.cause(), None);
    }
}
