//! The one writer of the log: takes what waits, makes it durable together, and publishes when there is time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::SigningSeed;

use crate::error::{AppendError, LogError};
use crate::files;
use crate::journal::{FRAME_LEN_MAX, JournalFile};
use crate::log::{Epoch, Head, Position, Shared, Waiting, Work};
use crate::note::VerifierKey;
use crate::publish::Publisher;

/// Records are published when so many wait, even if more keep coming.
const PUBLISH_RECORDS: usize = 4096;

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) seed: SigningSeed,
    pub(crate) key: VerifierKey,
    pub(crate) mac: MacKey,
    pub(crate) publisher: Publisher,
    /// `None` after an error: the file is closed for good, and the next append begins another.
    pub(crate) journal: Option<JournalFile>,
    /// Journal files that are needed until everything published from them is durable.
    pub(crate) former: Vec<std::path::PathBuf>,
    pub(crate) sequence: u64,
    pub(crate) publish_interval: Duration,
    pub(crate) oldest_unpublished: Option<Instant>,
}

impl Sequencer {
    /// Works until the log is closed.
    pub(crate) fn run(mut self) {
        loop {
            let wait = self.oldest_unpublished.map(|since| self.publish_interval.saturating_sub(since.elapsed()));
            match self.shared.take_work(wait) {
                Work::Append { batch, epoch } => self.commit(batch, epoch),
                Work::Publish(answers) => {
                    let published = self.publish();
                    answers.into_iter().for_each(|answer| {
                        // Nobody waits any more: nothing is lost by that.
                        let _gone = answer.send(published.as_ref().map(|head| *head).map_err(|_| ()));
                    });
                }
                Work::Idle => {}
                Work::Close => break,
            }
            self.publish_if_due();
        }
        let closed = self.close();
        self.shared.closed(closed);
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
        self.oldest_unpublished.get_or_insert_with(Instant::now);
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
        self.journal = Some(JournalFile::create(dir, self.sequence, self.publisher.edge(), &self.mac)?);
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

    fn publish_if_due(&mut self) {
        let due = self.oldest_unpublished.is_some_and(|since| since.elapsed() >= self.publish_interval);
        if due || self.shared.unpublished_len() >= PUBLISH_RECORDS {
            match self.publish() {
                Ok(_) => {}
                Err(error) => {
                    self.shared.failed(&error);
                    // Tried again after another interval: the records are safe in the journal meanwhile.
                    self.oldest_unpublished = Some(Instant::now());
                }
            }
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
        let records = self.shared.unpublished(self.publisher.edge().size());
        self.publisher.add(&records)?;
        self.publisher.checkpoint(&self.seed, &self.key)?;
        self.oldest_unpublished = None;
        let head = Head { size: self.publisher.edge().size(), root: self.publisher.edge().root() };
        self.shared.published(head);
        Ok(head)
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
