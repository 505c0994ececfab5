//! Beside the writer of a log in a database: signs and publishes heads, and reads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::SigningSeed;

use crate::body::Record;
use crate::database::{LogStore, StoredHead, Turn, read_records};
use crate::error::{LogError, LogStoreError};
use crate::log::queue::PublishAnswer;
use crate::log::{Head, Shared};
use crate::note::{Checkpoint, VerifierKey};

/// What the steward is asked for.
pub(crate) enum Ask {
    /// Records wait to be published.
    Due,
    /// Everything that is durable is published.
    Publish(Vec<PublishAnswer>),
    /// Records from the first number on, as many as the second says at most.
    Read(u64, usize, Answer<Vec<Record>>),
    /// How many records there are.
    Size(Answer<u64>),
    /// The signed head.
    Checkpoint(Answer<String>),
    /// Everything is published, and that is told as the end of the log.
    Close(SyncSender<()>),
    /// The end.
    End,
}

/// Where an answer goes. Who asked waits for it on a thread, with a limit.
pub(crate) type Answer<T> = SyncSender<Result<T, LogError>>;

pub(crate) struct Steward {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Box<dyn LogStore>,
    pub(crate) mac: Arc<MacKey>,
    pub(crate) seed: SigningSeed,
    pub(crate) key: VerifierKey,
    pub(crate) publish_interval: Duration,
    /// The signed head as this node stored it last, and of how many records it is; `None` if it must be read.
    pub(crate) note: Option<(u64, String)>,
    /// Whether it publishes.
    pub(crate) writes: bool,
}

/// So often a signed head that others replace meanwhile is read again.
const PUBLISH_TRIES: usize = 16;

impl Steward {
    /// Works until it is told that this is the end.
    pub(crate) fn run(mut self, asks: &Receiver<Ask>) {
        let mut due: Option<Instant> = None;
        loop {
            // What is due comes before what is asked: whoever reads all the time does not put it off.
            if due.is_some_and(|due| due <= Instant::now()) {
                let failed = self.publish().is_err();
                due = self.next_due(failed);
            }
            let ask = match due {
                Some(due) => asks.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match ask {
                Ok(Ask::Due) => due = due.or(Some(Instant::now() + self.publish_interval)),
                Ok(Ask::Publish(answers)) => {
                    let published = self.publish();
                    due = due.or_else(|| self.next_due(published.is_err()));
                    answers.into_iter().for_each(|answer| {
                        // Nobody waits any more: nothing is lost by that.
                        let _gone = answer.send(published.as_ref().map(|head| *head).map_err(|_| ()));
                    });
                }
                Ok(Ask::Read(first, count, answer)) => drop(answer.send(self.read(first, count))),
                Ok(Ask::Size(answer)) => {
                    drop(answer.send(self.head().map(|head| head.peaks.size())));
                    // What others wrote is published by them, or by who notices it.
                    let unpublished = self.writes && self.shared.unpublished_len() > 0;
                    due = due.or_else(|| unpublished.then(|| Instant::now() + self.publish_interval));
                }
                Ok(Ask::Checkpoint(answer)) => {
                    drop(answer.send(self.store.checkpoint().map_err(LogError::database("read"))));
                }
                Ok(Ask::Close(ended)) => {
                    let closed = self.publish();
                    self.shared.closed(closed);
                    // Nobody listens if it took too long.
                    let _gone = ended.send(());
                }
                Ok(Ask::End) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// When to publish after this: what failed, and what came meanwhile, after another interval.
    fn next_due(&self, failed: bool) -> Option<Instant> {
        let again = failed || self.shared.unpublished_len() > 0;
        again.then(|| Instant::now() + self.publish_interval)
    }

    fn publish(&mut self) -> Result<Head, LogError> {
        let published = self.try_publish();
        self.shared.note_publish(published.as_ref().map(drop));
        published
    }

    /// The head as it stands, which is taken in.
    fn head(&mut self) -> Result<StoredHead, LogError> {
        let known = self.shared.size();
        let stored = self.store.head(Turn::Look).map_err(LogError::database("read"))?.checked(&self.mac)?;
        let found = stored.peaks.size();
        if found < known {
            return Err(LogError::Older { found, remembered: known });
        }
        self.shared.raise_epoch(stored.epoch);
        self.shared.grown_to(found);
        Ok(stored)
    }

    /// Signs the head as it stands, which is durable; one that another node signed later stays.
    fn try_publish(&mut self) -> Result<Head, LogError> {
        let head = self.head()?.head();
        let checkpoint = Checkpoint { origin: self.key.name().to_owned(), size: head.size, root: head.root };
        let note = checkpoint.sign(&self.seed, &self.key)?;
        self.store_note(head.size, &note)?;
        self.shared.published(head);
        Ok(head)
    }

    /// Stores a signed head in place of an older one. A newer one is stored again as it is: then it was waited for here,
    /// too, until it was durable.
    fn store_note(&mut self, size: u64, note: &str) -> Result<(), LogError> {
        for _ in 0..PUBLISH_TRIES {
            let former = match self.note.take() {
                Some(former) => former,
                None => self.read_note()?,
            };
            let (size, note) = if former.0 > size { (former.0, former.1.as_str()) } else { (size, note) };
            if self.store.publish(&former.1, size, note).map_err(LogError::database("publish"))? {
                self.note = Some((size, note.to_owned()));
                return Ok(());
            }
        }
        let source = LogStoreError::Failed("the signed head does not stay as it is read".into());
        Err(LogError::Database { action: "publish", source })
    }

    /// The signed head, which is none from before the one that was published last.
    fn read_note(&mut self) -> Result<(u64, String), LogError> {
        let remembered = self.shared.published_head().size;
        let note = self.store.checkpoint().map_err(LogError::database("read"))?;
        let found = Checkpoint::verify(&note, &self.key).map_err(LogError::Checkpoint)?.size;
        if found < remembered { Err(LogError::NoteOlder { found, remembered }) } else { Ok((found, note)) }
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        let records = read_records(self.store.as_mut(), first, count, &self.mac)?;
        if records.is_empty() && count > 0 && first < self.shared.size() {
            return Err(LogError::RecordsMissing { first });
        }
        Ok(records)
    }
}
