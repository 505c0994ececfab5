//! Beside the writer of a log in a database: signs and publishes heads, and reads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::SigningSeed;

use crate::body::Record;
use crate::database::{LogStore, Turn, read_records};
use crate::error::LogError;
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
}

impl Steward {
    /// Works until it is told that this is the end.
    pub(crate) fn run(mut self, asks: &Receiver<Ask>) {
        let mut due: Option<Instant> = None;
        loop {
            let ask = match due {
                Some(due) => asks.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match ask {
                Ok(Ask::Due) => due = due.or(Some(Instant::now() + self.publish_interval)),
                Ok(Ask::Publish(answers)) => {
                    let published = self.publish();
                    answers.into_iter().for_each(|answer| {
                        // Nobody waits any more: nothing is lost by that.
                        let _gone = answer.send(published.as_ref().map(|head| *head).map_err(|_| ()));
                    });
                }
                Ok(Ask::Read(first, count, answer)) => drop(answer.send(self.read(first, count))),
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
                Err(RecvTimeoutError::Timeout) => {
                    // What failed is tried again after another interval.
                    let again = self.publish().is_err() || self.shared.unpublished_len() > 0;
                    due = again.then(|| Instant::now() + self.publish_interval);
                }
            }
        }
    }

    fn publish(&mut self) -> Result<Head, LogError> {
        let published = self.try_publish();
        self.shared.note_publish(published.as_ref().map(drop));
        published
    }

    /// Signs the head as it stands, which is durable; one that another node signed later stays.
    fn try_publish(&mut self) -> Result<Head, LogError> {
        let known = self.shared.size();
        let stored = self.store.head(Turn::Look).map_err(LogError::database("read"))?.checked(&self.mac)?;
        let head = stored.head();
        if head.size < known {
            return Err(LogError::Older { found: head.size, remembered: known });
        }
        let checkpoint = Checkpoint { origin: self.key.name().to_owned(), size: head.size, root: head.root };
        let note = checkpoint.sign(&self.seed, &self.key)?;
        self.store.publish(head.size, &note).map_err(LogError::database("publish"))?;
        self.shared.raise_epoch(stored.epoch);
        self.shared.grown_to(head.size);
        self.shared.published(head);
        Ok(head)
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        let records = read_records(self.store.as_mut(), first, count, &self.mac)?;
        if records.is_empty() && count > 0 && first < self.shared.size() {
            return Err(LogError::RecordsMissing { first });
        }
        Ok(records)
    }
}
