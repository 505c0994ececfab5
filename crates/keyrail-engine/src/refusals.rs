//! Refusals before authentication: rate-limited, and recorded as counted aggregates, so that a loop of bad
//! log-ins can neither fill the log nor stop the service.

use keyrail_core::access::Action;
use keyrail_core::id::RequestId;
use keyrail_core::record::{Detail, Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind};
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use parking_lot::Mutex;

use crate::error::EngineError;

/// Failed log-ins per second from which on callers are told to wait.
const FAILURES_PER_SECOND_MAX: u64 = 100;

/// How long refusals are counted before they are recorded, in seconds.
pub(crate) const AGGREGATE_SECONDS: u64 = 10;

#[derive(Default)]
pub(crate) struct Refusals {
    inner: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    first: Option<(Timestamp, Option<String>)>,
    count: u64,
    second: i64,
    in_second: u64,
}

impl Refusals {
    /// Counts a refusal; answers with the error to give.
    pub(crate) fn note(&self, error: EngineError, origin: &Origin, now: Timestamp) -> EngineError {
        if !matches!(error, EngineError::Unauthenticated | EngineError::Refused { .. }) {
            return error;
        }
        let mut counted = self.inner.lock();
        counted.first.get_or_insert_with(|| (now, origin.from.clone()));
        counted.count += 1;
        let second = now.as_millis() / 1000;
        if counted.second != second {
            counted.second = second;
            counted.in_second = 0;
        }
        counted.in_second += 1;
        if counted.in_second > FAILURES_PER_SECOND_MAX { EngineError::TooManyFailures } else { error }
    }

    /// The record of what was counted, if its time has come.
    pub(crate) fn take(&self, now: Timestamp, wait: AggregateWait) -> Result<Option<Record>, EngineError> {
        let mut counted = self.inner.lock();
        let Some((first_at, from)) = counted.first.clone() else { return Ok(None) };
        if wait == AggregateWait::Usual && now.seconds_since(first_at) < AGGREGATE_SECONDS {
            return Ok(None);
        }
        let record = aggregate(RequestId::from_bytes(random::array()?), first_at, from, now, counted.count);
        *counted = Counted::default();
        Ok(Some(record))
    }
}

/// Whether to wait until enough was counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AggregateWait {
    /// Record what there is.
    None,
    /// Wait for [`AGGREGATE_SECONDS`].
    Usual,
}

fn aggregate(id: RequestId, first_at: Timestamp, from: Option<String>, now: Timestamp, count: u64) -> Record {
    Record {
        v: RECORD_FORMAT,
        id,
        time: now,
        kind: RecordKind::Aggregate,
        principal: "anonymous".to_owned(),
        session: None,
        action: Action::SystemRead,
        resource: None,
        versions: Vec::new(),
        asset: None,
        origin: Origin { from, ..Origin::default() },
        decision: RecordDecision::Refuse,
        reason: "no valid token".to_owned(),
        outcome: Outcome::Refused,
        code: Some(EngineError::Unauthenticated.code().to_owned()),
        items: Some(count),
        failed: None,
        detail: vec![Detail { name: "since".to_owned(), value: first_at.to_string() }],
    }
}
