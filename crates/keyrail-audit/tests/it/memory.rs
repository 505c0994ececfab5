//! A database that is none: rows in memory, and every fault that a real one may have.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyrail_audit::{Appended, Batch, LogStore, LogStoreError, StoredHead, Turn};
use keyrail_core::fence::Epoch;
use keyrail_core::id::NodeId;
use parking_lot::{Mutex, MutexGuard};

use crate::suite::Database;

/// What a write does instead of what it should.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It fails, not stored.
    NotStored,
    /// The answer is lost, not stored.
    LostNotStored,
    /// The answer is lost, stored.
    LostStored,
    /// The answer is lost, and it is stored when somebody asks what became of it.
    StoredWhenSettled,
    /// The answer is lost, and the database does it later, after it told that it is not there.
    StoredAfterSettled,
    /// The answer is lost, not stored, and somebody puts a row of his own under its number.
    Planted,
}

/// A call that may fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Call {
    Append,
    Fence,
    Find,
    Head,
    Publish,
}

type Late = (StoredHead, Batch<'static>, StoredHead);

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) head: Option<StoredHead>,
    pub(crate) batches: Vec<Batch<'static>>,
    pub(crate) note: String,
    faults: VecDeque<(Call, usize, Fault)>,
    before_fence: Option<Late>,
    after_find: Option<Late>,
    pub(crate) hits: usize,
    handles: usize,
    /// The handle that holds the head.
    held: Option<usize>,
    /// Runs before the next signed head is stored.
    pub(crate) before_publish: Option<Box<dyn FnOnce() + Send>>,
}

/// A handle; all of them are of one database.
#[derive(Clone, Default)]
pub(crate) struct Memory(pub(crate) Arc<Mutex<Inner>>, usize);

impl Memory {
    /// Lets calls fail, after so many that work.
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = (Call, usize, Fault)>) {
        self.0.lock().faults.extend(faults);
    }

    /// A call of this handle, which ends its hold.
    fn call(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock();
        inner.held = inner.held.filter(|holder| *holder != self.1);
        inner
    }

    /// A call that changes the head, and waits for who holds it.
    fn turn(&self, limit: Duration) -> Result<MutexGuard<'_, Inner>, LogStoreError> {
        let since = Instant::now();
        loop {
            let inner = self.call();
            if inner.held.is_none() {
                return Ok(inner);
            }
            drop(inner);
            if since.elapsed() >= limit {
                return failed();
            }
            std::thread::yield_now();
        }
    }
}

/// How long a writer waits for who holds the head.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);

impl Inner {
    fn fault(&mut self, call: Call) -> Option<Fault> {
        let place = self.faults.iter().position(|(planned, _, _)| *planned == call)?;
        let (_, skip, fault) = &mut self.faults[place];
        if *skip > 0 {
            *skip -= 1;
            return None;
        }
        let fault = *fault;
        self.faults.remove(place);
        self.hits += 1;
        Some(fault)
    }

    fn store(&mut self, (former, batch, next): &Late) -> Appended {
        let head = self.head.as_mut().unwrap();
        if head != former {
            return Appended::Moved;
        }
        *head = next.clone();
        self.batches.push(batch.clone());
        Appended::Stored
    }
}

fn lost<T>() -> Result<T, LogStoreError> {
    Err(LogStoreError::Unknown("the connection is gone".into()))
}

fn failed<T>() -> Result<T, LogStoreError> {
    Err(LogStoreError::Failed("the disk is full".into()))
}

impl LogStore for Memory {
    fn create(&mut self, head: &StoredHead, note: &str) -> Result<(), LogStoreError> {
        let mut inner = self.call();
        if inner.head.is_some() {
            return failed();
        }
        (inner.head, inner.note) = (Some(head.clone()), note.to_owned());
        Ok(())
    }

    fn head(&mut self, turn: Turn) -> Result<StoredHead, LogStoreError> {
        let mut inner = if turn == Turn::Take { self.turn(LOCK_WAIT_MAX)? } else { self.call() };
        match inner.fault(Call::Head) {
            Some(_) => failed(),
            None => {
                inner.held = inner.held.or(Some(self.1).filter(|_| turn == Turn::Take));
                inner.head.clone().ok_or(LogStoreError::NoLog)
            }
        }
    }

    fn release(&mut self) {
        drop(self.call());
    }

    fn append(&mut self, former: &StoredHead, batch: &Batch<'_>, next: &StoredHead) -> Result<Appended, LogStoreError> {
        let mut inner = self.turn(LOCK_WAIT_MAX)?;
        let batch = Batch { records: Cow::Owned(batch.records.to_vec()), ..batch.clone() };
        let late = (former.clone(), batch, next.clone());
        match inner.fault(Call::Append) {
            None => Ok(inner.store(&late)),
            Some(Fault::NotStored) => failed(),
            Some(Fault::LostNotStored) => lost(),
            Some(Fault::LostStored) => {
                inner.store(&late);
                lost()
            }
            Some(Fault::StoredWhenSettled) => {
                inner.before_fence = Some(late);
                lost()
            }
            Some(Fault::StoredAfterSettled) => {
                inner.after_find = Some(late);
                lost()
            }
            Some(Fault::Planted) => {
                inner.batches.push(Batch { first: 1 << 40, ..late.1 });
                lost()
            }
        }
    }

    fn fence(&mut self) -> Result<StoredHead, LogStoreError> {
        let mut inner = self.turn(LOCK_WAIT_MAX)?;
        let fault = inner.fault(Call::Fence);
        if fault == Some(Fault::NotStored) {
            return failed();
        }
        if let Some(late) = inner.before_fence.take() {
            inner.store(&late);
        }
        if fault != Some(Fault::LostNotStored) {
            inner.head.as_mut().unwrap().fence += 1;
        }
        if fault.is_some() { lost() } else { Ok(inner.head.clone().unwrap()) }
    }

    fn find(&mut self, node: NodeId, number: u64) -> Result<Option<Batch<'static>>, LogStoreError> {
        let mut inner = self.call();
        if inner.fault(Call::Find).is_some() {
            return failed();
        }
        let found = inner.batches.iter().find(|batch| batch.node == node && batch.number == number);
        let found = found.cloned();
        if let Some(late) = inner.after_find.take() {
            inner.store(&late);
        }
        Ok(found)
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Batch<'static>>, LogStoreError> {
        let inner = self.call();
        let end = first.saturating_add(count as u64);
        Ok(inner.batches.iter().filter(|batch| batch.end() > first && batch.first < end).cloned().collect())
    }

    fn checkpoint(&mut self) -> Result<String, LogStoreError> {
        Ok(self.call().note.clone())
    }

    fn publish(&mut self, former: &str, _: u64, note: &str) -> Result<bool, LogStoreError> {
        let before = self.call().before_publish.take();
        before.into_iter().for_each(|before| before());
        let mut inner = self.call();
        let fault = inner.fault(Call::Publish);
        if fault == Some(Fault::NotStored) {
            return failed();
        }
        let is_former = inner.note == former;
        if is_former {
            note.clone_into(&mut inner.note);
        }
        if fault.is_some() { lost() } else { Ok(is_former) }
    }
}

impl Database for Memory {
    fn store(&self) -> Box<dyn LogStore> {
        let mut inner = self.0.lock();
        inner.handles += 1;
        Box::new(Self(self.0.clone(), inner.handles))
    }

    fn raise_epoch(&self, from: Epoch) {
        let mut inner = self.turn(Duration::from_secs(60)).expect("somebody holds the head for a minute");
        let head = inner.head.as_mut().unwrap();
        assert_eq!(head.epoch, from);
        head.epoch = from.next();
    }
}
