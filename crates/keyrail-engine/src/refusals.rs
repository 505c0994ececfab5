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
    inner: Mutex<Counting>,
}

#[derive(Default)]
struct Counting {
    counted: Option<Counted>,
    second: i64,
    in_second: u64,
}

/// Refusals that were counted, and not yet recorded.
pub(crate) struct Counted {
    first_at: Timestamp,
    from: Option<String>,
    count: u64,
}

impl Counted {
    /// The one record of them all.
    pub(crate) fn record(&self, now: Timestamp) -> Result<Record, EngineError> {
        Ok(aggregate(RequestId::from_bytes(random::array()?), self.first_at, self.from.clone(), now, self.count))
    }
}

impl Refusals {
    /// Counts a refusal; answers with the error to give.
    pub(crate) fn note(&self, error: EngineError, origin: &Origin, now: Timestamp) -> EngineError {
        if !matches!(error, EngineError::Unauthenticated | EngineError::Refused { .. }) {
            return error;
        }
        let mut inner = self.inner.lock();
        let from = || origin.bounded().from;
        inner.counted.get_or_insert_with(|| Counted { first_at: now, from: from(), count: 0 }).count += 1;
        let second = now.as_millis() / 1000;
        if inner.second != second {
            inner.second = second;
            inner.in_second = 0;
        }
        inner.in_second += 1;
        if inner.in_second > FAILURES_PER_SECOND_MAX { EngineError::TooManyFailures } else { error }
    }

    /// What was counted, if its time has come.
    pub(crate) fn take(&self, now: Timestamp, wait: AggregateWait) -> Option<Counted> {
        let mut inner = self.inner.lock();
        let first_at = inner.counted.as_ref()?.first_at;
        let due = wait == AggregateWait::None || now.seconds_since(first_at) >= AGGREGATE_SECONDS || now < first_at;
        if due { inner.counted.take() } else { None }
    }

    /// Tells the operational log what no record will tell: there is no log to write it to, and the process ends.
    pub(crate) fn tell_lost(&self) {
        if let Some(counted) = self.inner.lock().counted.take() {
            let (count, since) = (counted.count, counted.first_at);
            tracing::warn!("{count} refusals since {since}, while the store was closed, are not recorded");
        }
    }

    /// What was taken and could not be recorded counts on.
    pub(crate) fn put_back(&self, former: Counted) {
        let mut inner = self.inner.lock();
        let since = inner.counted.as_ref().map_or(0, |counted| counted.count);
        inner.counted = Some(Counted { count: former.count + since, ..former });
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
