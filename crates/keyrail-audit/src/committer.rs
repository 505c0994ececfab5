//! The writer of a log that several nodes keep in one database: takes what waits and appends it under the head.

use std::sync::Arc;
use std::sync::mpsc::{Sender, sync_channel};
use std::time::{Duration, Instant};

use keyrail_core::fence::{Epoch, may_append};
use keyrail_core::id::NodeId;
use keyrail_crypto::mac::MacKey;

use crate::body::Records;
use crate::database::{Appended, Batch, LogStore, StoredHead, Turn};
use crate::error::{AppendError, LogError, LogStoreError};
use crate::journal::FRAME_LEN_MAX;
use crate::log::queue::{Waiting, Work};
use crate::log::{Head, Position, Shared};
use crate::steward::Ask;

/// So long records wait for a database that does not take them. Then it is given up for them, and whoever
/// comes is refused until it takes records again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait at first before the database is asked again after it failed, in milliseconds.
const RETRY_MILLIS_MIN: u64 = 20;

/// How long to wait at most, in milliseconds.
const RETRY_MILLIS_MAX: u64 = 500;

pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Box<dyn LogStore>,
    pub(crate) mac: Arc<MacKey>,
    pub(crate) node: NodeId,
    /// Number of the last batch.
    pub(crate) number: u64,
    /// The head as it was last seen; `None` if it must be read.
    pub(crate) head: Option<StoredHead>,
    /// Who publishes.
    pub(crate) steward: Sender<Ask>,
    pub(crate) patience: Duration,
}

/// Records on their way into the log.
struct Piece {
    records: Records,
    waiting: Vec<Waiting>,
    number: u64,
    since: Instant,
    fate: Fate,
}

/// What is known of a piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It is not stored, and nothing that was sent is still on its way.
    NotStored,
    /// It may be stored, or become so.
    Open,
    /// It is settled, and nobody waits for it any more.
    Settled,
}

/// Ends the queue however the writer ends, so that nobody waits for one that is gone.
struct Ending(Arc<Shared>, Sender<Ask>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end_work();
        // It is gone if it does not listen.
        let _gone = self.1.send(Ask::End);
    }
}

impl Committer {
    /// Works until the log is closed.
    pub(crate) fn run(mut self) {
        let _ending = Ending(self.shared.clone(), self.steward.clone());
        loop {
            match self.shared.take_work() {
                Work::Append { records, waiting, .. } => self.commit(records, waiting),
                Work::Publish(answers) => self.ask(Ask::Publish(answers)),
                // The database looks after its own.
                Work::Look => {}
                Work::Close => break,
            }
        }
        let (ended, end) = sync_channel(1);
        self.ask(Ask::Close(ended));
        // What was not published by then is published by the next node.
        let _in_time = end.recv_timeout(self.shared.append_wait_max());
    }

    fn ask(&self, ask: Ask) {
        // Who waits for a steward that is gone is told by the answer that is dropped.
        let _gone = self.steward.send(ask);
    }

    fn commit(&mut self, records: Records, mut waiting: Vec<Waiting>) {
        // Those that were taken together have one patience together, in however many pieces they are written.
        let since = Instant::now();
        for records in records.in_pieces(FRAME_LEN_MAX) {
            let later = waiting.split_off(records.len().min(waiting.len()));
            self.number += 1;
            let piece = Piece { records, waiting, number: self.number, since, fate: Fate::NotStored };
            self.commit_piece(piece);
            waiting = later;
        }
    }

    /// Appends a piece, through lost races and failures, for as long as somebody waits for it; and then until it is settled
    /// and the database answers.
    fn commit_piece(&mut self, mut piece: Piece) {
        let mut turn = Turn::Look;
        let mut retry = RETRY_MILLIS_MIN;
        let mut refuses = false;
        loop {
            self.shared.committing(Some(piece.since));
            let done = self.attempt(&mut piece, turn);
            if turn == Turn::Take {
                // It may be held for nothing: everybody was refused, or something else than the append failed.
                self.store.release();
            }
            match done {
                Ok(true) => break,
                // Somebody else was first: the next time it is held.
                Ok(false) => turn = Turn::Take,
                Err(error) => {
                    self.head = None;
                    self.shared.note_append(Err(&error));
                    if piece.since.elapsed() >= self.patience {
                        self.give_up(&mut piece);
                        self.shared.refuse();
                        refuses = true;
                    }
                    if self.shared.is_closing() && piece.waiting.is_empty() {
                        self.shared.committing(None);
                        return;
                    }
                    std::thread::park_timeout(Duration::from_millis(retry));
                    retry = (retry * 2).min(RETRY_MILLIS_MAX);
                }
            }
        }
        self.shared.committing(None);
        self.shared.note_append(Ok(()));
        if refuses {
            self.shared.admit();
        }
    }

    /// Who waits for what is not stored is told so. Who waits for what may be stored goes on waiting, until his time is
    /// over.
    fn give_up(&self, piece: &mut Piece) {
        let refusal = match piece.fate {
            Fate::Open if piece.since.elapsed() < self.shared.append_wait_max() => return,
            Fate::Open => AppendError::Indeterminate,
            Fate::NotStored | Fate::Settled => AppendError::Unavailable,
        };
        std::mem::take(&mut piece.waiting).into_iter().for_each(|waiting| waiting.answer(Err(refusal)));
    }

    /// One try; `true` when there is nothing left to do, `false` when it is worth another one at once.
    fn attempt(&mut self, piece: &mut Piece, turn: Turn) -> Result<bool, LogError> {
        if piece.fate == Fate::Open && self.settle(piece)? {
            return Ok(true);
        }
        let head = match self.head.take().filter(|head| turn == Turn::Look && piece.is_for(head.epoch)) {
            Some(head) => head,
            None => self.read_head(turn)?,
        };
        piece.refuse_older(head.epoch);
        piece.refuse_newer(head.epoch)?;
        if piece.waiting.is_empty() {
            self.head = Some(head).filter(|_| turn == Turn::Look);
            return Ok(true);
        }
        let (next, batch) = head.with(&piece.records, (self.node, piece.number), &self.mac);
        match self.store.append(&head, &batch, &next) {
            Ok(Appended::Stored) => {
                self.stored(piece, head.peaks.size());
                self.head = Some(next);
                Ok(true)
            }
            Ok(Appended::Moved) => Ok(false),
            Err(error) => {
                match error {
                    LogStoreError::Unknown(_) => piece.fate = Fate::Open,
                    LogStoreError::Occupied => self.renumber(piece),
                    _ => {}
                }
                Err(LogError::database("write")(error))
            }
        }
    }

    /// Finds out what became of a piece. Nothing that was sent for it can come any more once the fence was moved.
    fn settle(&mut self, piece: &mut Piece) -> Result<bool, LogError> {
        let failed = || LogError::database("settle what was written to");
        let known = self.shared.size();
        let head = self.store.fence().map_err(failed())?.checked(&self.mac)?;
        self.seen(&head, known)?;
        let found = self.store.find(self.node, piece.number).map_err(failed())?;
        match found {
            Some(batch) => {
                self.require_ours(piece, &batch, &head)?;
                self.stored(piece, batch.first);
            }
            None => piece.fate = Fate::NotStored,
        }
        self.head = Some(head);
        Ok(piece.waiting.is_empty())
    }

    /// What is found under a piece's number must be the piece, within the head: whoever can write to the database can put
    /// any row there.
    fn require_ours(&self, piece: &Piece, batch: &Batch<'_>, head: &StoredHead) -> Result<(), LogError> {
        batch.checked(&self.mac)?;
        let Head { size, root } = head.head();
        let is_last = batch.end() == size;
        let is_within = batch.end() <= size && (!is_last || batch.root == root);
        if is_within && *batch.records == *piece.records.bytes() {
            Ok(())
        } else {
            Err(LogError::RecordsAltered { first: batch.first, count: batch.count })
        }
    }

    /// A row that nobody of this log wrote may have the number that comes next.
    fn renumber(&mut self, piece: &mut Piece) {
        self.number += 1;
        piece.number = self.number;
    }

    fn stored(&self, piece: &mut Piece, first: u64) {
        piece.fate = Fate::Settled;
        self.shared.note_append(Ok(()));
        self.shared.admit();
        if self.shared.grown_to(first + piece.records.len() as u64) {
            self.ask(Ask::Due);
        }
        for (waiting, index) in std::mem::take(&mut piece.waiting).into_iter().zip(first..) {
            // The appender may have been cancelled; its record stands all the same.
            waiting.answer(Ok(Position { index }));
        }
    }

    fn read_head(&mut self, turn: Turn) -> Result<StoredHead, LogError> {
        let known = self.shared.size();
        let head = self.store.head(turn).map_err(LogError::database("read"))?.checked(&self.mac)?;
        self.seen(&head, known)?;
        Ok(head)
    }

    /// Takes in what the head says. One that is behind what was known before is of a database that was taken back.
    fn seen(&self, head: &StoredHead, remembered: u64) -> Result<(), LogError> {
        let found = head.peaks.size();
        if found < remembered {
            return Err(LogError::Older { found, remembered });
        }
        self.shared.raise_epoch(head.epoch);
        Ok(())
    }
}

impl Piece {
    /// Whether no record of it was decided under a newer epoch than this one.
    fn is_for(&self, epoch: Epoch) -> bool {
        self.waiting.iter().all(|waiting| waiting.epoch <= epoch)
    }

    /// What was decided under an older epoch gets no record.
    fn refuse_older(&mut self, epoch: Epoch) {
        let is_fresh = |waiting: &Waiting| may_append(waiting.epoch, epoch);
        if self.waiting.iter().all(is_fresh) {
            return;
        }
        self.records = self.records.filter(|index| self.waiting.get(index).is_some_and(is_fresh));
        let (fresh, fenced): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(is_fresh);
        fenced.into_iter().for_each(|waiting| waiting.answer(Err(AppendError::Fenced)));
        self.waiting = fresh;
    }

    /// An epoch that the database does not know of was forgotten by it.
    fn refuse_newer(&self, epoch: Epoch) -> Result<(), LogError> {
        match self.waiting.iter().map(|waiting| waiting.epoch).max().filter(|newest| *newest > epoch) {
            Some(newest) => Err(LogError::EpochOlder { found: epoch, known: newest }),
            None => Ok(()),
        }
    }
}
