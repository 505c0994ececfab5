//! The seam to a database in which several writers keep one log: what it stores, and what guards that.
//!
//! A [`LogStore`] knows rows and conditions, and nothing of hashes and keys. One row is the head; a row for each group
//! commit has the records. An append is conditional on the head, so that every writer builds on what the others wrote.

use std::borrow::Cow;

use keyrail_core::fence::Epoch;
use keyrail_core::id::NodeId;
use keyrail_crypto::mac::{MacKey, TAG_LEN};

use crate::body::{Record, Records, parse_records};
use crate::error::{LogError, LogStoreError};
use crate::log::Head;
use crate::peaks::Peaks;
use crate::tree::Hash;

/// The head row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredHead {
    /// The tree over all records.
    pub peaks: Peaks,
    /// Guards `peaks`.
    pub tag: [u8; TAG_LEN],
    /// The shared epoch: an append that was decided under another one is refused.
    pub epoch: Epoch,
    /// Moved on by who must be sure that no append that was sent before can come any more.
    pub fence: u64,
}

impl StoredHead {
    /// The head of a log without records.
    pub fn empty(key: &MacKey) -> Self {
        Self::of(Peaks::default(), Epoch(0), 0, key)
    }

    fn of(peaks: Peaks, epoch: Epoch, fence: u64, key: &MacKey) -> Self {
        let tag = with_head_parts(&peaks, |parts| key.tag(parts));
        Self { peaks, tag, epoch, fence }
    }

    /// Size and root.
    pub fn head(&self) -> Head {
        Head { size: self.peaks.size(), root: self.peaks.root() }
    }

    /// The head after these records, and the batch that makes it so.
    pub(crate) fn with<'a>(&self, records: &'a Records, writer: (NodeId, u64), key: &MacKey) -> (Self, Batch<'a>) {
        let mut peaks = self.peaks.clone();
        records.iter().for_each(|logged| peaks.push(logged.hashes.leaf));
        let next = Self::of(peaks, self.epoch, self.fence, key);
        let mut batch = Batch {
            first: self.peaks.size(),
            count: records.len() as u64,
            epoch: self.epoch,
            node: writer.0,
            number: writer.1,
            root: next.peaks.root(),
            records: Cow::Borrowed(records.bytes()),
            tag: [0; TAG_LEN],
        };
        batch.tag = batch.with_parts(|parts| key.tag(parts));
        (next, batch)
    }

    /// The head, if a writer of this log made it.
    ///
    /// # Errors
    /// [`LogError::HeadAltered`].
    pub(crate) fn checked(self, key: &MacKey) -> Result<Self, LogError> {
        if with_head_parts(&self.peaks, |parts| key.verify(parts, &self.tag)) {
            Ok(self)
        } else {
            Err(LogError::HeadAltered)
        }
    }
}

fn with_head_parts<T>(peaks: &Peaks, finish: impl FnOnce(&[&[u8]]) -> T) -> T {
    finish(&[HEAD_DOMAIN, &peaks.size().to_be_bytes(), &peaks.hashes().concat()])
}

/// Records that became durable together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch<'a> {
    /// Index of the first record.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// The shared epoch under which they were appended.
    pub epoch: Epoch,
    /// Who wrote them: a random id of each opening of the log.
    pub node: NodeId,
    /// The writer's number for this batch: with it the writer finds out what became of it.
    pub number: u64,
    /// Root hash of the tree with these records.
    pub root: Hash,
    /// The records as in a body file, one behind the other.
    pub records: Cow<'a, [u8]>,
    /// Guards all of the above.
    pub tag: [u8; TAG_LEN],
}

impl Batch<'_> {
    /// One more than the index of the last record.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// The records, if a writer of this log wrote the batch as it is.
    ///
    /// # Errors
    /// [`LogError::RecordsAltered`].
    pub(crate) fn checked(&self, key: &MacKey) -> Result<Vec<Record>, LogError> {
        let whole = self.with_parts(|parts| key.verify(parts, &self.tag));
        let records = parse_records(&self.records, usize::MAX).filter(|records| records.len() as u64 == self.count);
        records
            .filter(|_| whole && self.count > 0)
            .ok_or(LogError::RecordsAltered { first: self.first, count: self.count })
    }

    fn with_parts<T>(&self, finish: impl FnOnce(&[&[u8]]) -> T) -> T {
        finish(&[
            BATCH_DOMAIN,
            &self.first.to_be_bytes(),
            &self.count.to_be_bytes(),
            &self.epoch.0.to_be_bytes(),
            self.node.as_bytes(),
            &self.number.to_be_bytes(),
            &self.root,
            &self.records,
        ])
    }
}

/// What became of an append.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Appended {
    /// The records are durable, and the head is the new one.
    Stored,
    /// The head is not the expected one; nothing was stored.
    Moved,
}

/// How the head is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// Somebody else may move it at any time.
    Look,
    /// Held for this writer until its next call, or until [`LogStore::release`]: for who lost races. The database lets go
    /// of it by itself if that call does not come.
    Take,
}

/// A database that keeps one log for several writers. One value is used by one thread; every call ends in bounded time.
///
/// Whatever [`LogStore::append`] and [`LogStore::fence`] did is durable when they return.
pub trait LogStore: Send {
    /// Makes an empty log.
    ///
    /// # Errors
    /// [`LogStoreError`]; also if there is one already.
    fn create(&mut self, head: &StoredHead, note: &str) -> Result<(), LogStoreError>;

    /// The head as it stands.
    ///
    /// # Errors
    /// [`LogStoreError`].
    fn head(&mut self, turn: Turn) -> Result<StoredHead, LogStoreError>;

    /// Lets go of a head that is held, if one is.
    fn release(&mut self);

    /// Stores a batch and its head together, if the head is still `former` in size, root, epoch and fence; else nothing.
    ///
    /// # Errors
    /// [`LogStoreError::Unknown`] if both may be stored or become so later; [`LogStoreError::Occupied`] if a row is in the
    /// way that is none of the log's.
    fn append(&mut self, former: &StoredHead, batch: &Batch<'_>, next: &StoredHead) -> Result<Appended, LogStoreError>;

    /// Moves the fence on and gives the head with it: no append that was sent before, by whomever, is stored after this.
    ///
    /// # Errors
    /// [`LogStoreError`].
    fn fence(&mut self) -> Result<StoredHead, LogStoreError>;

    /// The batch of this writer and number, if it is stored.
    ///
    /// # Errors
    /// [`LogStoreError`].
    fn find(&mut self, node: NodeId, number: u64) -> Result<Option<Batch<'static>>, LogStoreError>;

    /// Batches in their order, from the one on that has record `first`; as many as it takes for `count` records, or fewer
    /// if they are long.
    ///
    /// # Errors
    /// [`LogStoreError`].
    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Batch<'static>>, LogStoreError>;

    /// The signed head.
    ///
    /// # Errors
    /// [`LogStoreError`].
    fn checkpoint(&mut self) -> Result<String, LogStoreError>;

    /// Stores a signed head of `size` records, if the one that is stored is still `former`, byte for byte; tells whether it
    /// was. No other column decides: what is signed is all that can be believed.
    ///
    /// # Errors
    /// [`LogStoreError`].
    fn publish(&mut self, former: &str, size: u64, note: &str) -> Result<bool, LogStoreError>;
}

/// Reads records from `first` on, each batch checked: at most `count`, fewer if they are long.
///
/// # Errors
/// [`LogError::RecordsAltered`], [`LogError::RecordsMissing`], [`LogError::Database`].
pub(crate) fn read_records(
    store: &mut dyn LogStore,
    first: u64,
    count: usize,
    key: &MacKey,
) -> Result<Vec<Record>, LogError> {
    read_with(store, first, count, |batch| batch.checked(key))
}

/// As [`read_records`], as the rows are: for who compares them with something that is signed.
pub(crate) fn read_unproven(store: &mut dyn LogStore, first: u64, count: usize) -> Result<Vec<Record>, LogError> {
    read_with(store, first, count, |batch| {
        let records = parse_records(&batch.records, usize::MAX).filter(|records| records.len() as u64 == batch.count);
        records.ok_or(LogError::RecordsAltered { first: batch.first, count: batch.count })
    })
}

fn read_with(
    store: &mut dyn LogStore,
    first: u64,
    count: usize,
    records_of: impl Fn(&Batch<'_>) -> Result<Vec<Record>, LogError>,
) -> Result<Vec<Record>, LogError> {
    let mut records = Vec::new();
    let mut next = first;
    for batch in store.read(first, count).map_err(LogError::database("read"))? {
        let begins = if next == first { batch.first <= next } else { batch.first == next };
        if !begins || batch.end() <= next {
            return Err(LogError::RecordsMissing { first: next });
        }
        let skip = usize::try_from(next - batch.first).unwrap_or(usize::MAX);
        records.extend(records_of(&batch)?.into_iter().skip(skip));
        next = batch.end();
    }
    records.truncate(count);
    Ok(records)
}

const HEAD_DOMAIN: &[u8] = b"keyrail/audit/head/v1";
const BATCH_DOMAIN: &[u8] = b"keyrail/audit/batch/v1";
