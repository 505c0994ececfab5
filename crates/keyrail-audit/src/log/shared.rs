//! What the log's handles, its writer and its publisher share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyrail_core::fence::Epoch;
use parking_lot::{Condvar, Mutex};

use super::queue::{PublishAnswer, Queue, Waiting, Work};
use super::{Head, Limits, LogHealth};
use crate::body::{Hashes, Logged, Record, Records};
use crate::error::{AppendError, LogError};
use crate::sequencer::PUBLISH_RECORDS;

/// Which room of the queue a record takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// What all share.
    Usual,
    /// The same, for a record that waits for no others.
    AtOnce,
    /// What is kept beyond it; such a record waits for no others either.
    Reserved,
}

/// How many records more may wait if they are of the kind that must get through.
const RESERVED_LEN: usize = 1_024;

/// How many bytes more such records may have together.
const RESERVED_BYTES: usize = 16 * 1024 * 1024;

/// What handles and sequencer share. Lock order: queue before state.
pub(crate) struct Shared {
    limits: Limits,
    queue: Mutex<Queue>,
    /// Signalled when there is work and the sequencer waits for it.
    work: Condvar,
    /// Signalled when records wait to be published, or when no more will come.
    due: Condvar,
    pub(super) state: Mutex<State>,
    size: AtomicU64,
    /// The queue's epoch, for who looks without waiting.
    epoch: AtomicU64,
}

pub(super) struct State {
    /// Records that are durable: so many from the first one on.
    durable: u64,
    /// Records that are durable and not published, as they became durable; of the first some may be published already.
    unpublished: VecDeque<Arc<Unpublished>>,
    /// No more is published in the background.
    ended: bool,
    published: Head,
    /// Why records are not taken.
    append_failure: Option<String>,
    /// Why records do not become evidence.
    publish_failure: Option<String>,
    /// Why there is room for no records but those that keep safe.
    shortage: Option<String>,
    /// How many files were given up, and why the last one was.
    given_up: u64,
    given_up_why: Option<String>,
    /// Evidence that was there and is not.
    missing: Option<String>,
    /// That the disk lost some of the evidence: no later success makes up for it, only a start does.
    lost: Option<String>,
    /// Since when the disk is asked to make records durable.
    committing_since: Option<Instant>,
    closed: Option<Result<Head, LogError>>,
}

impl State {
    pub(super) fn unpublished_len(&self) -> usize {
        usize::try_from(self.durable.saturating_sub(self.published.size)).unwrap_or(usize::MAX)
    }
}

/// Records that became durable together.
pub(crate) struct Unpublished {
    /// The index of the first of them.
    first: u64,
    records: Records,
}

impl Unpublished {
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Those with an index of at least `first`.
    pub(crate) fn records_from(&self, first: u64) -> impl Iterator<Item = Logged<'_>> {
        let skip = usize::try_from(first.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.records.iter().skip(skip)
    }
}

impl Shared {
    /// For a log of which everything up to this head is published.
    pub(super) fn new(limits: Limits, published: Head) -> Self {
        Self {
            limits,
            queue: Mutex::new(Queue::new()),
            work: Condvar::new(),
            due: Condvar::new(),
            state: Mutex::new(State {
                durable: published.size,
                unpublished: VecDeque::new(),
                ended: false,
                published,
                append_failure: None,
                shortage: None,
                given_up: 0,
                given_up_why: None,
                publish_failure: None,
                missing: None,
                lost: None,
                committing_since: None,
                closed: None,
            }),
            size: AtomicU64::new(published.size),
            epoch: AtomicU64::new(0),
        }
    }

    pub(crate) fn append_wait_max(&self) -> Duration {
        self.limits.append_wait_max
    }

    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        self.queue.lock().len()
    }

    /// An epoch is never taken back: it may be raised from several sides.
    pub(crate) fn raise_epoch(&self, epoch: Epoch) {
        let mut queue = self.queue.lock();
        queue.epoch = queue.epoch.max(epoch);
        self.epoch.store(queue.epoch.0, Ordering::Release);
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(crate) fn published_head(&self) -> Head {
        self.state.lock().published
    }

    pub(super) fn health(&self) -> LogHealth {
        let (queue_len, state) = (self.queue.lock().len(), self.state.lock());
        let stuck = state.committing_since.map(|since| since.elapsed()).filter(|took| *took >= STUCK_AFTER);
        let stuck = stuck.map(|took| format!("the disk has not answered for {} seconds", took.as_secs()));
        let failures = [&state.append_failure, &state.shortage, &state.publish_failure, &state.missing, &state.lost];
        let failure = stuck.or_else(|| failures.into_iter().flatten().next().cloned());
        let unpublished_len = state.unpublished_len();
        LogHealth { failure, queue_len, unpublished_len, given_up: state.given_up, why: state.given_up_why.clone() }
    }

    pub(super) fn is_short(&self) -> bool {
        self.state.lock().shortage.is_some()
    }

    pub(super) fn request_look(&self) {
        self.queue.lock().look = true;
        self.work.notify_one();
    }

    pub(super) fn take_closed(&self) -> Result<Head, LogError> {
        self.state.lock().closed.take().unwrap_or(Err(LogError::Closed))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(super) fn push(&self, record: (&Record, Hashes), waiting: Waiting, place: Place) -> Result<(), AppendError> {
        let (len, bytes) = match place {
            Place::Usual | Place::AtOnce => (0, 0),
            Place::Reserved => (RESERVED_LEN, RESERVED_BYTES),
        };
        let mut queue = self.queue.lock();
        queue.push(record, waiting, self.limits.queue_len_max + len, self.limits.queue_bytes_max + bytes)?;
        if place != Place::Usual {
            queue.hurry();
        }
        // A writer that gathers is woken when there is enough, and not for each record on the way.
        let enough = queue.is_enough();
        drop(queue);
        if enough {
            self.work.notify_one();
        }
        Ok(())
    }

    /// A thread that makes records has nothing to do.
    pub(super) fn rest(&self) {
        if self.queue.lock().rest() {
            self.work.notify_one();
        }
    }

    pub(super) fn push_publish(&self, answer: PublishAnswer) -> Result<(), LogError> {
        self.queue.lock().push_publish(answer)?;
        self.work.notify_one();
        Ok(())
    }

    pub(super) fn request_close(&self) {
        self.queue.lock().closing = true;
        self.work.notify_one();
    }

    /// Waits for work. While nobody who makes records comes to rest, it lets records come together: a sync costs as much
    /// for one as for many, and takes its time from the requests.
    pub(crate) fn take_work(&self) -> Work {
        self.take_work_gathered(GATHER_MAX)
    }

    /// [`Self::take_work`], with how long records come together at most.
    fn take_work_gathered(&self, gather_max: Duration) -> Work {
        let mut queue = self.queue.lock();
        while !queue.has_work() {
            self.work.wait(&mut queue);
        }
        if queue.gathers() {
            let deadline = Instant::now() + gather_max;
            while !queue.is_enough() && !self.work.wait_until(&mut queue, deadline).timed_out() {}
            queue.gathered();
        }
        loop {
            match queue.next() {
                Some(work) => return work,
                None => self.work.wait(&mut queue),
            }
        }
    }

    /// Nobody takes work any more: who waits is told, and who comes is refused.
    pub(crate) fn end_work(&self) {
        let (waiting, publish) = self.queue.lock().end();
        // Dropped senders tell their receivers.
        drop(publish);
        waiting.into_iter().for_each(|waiting| waiting.answer(Err(AppendError::Unavailable)));
    }

    /// Refuses whoever waits and whoever comes, until [`Self::admit`]: what is not written soon should not wait.
    pub(crate) fn refuse(&self) {
        let (waiting, publish) = self.queue.lock().refuse();
        drop(publish);
        waiting.into_iter().for_each(|waiting| waiting.answer(Err(AppendError::Unavailable)));
    }

    /// Takes records in again.
    pub(crate) fn admit(&self) {
        self.queue.lock().refuses = false;
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.queue.lock().closing
    }

    /// Notes that the disk is asked to make records durable, or has answered.
    pub(crate) fn committing(&self, since: Option<Instant>) {
        self.state.lock().committing_since = since;
    }

    /// Takes durable records in.
    pub(crate) fn durable(&self, records: Records) {
        let mut state = self.state.lock();
        let (first, before) = (state.durable, state.unpublished_len());
        state.durable += records.len() as u64;
        state.unpublished.push_back(Arc::new(Unpublished { first, records }));
        self.size.store(state.durable, Ordering::Release);
        // The publisher waits for the first record, and then for enough of them.
        if before == 0 || (before < PUBLISH_RECORDS && state.unpublished_len() >= PUBLISH_RECORDS) {
            self.due.notify_one();
        }
    }

    /// Takes in how many records are durable in a log that others write, too; whether the first of them now waits to be
    /// published.
    pub(crate) fn grown_to(&self, size: u64) -> bool {
        let mut state = self.state.lock();
        let before = state.unpublished_len();
        state.durable = state.durable.max(size);
        self.size.store(state.durable, Ordering::Release);
        before == 0 && state.unpublished_len() > 0
    }

    /// Waits until enough records wait to be published, or one of them long enough; `false` when it is over.
    pub(crate) fn await_due(&self, interval: Duration) -> bool {
        let mut state = self.state.lock();
        while state.unpublished_len() == 0 && !state.ended {
            self.due.wait(&mut state);
        }
        let deadline = Instant::now() + interval;
        while state.unpublished_len() < PUBLISH_RECORDS && !state.ended {
            if self.due.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        !state.ended
    }

    /// Waits before another attempt; ends early when it is over.
    pub(crate) fn pause_publishing(&self, interval: Duration) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + interval;
        while !state.ended && !self.due.wait_until(&mut state, deadline).timed_out() {}
    }

    pub(crate) fn end_publishing(&self) {
        self.state.lock().ended = true;
        self.due.notify_all();
    }

    pub(crate) fn unpublished_len(&self) -> usize {
        self.state.lock().unpublished_len()
    }

    /// The durable records from `size` on, for the publisher, which may have taken some of them already; and their end.
    pub(crate) fn unpublished(&self, size: u64) -> (Vec<Arc<Unpublished>>, u64) {
        let state = self.state.lock();
        let later = state.unpublished.iter().filter(|unpublished| unpublished.end() > size).cloned();
        (later.collect(), state.durable)
    }

    /// Takes in what is published.
    pub(crate) fn published(&self, head: Head) {
        let mut state = self.state.lock();
        while state.unpublished.front().is_some_and(|unpublished| unpublished.end() <= head.size) {
            state.unpublished.pop_front();
        }
        if head.size >= state.published.size {
            state.published = head;
        }
    }

    pub(super) fn recent(&self, first: u64, count: usize) -> (u64, Vec<Record>) {
        let state = self.state.lock();
        let first = first.max(state.published.size);
        // Those before it are passed by the batch: each record of them would be a step under the lock.
        let later = state.unpublished.iter().filter(|unpublished| unpublished.end() > first);
        let records = later.flat_map(|unpublished| unpublished.records_from(first));
        (state.published.size, records.take(count).filter_map(|logged| logged.record()).collect())
    }

    /// Notes whether records can be made durable.
    pub(crate) fn note_append(&self, result: Result<(), &LogError>) {
        self.state.lock().append_failure = result.err().map(told);
    }

    /// Notes whether there is room for all records.
    pub(crate) fn note_room(&self, result: Result<(), &LogError>) {
        self.state.lock().shortage = result.err().map(told);
    }

    /// Notes whether the evidence that was looked for is there.
    pub(crate) fn note_missing(&self, error: Option<&LogError>) {
        self.state.lock().missing = error.map(told);
    }

    /// Notes that a file is not written any more, though it was not full.
    pub(crate) fn note_given_up(&self, error: &LogError) {
        let mut state = self.state.lock();
        state.given_up += 1;
        state.given_up_why = Some(told(error));
    }

    /// Notes whether records become evidence.
    pub(crate) fn note_publish(&self, result: Result<(), &LogError>) {
        self.state.lock().publish_failure = result.err().map(told);
    }

    /// Notes that the disk lost some of the evidence.
    pub(crate) fn note_lost(&self, error: &LogError) {
        self.state.lock().lost = Some(told(error));
    }

    pub(crate) fn closed(&self, result: Result<Head, LogError>) {
        self.state.lock().closed = Some(result);
    }
}

fn told(error: &LogError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// How long the writer lets records come together at most, while nobody who makes them comes to rest.
const GATHER_MAX: Duration = Duration::from_millis(1);

/// After this time without an answer of the disk the log is not healthy.
const STUCK_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
