//! Refusals before an operation is known, of callers who are nobody and of those who are somebody: recorded as counted
//! aggregates, so that a loop of them can neither fill the log nor stop the service. Failed log-ins are rate-limited, too.

use std::collections::BTreeMap;

use keyrail_core::access::{Action, Principal};
use keyrail_core::id::{RequestId, TokenId};
use keyrail_core::record::{Detail, Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind};
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use parking_lot::Mutex;

use crate::error::EngineError;

/// Failed log-ins per second from which on callers are told to wait.
const FAILURES_PER_SECOND_MAX: u64 = 100;

/// How long refusals are counted before they are recorded, in seconds.
pub(crate) const AGGREGATE_SECONDS: u64 = 10;

/// How many callers, each with a reason, are told apart; the refusals of further ones are counted together.
const COUNTED_APART_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Refusals {
    inner: Mutex<Counting>,
}

#[derive(Default)]
struct Counting {
    counted: BTreeMap<Whose, Counted>,
    second: i64,
    in_second: u64,
}

/// Whose refusals are counted together, and why they were refused.
#[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
struct Whose {
    principal: String,
    session: Option<TokenId>,
    code: String,
    reason: &'static str,
}

impl Whose {
    /// Whoever showed no valid token.
    fn nobodys() -> Self {
        let code = EngineError::Unauthenticated.code().to_owned();
        Self { principal: "anonymous".to_owned(), session: None, code, reason: "no valid token" }
    }

    /// Callers beyond those that are told apart, and those that nobody had the time to tell apart.
    fn others(code: &str) -> Self {
        let reason = "no operation, of further callers";
        Self { principal: "anonymous".to_owned(), session: None, code: code.to_owned(), reason }
    }
}

/// Refusals that were counted, and not yet recorded.
pub(crate) struct Counted {
    first_at: Timestamp,
    from: Option<String>,
    count: u64,
}

/// What has come due, to be recorded or put back.
pub(crate) struct Due {
    whose: Whose,
    counted: Counted,
}

impl Due {
    /// The one record of them all.
    pub(crate) fn record(&self, now: Timestamp) -> Result<Record, EngineError> {
        Ok(aggregate(RequestId::from_bytes(random::array()?), &self.whose, &self.counted, now))
    }
}

impl Counting {
    fn count(&mut self, whose: Whose, origin: &Origin, now: Timestamp) {
        let from = || origin.bounded().from;
        self.counted.entry(whose).or_insert_with(|| Counted { first_at: now, from: from(), count: 0 }).count += 1;
    }
}

impl Refusals {
    /// Counts a refusal; answers with the error to give.
    pub(crate) fn note(&self, error: EngineError, origin: &Origin, now: Timestamp) -> EngineError {
        if !matches!(error, EngineError::Unauthenticated | EngineError::Refused { .. }) {
            return error;
        }
        let mut inner = self.inner.lock();
        inner.count(Whose::nobodys(), origin, now);
        let second = now.as_millis() / 1000;
        if inner.second != second {
            inner.second = second;
            inner.in_second = 0;
        }
        inner.in_second += 1;
        if inner.in_second > FAILURES_PER_SECOND_MAX { EngineError::TooManyFailures } else { error }
    }

    /// Counts a request of somebody that was refused before it was an operation.
    pub(crate) fn note_no_operation(&self, principal: &Principal, code: &str, origin: &Origin, now: Timestamp) {
        let reason = "no operation";
        let whose = Whose { principal: principal.label(), session: principal.token, code: code.to_owned(), reason };
        let mut inner = self.inner.lock();
        let is_told_apart = inner.counted.len() < COUNTED_APART_MAX || inner.counted.contains_key(&whose);
        inner.count(if is_told_apart { whose } else { Whose::others(code) }, origin, now);
    }

    /// Counts a request that was turned away because there is too much to do already.
    pub(crate) fn note_turned_away(&self, code: &str, origin: &Origin, now: Timestamp) {
        self.inner.lock().count(Whose::others(code), origin, now);
    }

    /// What was counted and whose time has come.
    pub(crate) fn take(&self, now: Timestamp, wait: AggregateWait) -> Vec<Due> {
        let is_due = |_: &Whose, counted: &mut Counted| {
            wait == AggregateWait::None
                || now.seconds_since(counted.first_at) >= AGGREGATE_SECONDS
                || now < counted.first_at
        };
        let mut inner = self.inner.lock();
        inner.counted.extract_if(.., is_due).map(|(whose, counted)| Due { whose, counted }).collect()
    }

    /// Tells the operational log what no record will tell: there is no log to write it to, and the process ends.
    pub(crate) fn tell_lost(&self) {
        for (_, counted) in std::mem::take(&mut self.inner.lock().counted) {
            tracing::warn!(count = counted.count, since = %counted.first_at, "refusals while the store was closed are not recorded");
        }
    }

    /// What was taken and could not be recorded counts on.
    pub(crate) fn put_back(&self, former: Due) {
        let Due { whose, counted } = former;
        let mut inner = self.inner.lock();
        let since = inner.counted.get(&whose).map_or(0, |counted| counted.count);
        inner.counted.insert(whose, Counted { count: counted.count + since, ..counted });
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

fn aggregate(id: RequestId, whose: &Whose, counted: &Counted, now: Timestamp) -> Record {
    Record {
        v: RECORD_FORMAT,
        id,
        time: now,
        kind: RecordKind::Aggregate,
        principal: whose.principal.clone(),
        session: whose.session,
        action: Action::SystemRead,
        resource: None,
        versions: Vec::new(),
        asset: None,
        origin: Origin { from: counted.from.clone(), ..Origin::default() },
        decision: RecordDecision::Refuse,
        reason: whose.reason.to_owned(),
        outcome: Outcome::Refused,
        code: Some(whose.code.clone()),
        items: Some(counted.count),
        failed: None,
        detail: vec![Detail { name: "since".to_owned(), value: counted.first_at.to_string() }],
        state: None,
    }
}

#[cfg(test)]
mod tests {
    use keyrail_core::access::Role;

    use super::*;

    /// However many callers there are: what is kept is bounded, and the sum is right.
    #[test]
    fn callers_beyond_the_bound_are_counted_together() {
        let refusals = Refusals::default();
        let (now, callers) = (Timestamp::from_millis(1_000), 2 * COUNTED_APART_MAX as u128);
        for number in 0..callers {
            let principal = Principal {
                token: Some(TokenId::from_bytes(number.to_be_bytes())),
                role: Role::App,
                ..Principal::system()
            };
            refusals.note_no_operation(&principal, "invalid", &Origin::default(), now);
        }
        assert!(refusals.take(now, AggregateWait::Usual).is_empty(), "not before its time");
        let records: Vec<Record> =
            refusals.take(now, AggregateWait::None).iter().map(|due| due.record(now).unwrap()).collect();
        assert_eq!(records.len(), COUNTED_APART_MAX + 1);
        assert_eq!(records.iter().filter_map(|record| record.items).sum::<u64>(), callers as u64);
        assert_eq!(records.iter().filter(|record| record.principal == "anonymous").count(), 1);
        assert!(refusals.take(now, AggregateWait::None).is_empty());
    }
}
