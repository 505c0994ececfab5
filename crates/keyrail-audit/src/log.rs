//! The log as its users see it: append, read, publish, close.

pub(crate) mod queue;
pub(crate) mod replay;
pub(crate) mod rows;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use keyrail_core::fence::Epoch;
use keyrail_core::id::RequestId;
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::random;
use keyrail_crypto::secret::SigningSeed;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::body::{BODY_LEN_MAX, Hashes, Record};
use crate::enclosed::{Enclosed, Fencing};
use crate::error::{AppendError, LogError};
use crate::files::{self, FileSystem, failed};
use crate::journal::{self, JOURNAL_LEN_MAX, JournalFile, Room};
use crate::log::queue::Waiting;
use crate::log::replay::Replay;
use crate::log::shared::Place;
pub(crate) use crate::log::shared::Shared;
use crate::note::VerifierKey;
use crate::patrol::Patrol;
use crate::proof::{Tiles, is_consistent};
use crate::publish::{Publisher, RightEdge};
use crate::reader::Reader;
use crate::sequencer::{Publishing, Sequencer};
use crate::steward::Ask;
use crate::tree::Hash;

/// Where the log lies and how it behaves.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The evidence.
    pub audit_dir: PathBuf,
    /// The journal, on the same file system.
    pub journal_dir: PathBuf,
    /// The log's name; stands in every checkpoint.
    pub origin: String,
    /// What may wait, and how long.
    pub limits: Limits,
    /// A journal file is followed by a new one when it has grown by so many bytes beyond the edge that it begins with.
    pub journal_len_max: u64,
    /// The head that the store remembers: a log that is older or another one is not opened, and left as it is.
    pub remembered: Option<Head>,
    /// What anchors remember: a log that does not come through these heads is not opened, and left as it is.
    pub anchored: Vec<KnownElsewhere>,
}

/// What may wait in the log, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many records may wait to become durable.
    pub queue_len_max: usize,
    /// How many bytes of records may wait to become durable.
    pub queue_bytes_max: usize,
    /// How long a durable record may wait to be published.
    pub publish_interval: Duration,
    /// How long an appender waits for the disk or the database. After that the record's fate is open.
    pub append_wait_max: Duration,
}

impl Default for Limits {
    /// The usual ones.
    fn default() -> Self {
        Self {
            queue_len_max: 65_536,
            queue_bytes_max: 64 * 1024 * 1024,
            publish_interval: Duration::from_millis(250),
            append_wait_max: Duration::from_secs(30),
        }
    }
}

impl LogOptions {
    /// The usual limits.
    pub fn new(audit_dir: PathBuf, journal_dir: PathBuf, origin: String) -> Self {
        Self {
            audit_dir,
            journal_dir,
            origin,
            limits: Limits::default(),
            journal_len_max: JOURNAL_LEN_MAX,
            remembered: None,
            anchored: Vec::new(),
        }
    }
}

/// What the log signs and guards with.
pub struct Keys {
    /// Seed of the key that signs checkpoints.
    pub seed: SigningSeed,
    /// Guards the journal.
    pub journal: MacKey,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    /// Its index, from 0.
    pub index: u64,
}

/// A head of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Records in the log.
    pub size: u64,
    /// Root hash of the tree of that size.
    pub root: Hash,
}

/// A head that an anchor remembers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownElsewhere {
    /// The head.
    pub head: Head,
    /// Where the anchor is, in words for people.
    pub place: String,
}

/// Reads the signed head of a log in a database, without keeping the log open.
#[derive(Clone)]
pub struct NoteReader {
    asks: Sender<Ask>,
    limit: Duration,
}

impl NoteReader {
    /// The signed head.
    ///
    /// # Errors
    /// [`LogError::Database`], [`LogError::NoAnswer`]; [`LogError::Closed`] once the log is closed.
    pub fn read(&self) -> Result<String, LogError> {
        rows::ask(&self.asks, self.limit, Ask::Checkpoint)
    }
}

/// Looks at what is published, without keeping the log open.
#[derive(Clone)]
pub struct HeadWatch(Arc<Shared>);

impl HeadWatch {
    /// The published head: what the files under `D/audit` say.
    pub fn published(&self) -> Head {
        self.0.published_head()
    }
}

/// What opening had to do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recovered {
    /// Records that were durable and not published before.
    pub published: u64,
    /// Bytes of a frame that was not finished and never acknowledged.
    pub torn_len: u64,
    /// Whether the log was closed properly before.
    pub clean: bool,
}

/// How the log is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogHealth {
    /// What keeps it from taking or publishing records, if something does.
    pub failure: Option<String>,
    /// Records that wait to become durable.
    pub queue_len: usize,
    /// Records that are durable and not published.
    pub unpublished_len: usize,
    /// How many files were given up and followed by others, because a write to them failed or somebody else changed them.
    pub given_up: u64,
    /// Why the last of them was.
    pub why: Option<String>,
}

/// The log. A cheap handle; the last one closes it.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    key: VerifierKey,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    evidence: Evidence,
}

/// Where records are read from.
enum Evidence {
    /// The files in this directory, as far as they are published.
    Files(PathBuf),
    /// A database, by way of who is asked here.
    Rows(Sender<Ask>, Arc<MacKey>),
}

impl Log {
    /// Makes an empty log.
    ///
    /// # Errors
    /// [`LogError::Exists`], [`LogError::File`].
    pub fn create(options: &LogOptions, keys: &Keys) -> Result<VerifierKey, LogError> {
        let key = verifier_key(&options.origin, &keys.seed)?;
        files::make_dir(&options.audit_dir)?;
        files::make_dir(&options.journal_dir)?;
        if !journal::list(&options.journal_dir)?.is_empty() {
            return Err(LogError::Exists { path: options.journal_dir.clone() });
        }
        let edge = RightEdge::default();
        let mut publisher = Publisher::new(options.audit_dir.clone(), &options.journal_dir, edge.clone());
        publisher.checkpoint(&keys.seed, &key)?;
        let mut file = JournalFile::create(&options.journal_dir, 1, &edge, &keys.journal)?;
        FileSystem::of(&options.audit_dir)?.sync()?;
        file.mark_clean(0, &keys.journal)?;
        Ok(key)
    }

    /// Opens the log: what is durable and not published yet is published, what was never acknowledged is cut off.
    ///
    /// # Errors
    /// [`LogError::JournalAltered`]; [`LogError::Mismatch`] when the evidence is not the journal's;
    /// [`LogError::Older`] and [`LogError::Fork`] against what is remembered; [`LogError::BehindAnchor`] and
    /// [`LogError::AnchorFork`] against what anchors remember; [`LogError::File`]. What such a log holds is left as it is,
    /// but for a head that an anchor remembers from before the journal's beginning: that is proved from the files, and so
    /// once they are whole.
    pub fn open(options: LogOptions, keys: Keys) -> Result<(Self, Recovered), LogError> {
        let key = verifier_key(&options.origin, &keys.seed)?;
        let file_system = FileSystem::of(&options.audit_dir)?;
        let mut replay = Replay::read(&options.journal_dir, Some(&keys.journal))?;
        let recovered = replay.recovered();
        replay.require_consistent(&options, &key)?;
        let mut publisher = Publisher::new(options.audit_dir.clone(), &options.journal_dir, replay.edge.clone());
        if recovered.clean {
            publisher.resume(&replay.records);
        } else {
            // Who was killed between a write and its sync left a frame that reads whole and that a power cut still
            // takes away: nothing may be signed, shown or remembered before it is durable.
            files::sync_file(&replay.path)?;
            files::sync_dir(&options.journal_dir)?;
            publisher.forget_partials();
            publisher.add(replay.records.iter())?;
            publisher.checkpoint(&keys.seed, &key)?;
            publisher.sweep_stale()?;
        }
        let published = Head { size: publisher.edge().size(), root: publisher.edge().root() };
        require_extension(&options, &published)?;
        journal::forget_begun(&options.journal_dir);
        let journal = JournalFile::resume(&replay.path, &replay.last)?;
        let shared = Arc::new(Shared::new(options.limits, published));
        let publishing = Publishing { publisher, seed: keys.seed, key: key.clone(), patrol: Patrol::default() };
        let sequencer = Sequencer {
            shared: shared.clone(),
            mac: keys.journal,
            publishing: Arc::new(Mutex::new(publishing)),
            journal: Some(journal),
            former: std::mem::take(&mut replay.former),
            sequence: replay.sequence,
            audit_dir: options.audit_dir.clone(),
            journal_dir: options.journal_dir.clone(),
            publish_interval: options.limits.publish_interval,
            journal_len_max: options.journal_len_max,
            file_system,
            lost_writes: false,
        };
        let spawned = std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || sequencer.run());
        let thread = Mutex::new(Some(spawned.map_err(failed("start the writer of", &options.journal_dir))?));
        let evidence = Evidence::Files(options.audit_dir);
        Ok((Self(Arc::new(Handle { shared, key, thread, evidence })), recovered))
    }

    /// The log's public key.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.0.key
    }

    /// Appends a record; resolves once it is durable.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when the epoch is older than the log's: then nothing was recorded.
    pub async fn append(&self, body: Vec<u8>, epoch: Epoch) -> Result<Position, AppendError> {
        self.durable(body, epoch, Place::Usual).await
    }

    /// [`Log::append`] without waiting for records that could come together with this one: for who calls from a thread that
    /// does not tell when it rests.
    ///
    /// # Errors
    /// Those of [`Log::append`].
    pub async fn append_at_once(&self, body: Vec<u8>, epoch: Epoch) -> Result<Position, AppendError> {
        self.durable(body, epoch, Place::AtOnce).await
    }

    /// [`Log::append`] into room that is kept: for records of what must not be held up by a flood of others, such as a
    /// revocation or an alarm.
    ///
    /// # Errors
    /// Those of [`Log::append`].
    pub async fn append_reserved(&self, body: Vec<u8>, epoch: Epoch) -> Result<Position, AppendError> {
        self.durable(body, epoch, Place::Reserved).await
    }

    async fn durable(&self, body: Vec<u8>, epoch: Epoch, place: Place) -> Result<Position, AppendError> {
        let receiver = self.enqueue(body, epoch, place)?;
        let answer = tokio::time::timeout(self.0.shared.append_wait_max(), receiver).await;
        answer.ok().and_then(Result::ok).unwrap_or(Err(AppendError::Indeterminate))
    }

    /// [`Log::append_at_once`] for threads outside the async runtime.
    ///
    /// # Errors
    /// Those of [`Log::append`].
    pub fn append_blocking(&self, body: Vec<u8>, epoch: Epoch) -> Result<Position, AppendError> {
        self.enqueue(body, epoch, Place::AtOnce)?.blocking_recv().unwrap_or(Err(AppendError::Indeterminate))
    }

    fn enqueue(
        &self,
        body: Vec<u8>,
        epoch: Epoch,
        place: Place,
    ) -> Result<oneshot::Receiver<Result<Position, AppendError>>, AppendError> {
        if body.len() > BODY_LEN_MAX {
            return Err(AppendError::TooLong { max: BODY_LEN_MAX });
        }
        let salt = random::pooled().map_err(|_| AppendError::Unavailable)?;
        let record = Record { salt, body };
        let hashes = Hashes::of(&record);
        let (answer, receiver) = oneshot::channel();
        let room = if place == Place::Reserved { Room::Reserve } else { Room::Usual };
        self.0.shared.push((&record, hashes), Waiting { epoch, room, answer }, place)?;
        Ok(receiver)
    }

    /// A record that becomes durable in the transaction of the change that it tells of, where the log is in a database;
    /// `None` where it is in files.
    ///
    /// # Errors
    /// [`AppendError::TooLong`]; [`AppendError::Unavailable`] without random numbers.
    pub fn enclose(
        &self,
        body: Vec<u8>,
        request: RequestId,
        fencing: Fencing,
    ) -> Result<Option<Enclosed>, AppendError> {
        let Evidence::Rows(asks, mac) = &self.0.evidence else { return Ok(None) };
        let log = Some((self.0.shared.clone(), asks.clone()));
        Enclosed::new(body, request, fencing, mac.clone(), log).map(Some)
    }

    /// Tells that a thread that makes records has nothing to do: what waits is written now, and not when more has come
    /// together.
    pub fn rest(&self) {
        self.0.shared.rest();
    }

    /// Lets the writer look whether what it wrote is still there, and whether there is room for more; [`Log::health`] tells
    /// what it saw.
    pub fn look(&self) {
        self.0.shared.request_look();
    }

    /// Whether there is room for no records but those of [`Log::append_reserved`]: what would make others should not be
    /// begun.
    pub fn is_short(&self) -> bool {
        self.0.shared.is_short()
    }

    /// From the moment this returns no append under an older epoch is accepted any more, and whatever is
    /// appended afterwards stands behind every record of an older one. What was being written at that moment
    /// still becomes durable, before any later record does.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.0.shared.raise_epoch(epoch);
    }

    /// The newest epoch that is known. In a log that several nodes keep another one may have raised it.
    pub fn epoch(&self) -> Epoch {
        self.0.shared.epoch()
    }

    /// The signed head that is published.
    ///
    /// # Errors
    /// [`LogError::File`]; [`LogError::Database`], [`LogError::NoAnswer`].
    pub fn checkpoint(&self) -> Result<String, LogError> {
        match &self.0.evidence {
            Evidence::Files(dir) => {
                let path = dir.join("checkpoint");
                std::fs::read_to_string(&path).map_err(failed("read", &path))
            }
            Evidence::Rows(asks, _) => rows::ask(asks, self.0.shared.append_wait_max(), Ask::Checkpoint),
        }
    }

    /// Whether it is in a database, where other nodes may write it, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.0.evidence, Evidence::Rows(..))
    }

    /// What reads the signed head of a log in a database; none for one in files.
    pub fn note_reader(&self) -> Option<NoteReader> {
        let Evidence::Rows(asks, _) = &self.0.evidence else { return None };
        Some(NoteReader { asks: asks.clone(), limit: self.0.shared.append_wait_max() })
    }

    /// The durable size: everything acknowledged is in it.
    pub fn size(&self) -> u64 {
        self.0.shared.size()
    }

    /// The durable size as it is now, whoever wrote: [`Log::size`] may lag behind other nodes. Waits for the database on the
    /// thread that asks.
    ///
    /// # Errors
    /// [`LogError::Database`], [`LogError::NoAnswer`], [`LogError::HeadAltered`], [`LogError::Older`].
    pub fn size_now(&self) -> Result<u64, LogError> {
        match &self.0.evidence {
            Evidence::Files(_) => Ok(self.size()),
            Evidence::Rows(asks, _) => rows::ask(asks, self.0.shared.append_wait_max(), Ask::Size),
        }
    }

    /// The published head: what the files under `D/audit` say.
    pub fn published(&self) -> Head {
        self.0.shared.published_head()
    }

    /// Looks at what is published from now on.
    pub fn watch(&self) -> HeadWatch {
        HeadWatch(self.0.shared.clone())
    }

    /// Publishes everything that is durable.
    ///
    /// # Errors
    /// [`LogError::Closed`] when it cannot be published; [`Log::health`] says why.
    pub async fn publish(&self) -> Result<Head, LogError> {
        let (answer, receiver) = oneshot::channel();
        self.0.shared.push_publish(answer)?;
        let answer = tokio::time::timeout(self.0.shared.append_wait_max(), receiver).await;
        answer.ok().and_then(Result::ok).and_then(Result::ok).ok_or(LogError::Closed)
    }

    /// Records from `first` on, at most `count`, published or not; from a database fewer come if they are long. Waits for the
    /// disk or the database on the thread that asks.
    ///
    /// # Errors
    /// [`LogError::File`]; [`LogError::Database`], [`LogError::NoAnswer`], [`LogError::RecordsAltered`],
    /// [`LogError::RecordsMissing`].
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
        let audit_dir = match &self.0.evidence {
            Evidence::Files(dir) => dir,
            Evidence::Rows(asks, _) => {
                let limit = self.0.shared.append_wait_max();
                return rows::ask(asks, limit, |answer| Ask::Read(first, count, answer));
            }
        };
        let (published, recent) = self.0.shared.recent(first, count);
        let mut records = Vec::new();
        if first < published {
            let reader = Reader::at(audit_dir, published);
            records = reader.read(first, count.min(usize::try_from(published - first).unwrap_or(count)))?;
        }
        records.extend(recent.into_iter().take(count.saturating_sub(records.len())));
        Ok(records)
    }

    /// How the log is.
    pub fn health(&self) -> LogHealth {
        self.0.shared.health()
    }

    /// Publishes everything, makes it durable and ends the writer. Later appends are refused.
    ///
    /// # Errors
    /// [`LogError`] when something could not be published; it is still safe in the journal.
    pub fn close(&self) -> Result<Head, LogError> {
        self.0.shared.request_close();
        if let Some(thread) = self.0.thread.lock().take() {
            // The writer does not panic; if it did, the missing result below says so.
            let _joined = thread.join();
        }
        self.0.shared.take_closed()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.request_close();
        if let Some(thread) = self.thread.get_mut().take() {
            let _joined = thread.join();
        }
    }
}

/// Whether the log comes through what anchors remember.
fn require_extension(options: &LogOptions, published: &Head) -> Result<(), LogError> {
    for KnownElsewhere { head, place } in &options.anchored {
        let proof = Tiles::new(&options.audit_dir, published.size).consistency(head.size)?;
        if !is_consistent(head, published, &proof) {
            return Err(LogError::AnchorFork { size: head.size, place: place.clone() });
        }
    }
    Ok(())
}

fn verifier_key(origin: &str, seed: &SigningSeed) -> Result<VerifierKey, LogError> {
    VerifierKey::new(origin, seed.public_key()?).map_err(LogError::Checkpoint)
}

#[cfg(test)]
mod tests;
