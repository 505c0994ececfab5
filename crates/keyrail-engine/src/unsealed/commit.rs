//! Commits: a change with its record, fenced, in the order of the changes.

use std::sync::atomic::Ordering;

use keyrail_audit::{AppendError, Epoch};
use keyrail_core::id::RequestId;
use keyrail_core::record::Record;
use keyrail_core::system::{LogHeadRow, OutboxEntry};
use keyrail_store::{Change, Recorded, StoreError};

use crate::error::EngineError;
use crate::pipeline::{CommitError, append, encode};
use crate::unsealed::Unsealed;

/// A change whose record the log does not have. There is one at most: before the next change it is settled.
#[derive(Clone)]
pub(crate) struct Pending {
    request: RequestId,
    body: Vec<u8>,
    fate: Fate,
}

/// What is known of a commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It is in the store.
    Made,
    /// The store could not say; its outbox knows by the request id.
    Unknown,
}

impl Unsealed {
    /// Commits a change together with its record, fences everything decided before, and makes the record
    /// durable in the log. `generation` is the one the change was decided under.
    pub(crate) async fn commit(&self, change: Change, record: &Record, generation: u64) -> Result<(), CommitError> {
        let _order = self.order.lock().await;
        self.settle().await.map_err(CommitError::Failed)?;
        if self.generation() != generation {
            return Err(CommitError::Fenced);
        }
        let written = self.write(change, record).await;
        // Whoever does not know whether the state changed acts as if it had: nothing decided before is answered.
        if matches!(written, Ok(()) | Err(CommitError::Failed(EngineError::Indeterminate))) {
            self.fence();
        }
        written?;
        let handed = self.hand_over(record, self.generation()).await;
        if self.sweep_wanted.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
        handed
    }

    /// Commits a change that no decision depends on (a campaign's progress), with its record but without a fence.
    ///
    /// # Errors
    /// [`EngineError::Store`], [`EngineError::AuditUnavailable`], [`EngineError::Indeterminate`].
    pub async fn commit_background(&self, change: Change, record: &Record) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        self.settle().await?;
        let committed = match self.write(change, record).await {
            Ok(()) => self.hand_over(record, self.generation()).await,
            Err(error) => Err(error),
        };
        committed.map_err(|error| match error {
            CommitError::Failed(error) => error,
            CommitError::Fenced => EngineError::Contended,
        })
    }

    /// From here on nothing that was decided before gets its record, and no cache knows anything of before.
    fn fence(&self) {
        let next = self.generation() + 1;
        self.generation.store(next, Ordering::Release);
        self.log.set_epoch(Epoch(next));
        self.forget_before(next);
    }

    async fn write(&self, mut change: Change, record: &Record) -> Result<(), CommitError> {
        let body = encode(record).map_err(|error| CommitError::Failed(EngineError::AuditUnavailable(error)))?;
        let outbox = OutboxEntry { request: record.id, log_index_min: self.log.head().size, body };
        let settled = std::mem::take(&mut *self.settled.lock());
        change.settle(&settled);
        let head = self.remember_head(&mut change);
        let pending = Pending { request: record.id, body: outbox.body.clone(), fate: Fate::Unknown };
        match self.state.commit(change.recorded(outbox)).await {
            Ok(()) => {
                *self.remembered.lock() = Some(head);
                Ok(())
            }
            Err(error) => {
                self.settled.lock().extend(settled);
                self.after_failed_commit(error, pending).await
            }
        }
    }

    /// A commit that failed for sure is an error; one whose fate is unknown is looked up by its request id, now or
    /// before the next change.
    async fn after_failed_commit(&self, error: StoreError, pending: Pending) -> Result<(), CommitError> {
        if matches!(error, StoreError::Conflict { .. }) {
            return Err(CommitError::Fenced);
        }
        if !matches!(error, StoreError::Indeterminate { .. }) {
            return Err(CommitError::Failed(error.into()));
        }
        match self.state.outbox_has(&pending.request).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CommitError::Failed(error.into())),
            Err(_) => {
                *self.pending.lock() = Some(pending);
                Err(CommitError::Failed(EngineError::Indeterminate))
            }
        }
    }

    /// The record is safe in the outbox; now the log gets it. Until it has it, no answer leaves.
    async fn hand_over(&self, record: &Record, epoch: u64) -> Result<(), CommitError> {
        let body = encode(record).map_err(|error| CommitError::Failed(EngineError::AuditUnavailable(error)))?;
        if self.log.append(body.clone(), Epoch(epoch)).await.is_ok() {
            self.settled.lock().push(record.id);
            return Ok(());
        }
        // The change is made, and its record waits in the outbox until the log takes it.
        *self.pending.lock() = Some(Pending { request: record.id, body, fate: Fate::Made });
        Err(CommitError::Failed(EngineError::Indeterminate))
    }

    /// Gives the log the record of the change that it misses, so that it has all changes in their order.
    async fn settle(&self) -> Result<(), EngineError> {
        let Some(pending) = self.pending.lock().clone() else { return Ok(()) };
        if pending.fate == Fate::Made || self.state.outbox_has(&pending.request).await? {
            let appended = self.log.append(pending.body, Epoch(self.generation())).await;
            appended.map_err(EngineError::AuditUnavailable)?;
            self.settled.lock().push(pending.request);
        }
        *self.pending.lock() = None;
        Ok(())
    }

    /// Settles what a failure left open, if it is over.
    pub(crate) async fn settle_pending(&self) -> Result<(), EngineError> {
        if !self.has_pending() {
            return Ok(());
        }
        let _order = self.order.lock().await;
        self.settle().await
    }

    /// Whether a change waits for its record.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.lock().is_some()
    }

    fn remember_head(&self, change: &mut Change) -> LogHeadRow {
        let head = self.log.head();
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
        append(self, record, generation).await.map_err(|error| match error {
            AppendError::Fenced => EngineError::Contended,
            other => EngineError::AuditUnavailable(other),
        })
    }

    /// Commits rows that no decision reads and no auditor asks about.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn commit_unrecorded(&self, change: Recorded) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        Ok(self.state.commit(change).await?)
    }

    /// Commits a change of rows that decisions read, without a record: countdowns and the like. Caches are dropped.
    pub(crate) async fn commit_bookkeeping(&self, change: Recorded) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        self.state.commit(change).await?;
        self.fence();
        Ok(())
    }

    /// Writes the log's present head and the settled outbox rows into the store, so that an older log is told.
    pub(crate) async fn remember(&self) -> Result<(), EngineError> {
        let _order = self.order.lock().await;
        let known = self.remembered.lock().map(|row| row.size);
        let settled = std::mem::take(&mut *self.settled.lock());
        if known == Some(self.log.head().size) && settled.is_empty() {
            return Ok(());
        }
        let mut change = Change::new();
        change.settle(&settled);
        let head = self.remember_head(&mut change);
        if let Err(error) = self.state.commit(change.unrecorded("the log's head is remembered")).await {
            self.settled.lock().extend(settled);
            return Err(error.into());
        }
        *self.remembered.lock() = Some(head);
        Ok(())
    }

    pub(crate) fn note_settled(&self, requests: impl IntoIterator<Item = RequestId>) {
        self.settled.lock().extend(requests);
    }
}
