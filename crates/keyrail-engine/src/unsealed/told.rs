//! What the log tells of the rows of the store: every change does, and where there is none for a while, a record of its
//! own, so that the start finds one without reading far.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyrail_audit::Position;
use keyrail_core::access::{Action, Principal};
use keyrail_core::id::RequestId;
use keyrail_core::record::{Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind};
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use keyrail_store::Change;

use crate::error::EngineError;
use crate::unsealed::Unsealed;

/// After so many records without a change, one tells what the rows come to.
pub(crate) const RECORDS_BETWEEN_STATES_MAX: u64 = 32_768;

/// How far the log tells of the rows.
#[derive(Default)]
pub(crate) struct Told {
    /// The log's index of the last record that tells of them.
    index: AtomicU64,
    /// Set when another one is due before its turn.
    due: AtomicBool,
}

impl Told {
    pub(crate) fn at(index: u64) -> Self {
        Self { index: AtomicU64::new(index), due: AtomicBool::new(false) }
    }
}

impl Unsealed {
    /// The record at this place tells of the rows.
    pub(super) fn told_state(&self, place: Option<Position>) {
        if let Some(Position { index }) = place {
            self.told.index.fetch_max(index, Ordering::Relaxed);
            self.told.due.store(false, Ordering::Relaxed);
        }
    }

    /// The record at this place does not.
    pub(crate) fn told_other(&self, index: u64) {
        let since = index.saturating_sub(self.told.index.load(Ordering::Relaxed));
        if since >= RECORDS_BETWEEN_STATES_MAX && !self.told.due.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Whether the log has gone on for long without telling of the rows.
    pub(crate) fn state_is_due(&self) -> bool {
        self.told.due.load(Ordering::Relaxed)
    }

    /// Tells what the rows come to, if the log does not tell it yet or told it long ago.
    ///
    /// A record that tells of the rows moves them itself: it is counted, and the log's head with it is remembered. Where
    /// nothing else is recorded, such bookkeeping stays untold, so that a log that rests does not grow.
    pub(crate) async fn tell_state(self: &Arc<Self>) -> Result<(), EngineError> {
        let Some(state) = self.state.map_state().await? else { return Ok(()) };
        let told = state.recorded.map_or(0, |(_, generation)| generation);
        let others = self.log.size() > self.told.index.load(Ordering::Relaxed) + 1;
        let wanted = others && state.generation > told;
        if !wanted && !self.state_is_due() {
            return Ok(());
        }
        self.commit_background(Change::new(), &record(RequestId::from_bytes(random::array()?), self.now())).await
    }
}

/// The record of what the rows come to.
pub(crate) fn record(id: RequestId, now: Timestamp) -> Record {
    Record {
        v: RECORD_FORMAT,
        id,
        time: now,
        kind: RecordKind::Operation,
        principal: Principal::system().label(),
        session: None,
        action: Action::SystemState,
        resource: None,
        versions: Vec::new(),
        asset: None,
        origin: Origin::default(),
        decision: RecordDecision::Allow,
        reason: "what the rows come to is told with every change, and now and then".to_owned(),
        outcome: Outcome::Done,
        code: None,
        items: None,
        failed: None,
        detail: Vec::new(),
        state: None,
    }
}
