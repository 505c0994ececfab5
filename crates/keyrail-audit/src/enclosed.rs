//! A record that enters the log in the transaction of the change that it tells of.
//!
//! Where rows and log are in one database, neither is ever without the other: the change's transaction holds the log's
//! head, appends the record, raises the epoch, and writes the rows.

use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use keyrail_core::fence::{Epoch, may_append};
use keyrail_core::id::{NodeId, RequestId};
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::random;

use crate::body::{BODY_LEN_MAX, Record, Records};
use crate::database::{Batch, StoredHead};
use crate::error::{AppendError, EncloseError, LogError};
use crate::log::{Position, Shared};
use crate::steward::Ask;

/// Whether decisions may depend on a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fencing {
    /// They may: it is made only under the epoch that it was decided under, and raises it.
    Raises(Epoch),
    /// They may, and nothing was decided before: the log begins with it.
    Begins,
    /// No decision depends on it: it is made under whatever epoch there is.
    Leaves,
}

/// The record of a change, and what the change does to the epoch.
pub struct Enclosed {
    records: Records,
    request: RequestId,
    fencing: Fencing,
    mac: Arc<MacKey>,
    log: Option<(Arc<Shared>, Sender<Ask>)>,
    place: OnceLock<Position>,
}

/// A head with an enclosed record appended to it.
#[derive(Debug)]
pub struct Appending<'a> {
    /// The head as it was.
    pub former: StoredHead,
    /// The record.
    pub batch: Batch<'a>,
    /// The head as it is with the change.
    pub next: StoredHead,
}

impl fmt::Debug for Enclosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enclosed")
            .field("request", &self.request)
            .field("fencing", &self.fencing)
            .finish_non_exhaustive()
    }
}

impl Enclosed {
    /// The first record of a log that nobody has open yet.
    ///
    /// # Errors
    /// [`AppendError::TooLong`]; [`AppendError::Unavailable`] without random numbers.
    pub fn first(body: Vec<u8>, request: RequestId, mac: MacKey) -> Result<Self, AppendError> {
        Self::new(body, request, Fencing::Begins, Arc::new(mac), None)
    }

    pub(crate) fn new(
        body: Vec<u8>,
        request: RequestId,
        fencing: Fencing,
        mac: Arc<MacKey>,
        log: Option<(Arc<Shared>, Sender<Ask>)>,
    ) -> Result<Self, AppendError> {
        if body.len() > BODY_LEN_MAX {
            return Err(AppendError::TooLong { max: BODY_LEN_MAX });
        }
        let salt = random::pooled().map_err(|_| AppendError::Unavailable)?;
        let records = std::iter::once(Record { salt, body }).collect();
        Ok(Self { records, request, fencing, mac, log, place: OnceLock::new() })
    }

    /// Under which writer's name and number the batch of a change stands: it is the only one of its request.
    pub fn writer(&self) -> (NodeId, u64) {
        (NodeId::from_bytes(*self.request.as_bytes()), 0)
    }

    /// Whether the change is stored, by what is found under its writer's name and number after the fence was moved on, which
    /// gave `head`.
    ///
    /// # Errors
    /// [`LogError::RecordsAltered`] if what is there is not its record, within the head: whoever can write to the database
    /// can put any row there; [`LogError::HeadAltered`].
    pub fn settle(&self, head: StoredHead, found: Option<&Batch<'_>>) -> Result<bool, LogError> {
        let head = head.checked(&self.mac)?;
        let Some(batch) = found else { return Ok(false) };
        batch.checked(&self.mac)?;
        if batch.end() > head.peaks.size() || *batch.records != *self.records.bytes() {
            return Err(LogError::RecordsAltered { first: batch.first, count: batch.count });
        }
        self.stored(batch.first, head.epoch);
        Ok(true)
    }

    /// The head with the record, to be stored together with the change while nobody else can move the head.
    ///
    /// # Errors
    /// [`EncloseError::Fenced`] if the state is of another epoch than the change was decided under;
    /// [`LogError::HeadAltered`]; [`LogError::Older`] and [`LogError::EpochOlder`] for a database that was taken back.
    pub fn onto(&self, head: StoredHead) -> Result<Appending<'_>, EncloseError> {
        let former = head.checked(&self.mac)?;
        let epoch = former.epoch;
        if let Some((shared, _)) = &self.log {
            let (found, remembered) = (former.peaks.size(), shared.size());
            if found < remembered {
                return Err(LogError::Older { found, remembered }.into());
            }
            shared.raise_epoch(epoch);
        }
        if let Fencing::Raises(decided) = self.fencing {
            if !may_append(decided, epoch) {
                return Err(EncloseError::Fenced);
            }
            if decided > epoch {
                return Err(LogError::EpochOlder { found: epoch, known: decided }.into());
            }
        }
        let (mut next, batch) = former.with(&self.records, self.writer(), &self.mac);
        if self.fencing != Fencing::Leaves {
            next.epoch = epoch.next();
        }
        Ok(Appending { former, batch, next })
    }

    /// The change is durable, and with it the record that stands at `first`: what this node knows of the log begins anew
    /// from there.
    pub fn stored(&self, first: u64, epoch: Epoch) {
        let _told_before = self.place.set(Position { index: first });
        let Some((shared, steward)) = &self.log else { return };
        shared.raise_epoch(epoch);
        if shared.grown_to(first + 1) {
            // It is gone once the log is closed; the next node publishes.
            let _gone = steward.send(Ask::Due);
        }
    }

    /// Where the record stands, once it is durable.
    pub fn place(&self) -> Option<Position> {
        self.place.get().copied()
    }
}
