//! What waits for the log's writer.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Epoch, Head, Position};
use crate::error::{AppendError, LogError};
use crate::publish::Logged;

/// A record that waits to become durable.
pub(crate) struct Waiting {
    pub(crate) logged: Logged,
    pub(crate) epoch: Epoch,
    pub(crate) answer: oneshot::Sender<Result<Position, AppendError>>,
}

impl Waiting {
    pub(crate) fn answer(self, result: Result<Position, AppendError>) {
        // The appender may have been cancelled.
        let _gone = self.answer.send(result);
    }
}

pub(super) type PublishAnswer = oneshot::Sender<Result<Head, ()>>;

/// What the sequencer does next.
pub(crate) enum Work {
    Append { batch: Vec<Waiting>, epoch: Epoch },
    Publish(Vec<PublishAnswer>),
    Close,
}

pub(super) struct Queue {
    waiting: Vec<Waiting>,
    /// Bytes of the records that wait.
    bytes: usize,
    /// Records that ever waited, and those that were taken from here.
    pushed: u64,
    taken: u64,
    /// Who waits for everything to be published that was appended before, each with [`Queue::pushed`] of then.
    publish: VecDeque<(u64, PublishAnswer)>,
    pub(super) epoch: Epoch,
    pub(super) closing: bool,
    /// How many records were taken together the last time.
    last_batch: usize,
    /// How many must wait for the writer to be woken.
    wanted: usize,
}

/// With so many records in one batch, the next one is gathered: fewer callers than that would wait for nobody.
const BUSY_BATCH_LEN: usize = 8;

/// With so many records waiting, more of them would make a sync hardly cheaper for each.
const GATHERED_LEN: usize = 64;

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            bytes: 0,
            pushed: 0,
            taken: 0,
            publish: VecDeque::new(),
            epoch: Epoch(0),
            closing: false,
            last_batch: 0,
            wanted: 1,
        }
    }

    /// Whether more records should come together before they are taken; if so, the writer is not woken before there are
    /// enough, or by what ends its waiting.
    pub(super) fn gathers(&mut self) -> bool {
        let gathers = self.last_batch >= BUSY_BATCH_LEN && !self.closing && self.publish.is_empty();
        self.wanted = if gathers { GATHERED_LEN } else { 1 };
        gathers
    }

    /// The writer waits for nothing but the next record.
    pub(super) fn gathered(&mut self) {
        self.wanted = 1;
    }

    pub(super) fn is_enough(&self) -> bool {
        self.waiting.len() >= self.wanted
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, waiting: Waiting, len_max: usize, bytes_max: usize) -> Result<(), AppendError> {
        if self.closing {
            return Err(AppendError::Unavailable);
        }
        if waiting.epoch < self.epoch {
            return Err(AppendError::Fenced);
        }
        let bytes = self.bytes + waiting.logged.record.encoded_len();
        if self.waiting.len() >= len_max || bytes > bytes_max {
            return Err(AppendError::QueueFull);
        }
        self.bytes = bytes;
        self.waiting.push(waiting);
        self.pushed += 1;
        Ok(())
    }

    pub(super) fn push_publish(&mut self, answer: PublishAnswer) -> Result<(), LogError> {
        if self.closing {
            return Err(LogError::Closed);
        }
        self.publish.push_back((self.pushed, answer));
        Ok(())
    }

    /// What to do now. The epoch is read together with the batch: that is what makes an append conditional on it.
    pub(super) fn next(&mut self) -> Option<Work> {
        let ready = self.publish.iter().take_while(|(pushed, _)| *pushed <= self.taken).count();
        if ready > 0 {
            return Some(Work::Publish(self.publish.drain(..ready).map(|(_, answer)| answer).collect()));
        }
        if !self.waiting.is_empty() {
            self.bytes = 0;
            self.taken = self.pushed;
            self.last_batch = self.waiting.len();
            return Some(Work::Append { batch: std::mem::take(&mut self.waiting), epoch: self.epoch });
        }
        self.closing.then_some(Work::Close)
    }

    /// Nothing more is taken in; gives what waited.
    pub(super) fn end(&mut self) -> (Vec<Waiting>, VecDeque<(u64, PublishAnswer)>) {
        self.closing = true;
        (std::mem::take(&mut self.waiting), std::mem::take(&mut self.publish))
    }
}
