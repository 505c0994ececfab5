//! Commits: a change with its record, fenced, in the order of the changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keyrail_audit::{AppendError, Enclosed, Fencing, Head};
use keyrail_core::fence::{Epoch, may_append};
use keyrail_core::id::RequestId;
use keyrail_core::record::{Outcome, Record};
use keyrail_core::system::{LogHeadRow, OutboxEntry};
use keyrail_store::{Change, Recorded, Staged, State, StoreError};

use crate::error::EngineError;
use crate::outbox::requests_since;
use crate::pipeline::{CommitError, append_at_once, encode};
use crate::unsealed::late::InTime;
use crate::unsealed::present::OwnFence;
use crate::unsealed::{FENCES_MAX, Unsealed};

/// A change whose record the log does not have. There is one at most: before the next change it is settled.
#[derive(Clone)]
pub(crate) struct Pending {
    request: RequestId,
    body: Vec<u8>,
    /// The log had so many records before.
    log_index_min: u64,
    /// The head that the commit remembers, where the log is not in the same database.
    head: Option<LogHeadRow>,
    /// The record, where it goes into the log with the change.
    enclosed: Option<Arc<Enclosed>>,
    fate: Fate,
}

impl Pending {
    #[cfg(test)]
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The record of a change that was not made.
    fn not_made(&self) -> Result<Self, EngineError> {
        let unreadable = |_| EngineError::Bug { what: "a record that is not readable" };
        let record: Record = serde_json::from_slice(&self.body).map_err(unreadable)?;
        let code = Some(EngineError::Indeterminate.code().to_owned());
        let record = Record { outcome: Outcome::Failed, code, versions: Vec::new(), state: None, ..record };
        let body = encode(&record).map_err(EngineError::AuditUnavailable)?;
        Ok(Self { body, enclosed: None, ..self.clone() })
    }
}

/// How often a change is worked out anew because somebody else moved the map of the rows.
const MAP_TRIES_MAX: usize = 16;

/// Why a change is not in the store.
enum Unwritten {
    /// The map was moved by a change of other rows.
    Moved,
    Failed(CommitError),
}

impl From<CommitError> for Unwritten {
    fn from(error: CommitError) -> Self {
        Self::Failed(error)
    }
}

/// What is known of a commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It is in the store.
    Made,
    /// The store could not say; its outbox or its log knows by the request id.
    Unknown,
}

/// Runs `work` to its end, also when whoever waits for it goes away: a caller that hangs up between a commit and
/// its fence must not leave the one without the other.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::spawn(work).await.map_err(|_| EngineError::Bug { what: "what was to run to its end ended by a panic" })
}

impl Unsealed {
    /// Commits a change together with its record, fences everything decided before, and makes the record
    /// durable in the log. `generation` is the one the change was decided under.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        change: Change,
        record: &Record,
        generation: u64,
    ) -> Result<(), CommitError> {
        self.commit_as(change, record, generation, true).await
    }

    /// As [`Unsealed::commit`]; what was decided before stays so unless the change `fences`.
    pub(crate) async fn commit_as(
        self: &Arc<Self>,
        change: Change,
        record: &Record,
        generation: u64,
        fences: bool,
    ) -> Result<(), CommitError> {
        let (open, record) = (self.clone(), record.clone());
        let ended = to_its_end(Box::pin(async move {
            open.commit_in_order(change, &record, generation, fences).await?;
            // The change raised the epoch that it was decided under, which was the store's.
            if let Some(tenure) = open.tenure.as_ref().filter(|_| fences) {
                tenure.others_have(Epoch(generation).next()).await;
                open.note_own_fence(&record);
            }
            Ok(())
        }))
        .await;
        ended.map_err(CommitError::Failed)?
    }

    async fn commit_in_order(
        &self,
        change: Change,
        record: &Record,
        generation: u64,
        fences: bool,
    ) -> Result<(), CommitError> {
        let _order = self.order.lock().await;
        self.ready().await.map_err(CommitError::Failed)?;
        self.settle().await.map_err(CommitError::Failed)?;
        if !may_append(Epoch(generation), Epoch(self.generation())) {
            return Err(CommitError::Fenced);
        }
        let log_index_min = self.log.size();
        let fencing = if fences { Fencing::Raises(Epoch(generation)) } else { Fencing::Leaves };
        let written = self.write(change, record, log_index_min, fencing).await;
        match &written {
            Ok(_) if fences => self.fence(),
            // Keys are read anew, so that the next change of one begins from the row that is there.
            Ok(_) => self.keyrings.clear(),
            // The epoch is in the same transaction as the change: whatever became of them, what is decided under the
            // former one gets no record after it.
            Err(CommitError::Failed(EngineError::Indeterminate)) if self.log.is_shared() => {}
            // Whoever does not know whether the state changed acts as if it had: nothing decided before is answered.
            // What is still on its way is fenced when it has arrived, and only then is it complete.
            Err(CommitError::Failed(EngineError::Indeterminate)) if self.is_late() => self.begin_generation(),
            Err(CommitError::Failed(EngineError::Indeterminate)) => self.fence(),
            Err(_) => {}
        }
        let handed = self.hand_over(written?).await;
        if self.sweep_wanted.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
        handed
    }

    /// Commits a change that no decision depends on (a campaign's progress), with its record but without a fence.
    ///
    /// # Errors
    /// [`EngineError::Store`], [`EngineError::AuditUnavailable`], [`EngineError::Indeterminate`]; [`EngineError::Sealed`]
    /// once the store is closed.
    pub async fn commit_background(self: &Arc<Self>, change: Change, record: &Record) -> Result<(), EngineError> {
        let (open, record) = (self.clone(), record.clone());
        let committed = to_its_end(Box::pin(async move {
            let _order = open.order.lock().await;
            open.ready().await.map_err(CommitError::Failed)?;
            open.settle().await.map_err(CommitError::Failed)?;
            let log_index_min = open.log.size();
            let written = open.write(change, &record, log_index_min, Fencing::Leaves).await?;
            open.hand_over(written).await
        }));
        committed.await?.map_err(|error| match error {
            CommitError::Failed(error) => error,
            CommitError::Fenced => EngineError::Contended,
        })
    }

    /// From here on nothing that was decided before gets its record, and no cache knows anything of before.
    pub(super) fn fence(&self) {
        self.begin_generation();
        let mut fences = self.fences.lock();
        if fences.len() >= FENCES_MAX {
            fences.pop_front();
        }
        fences.push_back(self.clock().observe());
    }

    /// The versions that a change of this node is about are fenced on all nodes now.
    fn note_own_fence(&self, record: &Record) {
        let (complete, mut own) = (self.clock().observe(), self.own_fences.lock());
        for used in &record.versions {
            if own.len() >= FENCES_MAX {
                own.pop_front();
            }
            own.push_back(OwnFence { kid: used.kid, decided_at: record.time, complete });
        }
    }

    fn begin_generation(&self) {
        let now = Epoch(self.generation());
        // An epoch that is shared was raised with the change, or by another node.
        let next = if self.log.is_shared() { now } else { now.next() };
        self.generation.store(next.0, Ordering::Release);
        self.log.set_epoch(next);
        self.forget_before(next.0);
    }

    /// Commits the rows with the record: in the log of the same database, or in the outbox, and then what comes back is to
    /// be handed over to the log.
    async fn write(
        &self,
        mut change: Change,
        record: &Record,
        log_index_min: u64,
        fencing: Fencing,
    ) -> Result<Pending, CommitError> {
        self.require_room(record)?;
        let settled = std::mem::take(&mut *self.settled.lock());
        change.settle(&settled);
        let head = (!self.log.is_shared()).then(|| self.remember_head(&mut change));
        for _ in 1..MAP_TRIES_MAX {
            match self.write_once(change.clone(), record, log_index_min, fencing, head).await {
                // Another node wrote something else meanwhile: the rows are as they were, and the map is another one.
                Err(Unwritten::Moved) => {}
                Err(Unwritten::Failed(error)) => {
                    self.settled.lock().extend(settled);
                    return Err(error);
                }
                Ok(pending) => return Ok(pending),
            }
        }
        let last = self.write_once(change, record, log_index_min, fencing, head).await;
        match last {
            Ok(pending) => Ok(pending),
            Err(unwritten) => {
                self.settled.lock().extend(settled);
                Err(match unwritten {
                    Unwritten::Moved => self.overtaken().await,
                    Unwritten::Failed(error) => error,
                })
            }
        }
    }

    async fn write_once(
        &self,
        change: Change,
        record: &Record,
        log_index_min: u64,
        fencing: Fencing,
        head: Option<LogHeadRow>,
    ) -> Result<Pending, Unwritten> {
        let (staged, body) = self.stage(change, record).await?;
        let unavailable = |error| CommitError::Failed(EngineError::AuditUnavailable(error));
        let enclosed = self.log.enclose(body.clone(), record.id, fencing).map_err(unavailable)?.map(Arc::new);
        let outbox = OutboxEntry { request: record.id, log_index_min, body: body.clone() };
        let pending =
            Pending { request: record.id, body, log_index_min, head, enclosed: enclosed.clone(), fate: Fate::Unknown };
        let state = self.state.clone();
        let commit = async move {
            match enclosed {
                Some(enclosed) => state.commit_enclosed(staged, enclosed).await,
                None => state.commit_staged(staged, &outbox).await,
            }
        };
        match self.commit_in_time(commit).await {
            InTime::Done(Ok(())) => Ok(self.made(pending)),
            InTime::Done(Err(error)) if error.is_of_map() => Err(Unwritten::Moved),
            InTime::Done(Err(error)) => Ok(self.after_failed_commit(error, pending).await?),
            InTime::Late => {
                *self.pending.lock() = Some(pending);
                Err(CommitError::Failed(EngineError::Indeterminate).into())
            }
        }
    }

    /// Refuses a change whose record would take the room that is kept for others.
    fn require_room(&self, record: &Record) -> Result<(), CommitError> {
        if self.log.is_short() && !record.action.keeps_safe() {
            return Err(CommitError::Failed(EngineError::AuditUnavailable(AppendError::Unavailable)));
        }
        Ok(())
    }

    /// Works out what the rows come to with a change, and writes that into its record. Nothing is stored yet.
    async fn stage(&self, change: Change, record: &Record) -> Result<(Staged, Vec<u8>), Unwritten> {
        let staging = tokio::time::timeout(self.commit_wait, self.state.stage(change, record.id));
        let stuck = |_| CommitError::Failed(EngineError::StoreStuck { seconds: self.commit_wait.as_secs() });
        let staged = match staging.await.map_err(stuck)? {
            Ok(staged) => staged,
            Err(error) if error.is_of_map() => return Err(Unwritten::Moved),
            Err(StoreError::Conflict { .. }) => return Err(self.overtaken().await.into()),
            Err(error) => return Err(CommitError::Failed(error.into()).into()),
        };
        let staged = if record.action.keeps_safe() { staged.from_reserve() } else { staged };
        let record = Record { state: staged.mark(), ..record.clone() };
        let body = encode(&record).map_err(|error| CommitError::Failed(EngineError::AuditUnavailable(error)))?;
        Ok((staged, body))
    }

    /// Somebody else changed what a change is about: the next attempt begins from what is stored.
    async fn overtaken(&self) -> CommitError {
        // A key may have been read before its countdown went on, and kept after.
        self.keyrings.clear();
        if self.log.is_shared() {
            return CommitError::Fenced;
        }
        match self.state.log_head().await {
            Ok(head) => {
                *self.remembered.lock() = head;
                CommitError::Fenced
            }
            Err(error) => CommitError::Failed(error.into()),
        }
    }

    /// The commit is in the store, and with it the head that it remembers.
    fn made(&self, pending: Pending) -> Pending {
        if pending.head.is_some() {
            *self.remembered.lock() = pending.head;
        }
        Pending { fate: Fate::Made, ..pending }
    }

    /// A commit that failed for sure is an error; one whose fate is unknown is looked up by its request id, now or
    /// before the next change.
    async fn after_failed_commit(&self, error: StoreError, pending: Pending) -> Result<Pending, CommitError> {
        if matches!(error, StoreError::Conflict { .. } | StoreError::Fenced) {
            return Err(self.overtaken().await);
        }
        if !matches!(error, StoreError::Indeterminate { .. }) {
            return Err(CommitError::Failed(error.into()));
        }
        match self.is_stored(&pending).await {
            Ok(true) => Ok(self.made(pending)),
            Ok(false) => Err(CommitError::Failed(error.into())),
            Err(_) => {
                *self.pending.lock() = Some(pending);
                Err(CommitError::Failed(EngineError::Indeterminate))
            }
        }
    }

    /// Whether a change is in the store. One that is not will not be later, either.
    async fn is_stored(&self, pending: &Pending) -> Result<bool, StoreError> {
        match &pending.enclosed {
            Some(enclosed) => self.state.store().settle(enclosed.clone()).await,
            None => self.state.outbox_has(&pending.request).await,
        }
    }

    /// The record is safe in the outbox; now the log gets it, also when it takes no others. Until it has it, no answer leaves.
    async fn hand_over(&self, made: Pending) -> Result<(), CommitError> {
        if let Some(enclosed) = &made.enclosed {
            self.told_state(enclosed.place());
            return Ok(());
        }
        if let Ok(place) = self.log.append_reserved(made.body.clone(), Epoch(self.generation())).await {
            self.settled.lock().push(made.request);
            self.told_state(place);
            return Ok(());
        }
        // The change is made, and its record waits in the outbox until the log takes it.
        *self.pending.lock() = Some(made);
        Err(CommitError::Failed(EngineError::Indeterminate))
    }

    /// Gives the log the record of the change that it misses, so that it has all changes in their order.
    async fn settle(&self) -> Result<(), EngineError> {
        let Some(mut pending) = self.pending.lock().clone() else { return Ok(()) };
        if pending.fate == Fate::Unknown && self.is_stored(&pending).await? {
            pending = self.made(pending);
        }
        match pending.fate {
            // Its record is where it is.
            Fate::Made if pending.enclosed.is_some() => {}
            Fate::Made => {
                self.record_once(&pending).await?;
                self.settled.lock().push(pending.request);
            }
            // It was not made, and the log tells that too: its caller was told to look there.
            Fate::Unknown => self.record_once(&pending.not_made()?).await?,
        }
        *self.pending.lock() = None;
        Ok(())
    }

    /// Appends a record unless the log has it: an append that was given up on may have been made since.
    async fn record_once(&self, pending: &Pending) -> Result<(), EngineError> {
        // What waited before this is decided when it returns, so that the log can be asked.
        self.log.publish().await?;
        if requests_since(&self.log, pending.log_index_min)?.contains(&pending.request) {
            return Ok(());
        }
        let appended = self.log.append_reserved(pending.body.clone(), Epoch(self.generation())).await;
        appended.map(drop).map_err(EngineError::AuditUnavailable)
    }

    /// Settles what a failure left open, if it is over.
    pub(crate) async fn settle_pending(self: &Arc<Self>) -> Result<(), EngineError> {
        if !self.has_pending() && !self.is_late() {
            return Ok(());
        }
        let open = self.clone();
        let settled = to_its_end(async move {
            let _order = open.order.lock().await;
            open.ready().await?;
            open.settle().await
        });
        settled.await?
    }

    /// The rows and the head of the log at one moment, at which the log has the records of all changes.
    pub(crate) async fn at_one_moment(self: &Arc<Self>) -> Result<(State, Head), EngineError> {
        let open = self.clone();
        let found = to_its_end(async move {
            let _order = open.order.lock().await;
            open.ready().await?;
            open.settle().await?;
            open.log.publish().await?;
            let head = open.log.published();
            Ok((open.state.at_this_moment().await?, head))
        });
        found.await?
    }

    /// Whether a change waits for its record.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.lock().is_some()
    }

    /// The head that the audit files show: what is durable and not published yet cannot be held against them.
    fn remember_head(&self, change: &mut Change) -> LogHeadRow {
        let head = self.log.published();
        let former = *self.remembered.lock();
        let row =
            LogHeadRow { size: head.size, root: head.root, generation: former.map_or(1, |row| row.generation + 1) };
        if former.is_some() {
            change.update(&row)
        } else {
            change.insert(&row)
        };
        row
    }

    /// Makes a record durable, on condition that the state is still of `generation`.
    ///
    /// # Errors
    /// [`EngineError::Contended`] if the state changed, [`EngineError::AuditUnavailable`].
    pub async fn append_record(&self, record: &Record, generation: u64) -> Result<(), EngineError> {
        append_at_once(self, record, generation).await.map_err(|error| match error {
            AppendError::Fenced => EngineError::Contended,
            other => EngineError::AuditUnavailable(other),
        })
    }

    /// Commits rows that no decision reads and no auditor asks about.
    ///
    /// # Errors
    /// [`EngineError::Store`]; [`EngineError::Sealed`] once the store is closed.
    pub async fn commit_unrecorded(self: &Arc<Self>, change: Recorded) -> Result<(), EngineError> {
        let open = self.clone();
        let committed = to_its_end(async move {
            let _order = open.order.lock().await;
            open.ready().await?;
            open.commit_unasked(change).await
        });
        committed.await?
    }

    /// Commits how far countdowns are, without a record, and without a fence: what takes longer than a countdown's step
    /// would never end. Keys are read anew; what was decided from an older row meets a conflict when it is committed, and
    /// whoever halts a countdown reads the row itself.
    pub(crate) async fn commit_bookkeeping(self: &Arc<Self>, change: Recorded) -> Result<(), EngineError> {
        let open = self.clone();
        let committed = to_its_end(async move {
            let _order = open.order.lock().await;
            open.ready().await?;
            open.commit_unasked(change).await?;
            open.keyrings.clear();
            Ok(())
        });
        committed.await?
    }

    /// Writes the log's present head and the settled outbox rows into the store, so that an older log is told.
    pub(crate) async fn remember(self: &Arc<Self>) -> Result<(), EngineError> {
        let open = self.clone();
        to_its_end(async move { open.remember_now().await }).await?
    }

    async fn remember_now(&self) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        self.ready().await?;
        if self.log.is_shared() {
            // Another node may have done it last.
            let stored = self.state.log_head().await?;
            *self.remembered.lock() = stored;
        }
        let known = self.remembered.lock().map(|row| row.size);
        let settled = std::mem::take(&mut *self.settled.lock());
        let published = Some(self.log.published().size);
        // Another node may have published more since.
        let is_known = known == published || (self.log.is_shared() && known > published);
        if is_known && settled.is_empty() {
            return Ok(());
        }
        let mut change = Change::new();
        change.settle(&settled);
        let head = self.remember_head(&mut change);
        let Err(error) = self.commit_unasked(change.unrecorded("the log's head is remembered")).await else {
            *self.remembered.lock() = Some(head);
            return Ok(());
        };
        // Deleted twice does no harm.
        self.settled.lock().extend(settled);
        // It may be made all the same, or an earlier one of unknown fate was: the next attempt begins from the stored
        // head, and no other commit has to come first.
        if matches!(error, EngineError::Store(StoreError::Conflict { .. } | StoreError::Indeterminate { .. }))
            && let Ok(stored) = self.state.log_head().await
        {
            *self.remembered.lock() = stored;
            if stored == Some(head) {
                return Ok(());
            }
        }
        Err(error)
    }

    pub(crate) fn note_settled(&self, requests: impl IntoIterator<Item = RequestId>) {
        self.settled.lock().extend(requests);
    }
}

#[cfg(test)]
mod tests;
