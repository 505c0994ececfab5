//! What waits for the log's writer.

use std::collections::VecDeque;

use keyrail_core::fence::{Epoch, may_append};
use tokio::sync::oneshot;

use super::{Head, Position};
use crate::body::{Hashes, Record, Records};
use crate::error::{AppendError, LogError};
use crate::journal::Room;

/// Who waits for a record to become durable.
pub(crate) struct Waiting {
    pub(crate) epoch: Epoch,
    /// Which room its record may take.
    pub(crate) room: Room,
    pub(crate) answer: oneshot::Sender<Result<Position, AppendError>>,
}

impl Waiting {
    pub(crate) fn answer(self, result: Result<Position, AppendError>) {
        // The appender may have been cancelled.
        let _gone = self.answer.send(result);
    }
}

pub(crate) type PublishAnswer = oneshot::Sender<Result<Head, ()>>;

/// What the sequencer does next.
pub(crate) enum Work {
    /// To append records, each with who waits for it.
    Append {
        records: Records,
        waiting: Vec<Waiting>,
        epoch: Epoch,
    },
    Publish(Vec<PublishAnswer>),
    /// To look whether what was written is still there, and whether there is room for more.
    Look,
    Close,
}

pub(super) struct Queue {
    /// The records that wait, and who waits for each.
    records: Records,
    waiting: Vec<Waiting>,
    /// Records that ever waited, and those that were taken from here.
    pushed: u64,
    taken: u64,
    /// Who waits for everything to be published that was appended before, each with [`Queue::pushed`] of then.
    publish: VecDeque<(u64, PublishAnswer)>,
    pub(super) epoch: Epoch,
    pub(super) closing: bool,
    /// Whether somebody wants the writer to look.
    pub(super) look: bool,
    /// Whether nothing is taken in for now.
    pub(super) refuses: bool,
    /// How many must wait for the writer to be woken.
    wanted: usize,
    /// Whether threads that make records tell when they have nothing to do. Else nobody knows whether more will come.
    tells: bool,
    /// Whether one of them had nothing to do since the last record came.
    rests: bool,
    /// Whether a record waits that waits for no others.
    at_once: bool,
}

/// With so many records waiting, more of them would make a sync hardly cheaper for each.
pub(super) const GATHERED_LEN: usize = 128;

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            records: Records::default(),
            waiting: Vec::new(),
            pushed: 0,
            taken: 0,
            publish: VecDeque::new(),
            epoch: Epoch(0),
            closing: false,
            look: false,
            refuses: false,
            wanted: 1,
            tells: false,
            rests: false,
            at_once: false,
        }
    }

    /// Whether there is anything to do.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.publish.is_empty() || self.closing || self.look
    }

    /// Whether more records should come together before they are taken: as long as nobody who makes them has come to rest
    /// since the last one. If so, the writer is not woken before there are enough, or by what ends its waiting.
    pub(super) fn gathers(&mut self) -> bool {
        let gathers = self.tells && !self.rests && !self.at_once && !self.closing && self.publish.is_empty();
        self.wanted = if gathers { GATHERED_LEN } else { 1 };
        gathers
    }

    /// The writer waits for nothing but the next record.
    pub(super) fn gathered(&mut self) {
        self.wanted = 1;
    }

    /// Whether nothing more should come together. Who wants everything to be published, or the end, waits for nobody.
    pub(super) fn is_enough(&self) -> bool {
        self.waiting.len() >= self.wanted || self.closing || !self.publish.is_empty()
    }

    /// A thread that makes records has nothing to do: there is time for a sync. Answers whether the writer waits for more
    /// than there is.
    pub(super) fn rest(&mut self) -> bool {
        (self.tells, self.rests) = (true, true);
        self.ends_waiting()
    }

    /// What waits, waits for no others.
    pub(super) fn hurry(&mut self) {
        self.at_once = true;
        self.ends_waiting();
    }

    fn ends_waiting(&mut self) -> bool {
        let ends = self.wanted > 1 && !self.waiting.is_empty();
        if ends {
            self.wanted = 1;
        }
        ends
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(
        &mut self,
        (record, hashes): (&Record, Hashes),
        waiting: Waiting,
        len_max: usize,
        bytes_max: usize,
    ) -> Result<(), AppendError> {
        if self.closing || self.refuses {
            return Err(AppendError::Unavailable);
        }
        if !may_append(waiting.epoch, self.epoch) {
            return Err(AppendError::Fenced);
        }
        let bytes = self.records.bytes().len() + record.encoded_len();
        if self.waiting.len() >= len_max || bytes > bytes_max {
            return Err(AppendError::QueueFull);
        }
        self.records.push(record, hashes);
        self.waiting.push(waiting);
        self.rests = false;
        self.pushed += 1;
        Ok(())
    }

    pub(super) fn push_publish(&mut self, answer: PublishAnswer) -> Result<(), LogError> {
        if self.closing || self.refuses {
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
            self.taken = self.pushed;
            self.at_once = false;
            let next = Records::like(&self.records);
            let records = std::mem::replace(&mut self.records, next);
            return Some(Work::Append { records, waiting: std::mem::take(&mut self.waiting), epoch: self.epoch });
        }
        if std::mem::take(&mut self.look) {
            return Some(Work::Look);
        }
        self.closing.then_some(Work::Close)
    }

    /// Nothing more is taken in; gives who waited.
    pub(super) fn end(&mut self) -> (Vec<Waiting>, VecDeque<(u64, PublishAnswer)>) {
        self.closing = true;
        self.clear()
    }

    /// Nothing is taken in until further notice; gives who waited.
    pub(super) fn refuse(&mut self) -> (Vec<Waiting>, VecDeque<(u64, PublishAnswer)>) {
        self.refuses = true;
        self.clear()
    }

    fn clear(&mut self) -> (Vec<Waiting>, VecDeque<(u64, PublishAnswer)>) {
        self.records = Records::default();
        self.taken = self.pushed;
        (std::mem::take(&mut self.waiting), std::mem::take(&mut self.publish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut Queue, count: usize) {
        let record = Record { salt: [0; 16], body: vec![b'x'; 100] };
        for _ in 0..count {
            let (answer, _receiver) = oneshot::channel();
            let waiting = Waiting { epoch: Epoch(0), room: Room::Usual, answer };
            queue.push((&record, Hashes::of(&record)), waiting, usize::MAX, usize::MAX).unwrap();
        }
    }

    fn taken(queue: &mut Queue) -> usize {
        match queue.next() {
            Some(Work::Append { records, waiting, .. }) => {
                assert_eq!(records.len(), waiting.len());
                waiting.len()
            }
            _ => panic!("no records"),
        }
    }

    #[test]
    fn records_are_gathered_while_all_work() {
        let mut queue = Queue::new();
        // Where nobody tells that he rests, nobody knows of more.
        assert!(!queue.gathers() && !queue.is_enough() && !queue.has_work());
        push(&mut queue, 1);
        assert!(queue.is_enough() && queue.has_work());
        assert_eq!(taken(&mut queue), 1);
        assert!(!queue.rest() && !queue.gathers());
        push(&mut queue, 1);
        assert!(queue.gathers() && !queue.is_enough());
        assert!(queue.rest() && queue.is_enough() && !queue.gathers());
        push(&mut queue, GATHERED_LEN - 2);
        assert!(queue.gathers() && !queue.is_enough());
        push(&mut queue, 1);
        assert!(queue.is_enough());
        // Its time over, the writer takes what there is.
        queue.gathered();
        assert_eq!(taken(&mut queue), GATHERED_LEN);
        // Nobody gathers for who waits for everything to be published, or for the end.
        let (answer, _receiver) = oneshot::channel();
        queue.push_publish(answer).unwrap();
        assert!(!queue.gathers());
        assert!(matches!(queue.next(), Some(Work::Publish(_))));
        // Nor if they come while it gathers.
        assert!(queue.gathers() && !queue.is_enough());
        let (answer, _receiver) = oneshot::channel();
        queue.push_publish(answer).unwrap();
        assert!(queue.is_enough());
        assert!(matches!(queue.next(), Some(Work::Publish(_))));
        assert!(queue.gathers() && !queue.is_enough());
        queue.closing = true;
        assert!(!queue.gathers() && queue.is_enough());
    }
}
