//! The one writer of the log: takes what waits, makes it durable together, and publishes when there is time.

use std::sync::Arc;
use std::time::Duration;

use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::SigningSeed;
use parking_lot::Mutex;

use crate::error::{AppendError, LogError};
use crate::files::{self, failed};
use crate::journal::{FRAME_LEN_MAX, JournalFile};
use crate::log::{Epoch, Head, Position, Shared, Waiting, Work};
use crate::note::VerifierKey;
use crate::publish::Publisher;

/// Records are published when so many wait, even if more keep coming.
pub(crate) const PUBLISH_RECORDS: usize = 4096;

/// With so many records waiting, commits wait for the evidence: it bounds memory.
const UNPUBLISHED_MAX: usize = 64 * PUBLISH_RECORDS;

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mac: MacKey,
    /// What writes the evidence: this thread when it must, else the one beside it.
    pub(crate) publishing: Arc<Mutex<Publishing>>,
    /// `None` after an error: the file is closed for good, and the next append begins another.
    pub(crate) journal: Option<JournalFile>,
    /// Journal files that are needed until everything published from them is durable.
    pub(crate) former: Vec<std::path::PathBuf>,
    pub(crate) sequence: u64,
    pub(crate) publish_interval: Duration,
}

impl Sequencer {
    /// Works until the log is closed.
    pub(crate) fn run(mut self) {
        let publisher = self.start_publisher();
        loop {
            match self.shared.take_work() {
                Work::Append { batch, epoch } => self.commit(batch, epoch),
                Work::Publish(answers) => {
                    let published = self.publish();
                    answers.into_iter().for_each(|answer| {
                        // Nobody waits any more: nothing is lost by that.
                        let _gone = answer.send(published.as_ref().map(|head| *head).map_err(|_| ()));
                    });
                }
                Work::Close => break,
            }
            self.keep_up();
        }
        self.shared.end_publishing();
        if let Some(thread) = publisher {
            // It does not panic; if it did, what it left is published below.
            let _joined = thread.join();
        }
        let closed = self.close();
        self.shared.closed(closed);
    }

    /// Evidence is written beside the commits, which must not wait for it.
    fn start_publisher(&self) -> Option<std::thread::JoinHandle<()>> {
        let (shared, publishing, interval) = (self.shared.clone(), self.publishing.clone(), self.publish_interval);
        let work = move || {
            while shared.await_due(interval) {
                let published = publishing.lock().publish(&shared);
                if let Err(error) = published {
                    // Tried again after another interval: the records are safe in the journal meanwhile.
                    shared.failed(&error);
                    shared.pause_publishing(interval);
                }
            }
        };
        let spawned = std::thread::Builder::new().name("audit-publish".to_owned()).spawn(work);
        spawned
            .inspect_err(|source| {
                self.shared.failed(&failed("start the publisher of", self.shared.audit_dir())(source.kind().into()))
            })
            .ok()
    }

    fn commit(&mut self, batch: Vec<Waiting>, epoch: Epoch) {
        let (fresh, fenced): (Vec<_>, Vec<_>) = batch.into_iter().partition(|waiting| waiting.epoch >= epoch);
        fenced.into_iter().for_each(|waiting| waiting.answer(Err(AppendError::Fenced)));
        let mut rest = fresh;
        while !rest.is_empty() {
            let mut len = 0;
            let count = rest.iter().take_while(|waiting| {
                len += waiting.logged.record.encoded_len();
                len <= FRAME_LEN_MAX || len == waiting.logged.record.encoded_len()
            });
            let count = count.count();
            let later = rest.split_off(count);
            self.commit_frame(rest);
            rest = later;
        }
    }

    /// One frame, one sync, then the answers.
    fn commit_frame(&mut self, batch: Vec<Waiting>) {
        let first = self.shared.size();
        let mut payload = Vec::with_capacity(batch.iter().map(|waiting| waiting.logged.record.encoded_len()).sum());
        batch.iter().for_each(|waiting| waiting.logged.record.encode(&mut payload));
        if let Err(refusal) = self.write(first, &payload) {
            batch.into_iter().for_each(|waiting| waiting.answer(Err(refusal)));
            return;
        }
        let mut records = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        for waiting in batch {
            records.push(waiting.logged);
            answers.push(waiting.answer);
        }
        self.shared.durable(records);
        for (answer, index) in answers.into_iter().zip(first..) {
            // The appender may have been cancelled; its record stands all the same.
            let _gone = answer.send(Ok(Position { index }));
        }
    }

    fn write(&mut self, first: u64, payload: &[u8]) -> Result<(), AppendError> {
        if self.journal.is_none()
            && let Err(error) = self.begin_journal()
        {
            self.shared.failed(&error);
            return Err(AppendError::Unavailable);
        }
        let Some(journal) = &mut self.journal else { return Err(AppendError::Unavailable) };
        match journal.append(first, payload, &self.mac) {
            Ok(()) => {
                self.shared.recovered();
                Ok(())
            }
            Err(error) => {
                // After a failed sync nobody knows what is on the disk: the file is closed for good. What it
                // may hold beyond the acknowledged records is superseded by the next file's edge.
                self.shared.failed(&error);
                self.former.extend(self.journal.take().map(|journal| journal.path().to_owned()));
                Err(AppendError::Unavailable)
            }
        }
    }

    /// Begins another journal file. It starts from the published edge, so everything before must be published first.
    fn begin_journal(&mut self) -> Result<(), LogError> {
        self.publish()?;
        self.sequence += 1;
        let dir = self.shared.journal_dir();
        let edge = self.publishing.lock().publisher.edge().clone();
        self.journal = Some(JournalFile::create(dir, self.sequence, &edge, &self.mac)?);
        self.drop_former()
    }

    /// Makes what was published from former journal files durable, and removes them.
    fn drop_former(&mut self) -> Result<(), LogError> {
        if self.former.is_empty() {
            return Ok(());
        }
        files::sync_file_system(self.shared.audit_dir())?;
        for path in std::mem::take(&mut self.former) {
            files::remove(&path)?;
        }
        Ok(())
    }

    /// Bounds what waits to be published, and the journal.
    fn keep_up(&mut self) {
        if self.shared.unpublished_len() >= UNPUBLISHED_MAX
            && let Err(error) = self.publish()
        {
            self.shared.failed(&error);
        }
        if self.journal.as_ref().is_some_and(JournalFile::is_full) {
            self.rotate_journal();
        }
    }

    fn rotate_journal(&mut self) {
        let former = self.journal.take().map(|journal| journal.path().to_owned());
        self.former.extend(former);
        if let Err(error) = self.begin_journal() {
            self.shared.failed(&error);
        }
    }

    fn publish(&mut self) -> Result<Head, LogError> {
        self.publishing.lock().publish(&self.shared)
    }

    fn close(&mut self) -> Result<Head, LogError> {
        let head = self.publish()?;
        files::sync_file_system(self.shared.audit_dir())?;
        if let Some(journal) = &mut self.journal {
            journal.mark_clean(head.size, &self.mac)?;
        }
        for path in std::mem::take(&mut self.former) {
            files::remove(&path)?;
        }
        Ok(head)
    }
}

/// Turns durable records into evidence.
pub(crate) struct Publishing {
    pub(crate) publisher: Publisher,
    pub(crate) seed: SigningSeed,
    pub(crate) key: VerifierKey,
}

impl Publishing {
    fn publish(&mut self, shared: &Shared) -> Result<Head, LogError> {
        let records = shared.unpublished(self.publisher.edge().size());
        self.publisher.add(&records)?;
        self.publisher.checkpoint(&self.seed, &self.key)?;
        let head = Head { size: self.publisher.edge().size(), root: self.publisher.edge().root() };
        shared.published(head);
        Ok(head)
    }
}
