//! The one writer of the log: takes what waits, makes it durable together, and publishes when there is time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyrail_core::fence::{Epoch, may_append};
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::SigningSeed;
use parking_lot::Mutex;

use crate::body::Records;
use crate::error::{AppendError, LogError};
use crate::files::{self, FileSystem, failed};
use crate::journal::{FRAME_LEN_MAX, JournalFile, Room};
use crate::log::queue::{Waiting, Work};
use crate::log::{Head, Position, Shared};
use crate::note::VerifierKey;
use crate::patrol::{Patrol, missing_partial};
use crate::publish::Publisher;
use crate::tree::TILE_WIDTH;

/// Records are published when so many wait, even if more keep coming.
pub(crate) const PUBLISH_RECORDS: usize = 16_384;

/// With so many records waiting, commits wait for the evidence: it bounds memory.
const UNPUBLISHED_MAX: usize = 16 * PUBLISH_RECORDS;

/// When more bundles than this became full, what is left over waits for the next publication: the partial files that
/// each one makes and the next removes cost as much as all others of a few bundles.
const BUNDLES_WITHOUT_REST: usize = 4;

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) audit_dir: PathBuf,
    pub(crate) journal_dir: PathBuf,
    pub(crate) mac: MacKey,
    /// What writes the evidence: this thread when it must, else the one beside it.
    pub(crate) publishing: Arc<Mutex<Publishing>>,
    /// `None` after an error: the file is closed for good, and the next append begins another.
    pub(crate) journal: Option<JournalFile>,
    /// Journal files that are needed until everything published from them is durable.
    pub(crate) former: Vec<PathBuf>,
    pub(crate) sequence: u64,
    pub(crate) publish_interval: Duration,
    pub(crate) journal_len_max: u64,
    /// Opened before the first write, so that no failed one is missed.
    pub(crate) file_system: FileSystem,
    /// Whether a sync of the evidence failed. What was lost then is not lost again by a later sync that works, so
    /// every journal file is kept until a start has written the evidence anew from them.
    pub(crate) lost_writes: bool,
}

/// Ends the queue however the writer ends, so that nobody waits for one that is gone.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end_work();
    }
}

impl Sequencer {
    /// Works until the log is closed.
    pub(crate) fn run(mut self) {
        let _ending = Ending(self.shared.clone());
        let publisher = self.start_publisher();
        loop {
            match self.shared.take_work() {
                Work::Append { records, waiting, epoch } => self.commit(records, waiting, epoch),
                Work::Publish(answers) => {
                    let published = self.publish();
                    answers.into_iter().for_each(|answer| {
                        // Nobody waits any more: nothing is lost by that.
                        let _gone = answer.send(published.as_ref().map(|head| *head).map_err(|_| ()));
                    });
                }
                Work::Look => self.look(),
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
                let published = publishing.lock().publish(&shared, Part::FullBundles);
                if published.is_err() {
                    // Tried again after another interval: the records are safe in the journal meanwhile.
                    shared.pause_publishing(interval);
                }
            }
        };
        let spawned = std::thread::Builder::new().name("audit-publish".to_owned()).spawn(work);
        spawned
            .inspect_err(|source| {
                let error = failed("start the publisher of", &self.audit_dir)(source.kind().into());
                self.shared.note_publish(Err(&error));
            })
            .ok()
    }

    fn commit(&mut self, mut records: Records, mut waiting: Vec<Waiting>, epoch: Epoch) {
        let is_fresh = |waiting: &Waiting| may_append(waiting.epoch, epoch);
        if !waiting.iter().all(is_fresh) {
            records = records.filter(|index| waiting.get(index).is_some_and(is_fresh));
            let (fresh, fenced): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_fresh);
            fenced.into_iter().for_each(|waiting| waiting.answer(Err(AppendError::Fenced)));
            waiting = fresh;
        }
        for frame in records.in_pieces(FRAME_LEN_MAX) {
            let later = waiting.split_off(frame.len().min(waiting.len()));
            self.commit_frame(frame, waiting);
            waiting = later;
        }
    }

    /// One frame, one sync, then the answers.
    fn commit_frame(&mut self, records: Records, waiting: Vec<Waiting>) {
        let first = self.shared.size();
        self.shared.committing(Some(Instant::now()));
        let (records, waiting) = self.with_room(records, waiting);
        let written = if waiting.is_empty() { Ok(()) } else { self.write(first, records.bytes()) };
        self.shared.committing(None);
        if waiting.is_empty() {
            return;
        }
        if let Err(refusal) = written {
            waiting.into_iter().for_each(|waiting| waiting.answer(Err(refusal)));
            return;
        }
        self.shared.durable(records);
        for (waiting, index) in waiting.into_iter().zip(first..) {
            // The appender may have been cancelled; its record stands all the same.
            waiting.answer(Ok(Position { index }));
        }
    }

    /// Those for which there is room on the disk; who waits for others is refused.
    fn with_room(&mut self, records: Records, waiting: Vec<Waiting>) -> (Records, Vec<Waiting>) {
        let all = self.make_room(records.bytes().len(), Room::Usual);
        self.shared.note_room(all.as_ref().map(drop));
        if all.is_ok() {
            return (records, waiting);
        }
        let is_kept = |waiting: &Waiting| waiting.room == Room::Reserve;
        let records = records.filter(|index| waiting.get(index).is_some_and(is_kept));
        let fit = self.make_room(records.bytes().len(), Room::Reserve).is_ok();
        let (kept, refused): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| fit && is_kept(waiting));
        refused.into_iter().for_each(|waiting| waiting.answer(Err(AppendError::Unavailable)));
        (records, kept)
    }

    /// Without a journal file there is none to look at: to begin one fails or not.
    fn make_room(&mut self, len: usize, room: Room) -> Result<(), LogError> {
        if room == Room::Usual {
            self.rotate_if_full()?;
        }
        self.journal.as_mut().map_or(Ok(()), |journal| journal.make_room(len, room))
    }

    /// Looks at what nobody writes to just now.
    fn look(&mut self) {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.require_in_place()
        {
            // Nobody waits for it. Should it fail, the next record tries again.
            let _told = self.give_up(&error);
        }
        let room = self.make_room(0, Room::Usual);
        self.shared.note_room(room.as_ref().map(drop));
        // Whoever publishes just now may wait for the disk: records do not wait for that.
        if let Some(mut publishing) = self.publishing.try_lock() {
            publishing.look(&self.shared, &self.audit_dir);
        }
    }

    /// Closes the file for good and begins another.
    fn give_up(&mut self, error: &LogError) -> Result<(), LogError> {
        self.former.extend(self.journal.take().map(|journal| journal.path().to_owned()));
        let begun = self.begin_journal();
        self.shared.note_append(begun.as_ref().map(drop));
        // Told last: who sees it finds the next file.
        self.shared.note_given_up(error);
        begun
    }

    fn write(&mut self, first: u64, payload: &[u8]) -> Result<(), AppendError> {
        if self.journal.is_none()
            && let Err(error) = self.begin_journal()
        {
            self.shared.note_append(Err(&error));
            return Err(AppendError::Unavailable);
        }
        let Some(journal) = &mut self.journal else { return Err(AppendError::Unavailable) };
        let appended = journal.append(first, payload, &self.mac);
        // After a failed sync nobody knows what is on the disk: the file is closed for good. What it may hold
        // beyond the acknowledged records is superseded by the next file's edge, and open until that is durable.
        match appended {
            Ok(()) => {
                self.shared.note_append(Ok(()));
                Ok(())
            }
            Err(error) if self.give_up(&error).is_ok() => Err(AppendError::Unavailable),
            Err(_) => Err(AppendError::Indeterminate),
        }
    }

    /// Begins another journal file. It starts from the published edge, so everything before must be published first.
    fn begin_journal(&mut self) -> Result<(), LogError> {
        self.publish()?;
        self.sequence += 1;
        let dir = &self.journal_dir;
        let edge = self.publishing.lock().publisher.edge().clone();
        match JournalFile::create(dir, self.sequence, &edge, &self.mac) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => {
                // It may be there, whole, and nothing is ever written to it.
                self.former.push(JournalFile::path_in(dir, self.sequence));
                return Err(error);
            }
        }
        self.drop_former_or_keep();
        Ok(())
    }

    fn drop_former_or_keep(&mut self) {
        if let Err(error) = self.drop_former() {
            // They are only kept longer than they must.
            self.shared.note_publish(Err(&error));
        }
    }

    /// Makes what was published from former journal files durable, and removes them.
    fn drop_former(&mut self) -> Result<(), LogError> {
        if self.former.is_empty() {
            return Ok(());
        }
        self.sync_evidence()?;
        while let Some(path) = self.former.first() {
            files::remove(path)?;
            self.former.remove(0);
        }
        Ok(())
    }

    fn sync_evidence(&mut self) -> Result<(), LogError> {
        let lost = LogError::LostWrites { path: self.audit_dir.clone() };
        if self.lost_writes {
            return Err(lost);
        }
        self.file_system.sync().inspect_err(|_| {
            self.lost_writes = true;
            self.shared.note_lost(&lost);
        })
    }

    /// Bounds what waits to be published, and the journal.
    fn keep_up(&mut self) {
        if self.shared.unpublished_len() >= UNPUBLISHED_MAX {
            // The publisher tells what failed. The journal's limit bounds what waits meanwhile: a new file begins
            // only once everything before it is published.
            let _tried_again_later = self.publish();
        }
        let rotated = self.rotate_if_full();
        if rotated.is_err() {
            self.shared.note_room(rotated.as_ref().map(drop));
        }
    }

    /// A full file that cannot be followed by another yet is good for what must get through.
    fn rotate_if_full(&mut self) -> Result<(), LogError> {
        let Some(full) = self.journal.take_if(|journal| journal.grown_len() >= self.journal_len_max) else {
            return Ok(());
        };
        let path = full.path().to_owned();
        if let Err(error) = self.begin_journal() {
            // Unless the next file may be there: a start would take that one for the newest.
            let next = JournalFile::path_in(&self.journal_dir, self.sequence);
            if next == path || files::is_absent(&next) {
                self.journal = Some(full);
            } else {
                self.former.push(path);
            }
            return Err(error);
        }
        self.former.push(path);
        self.drop_former_or_keep();
        Ok(())
    }

    fn publish(&mut self) -> Result<Head, LogError> {
        self.publishing.lock().publish(&self.shared, Part::All)
    }

    fn close(&mut self) -> Result<Head, LogError> {
        let head = self.publish()?;
        if self.journal.is_none() {
            // Without a journal nothing would tell where the log ends.
            self.begin_journal()?;
        }
        self.sync_evidence()?;
        self.drop_former()?;
        if let Some(journal) = &mut self.journal {
            journal.mark_clean(head.size, &self.mac)?;
        }
        Ok(head)
    }
}

/// What of the durable records is published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// All of them.
    All,
    /// Those that fill bundles, if they fill several; else all.
    FullBundles,
}

/// Turns durable records into evidence.
pub(crate) struct Publishing {
    pub(crate) publisher: Publisher,
    pub(crate) seed: SigningSeed,
    pub(crate) key: VerifierKey,
    pub(crate) patrol: Patrol,
}

impl Publishing {
    /// Looks whether what is published is still there. What the edge tells is written again; the rest is told.
    fn look(&mut self, shared: &Shared, audit_dir: &Path) {
        let size = self.publisher.edge().size();
        if shared.published_head().size != size {
            return;
        }
        let gone = |path| LogError::NotInPlace { path };
        let missing = self.patrol.look(audit_dir, size).map(gone);
        shared.note_missing(missing.as_ref());
        let partial = missing_partial(audit_dir, size);
        if partial.is_some() {
            self.publisher.forget_partials();
        }
        if partial.is_none() && self.publisher.is_placed() {
            return;
        }
        if self.publish(shared, Part::All).is_ok()
            && let Some(path) = partial
        {
            shared.note_given_up(&gone(path));
        }
    }

    fn publish(&mut self, shared: &Shared, part: Part) -> Result<Head, LogError> {
        let published = self.try_publish(shared, part);
        shared.note_publish(published.as_ref().map(drop));
        published
    }

    fn try_publish(&mut self, shared: &Shared, part: Part) -> Result<Head, LogError> {
        let size = self.publisher.edge().size();
        let taken_away = shared.published_head().size == size && !self.publisher.is_placed();
        let (unpublished, end) = shared.unpublished(size);
        let full = end - end % TILE_WIDTH as u64;
        let whole = part == Part::FullBundles && full.saturating_sub(size) > (BUNDLES_WITHOUT_REST * TILE_WIDTH) as u64;
        let until = if whole { full } else { end };
        let records = unpublished.iter().flat_map(|unpublished| unpublished.records_from(size));
        self.publisher.add(records.take(usize::try_from(until - size).unwrap_or(usize::MAX)))?;
        self.publisher.checkpoint(&self.seed, &self.key)?;
        let head = Head { size: self.publisher.edge().size(), root: self.publisher.edge().root() };
        shared.published(head);
        if taken_away {
            shared.note_given_up(&LogError::NotInPlace { path: self.publisher.checkpoint_path() });
        }
        Ok(head)
    }
}
