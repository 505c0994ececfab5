//! Verification of a log in a database: every row, from the first record to the head.

use keyrail_core::fence::Epoch;
use keyrail_crypto::mac::MacKey;

use crate::body::Hashes;
use crate::database::{LogStore, StoredHead, Turn};
use crate::error::LogError;
use crate::log::Head;
use crate::note::{Checkpoint, VerifierKey};
use crate::peaks::Peaks;
use crate::verify::{Remembered, Report, Tail};

/// How many records are asked for at a time; the database gives fewer if they are long.
const RECORDS_READ: usize = 4_096;

/// Verifies a log in a database: each batch under its guard, the tree over all of them, the signed head, and the heads
/// that are remembered. Read-only, in bounded memory. A log that grows meanwhile is verified up to the head that it had.
///
/// # Errors
/// [`LogError::RecordsAltered`], [`LogError::RecordsMissing`] with the first bad record; [`LogError::HeadAltered`],
/// [`LogError::Mismatch`], [`LogError::Older`], [`LogError::Fork`], [`LogError::Database`].
pub fn verify_rows(
    store: &mut dyn LogStore,
    journal: &MacKey,
    key: &VerifierKey,
    remembered: &[Remembered],
) -> Result<Report, LogError> {
    // The head last: others append meanwhile.
    let note = store.checkpoint().map_err(LogError::database("read"))?;
    let signed = Checkpoint::verify(&note, key).map_err(LogError::Checkpoint)?;
    let head = read_head(store, journal)?;
    let found = head.peaks.size();
    if signed.size > found {
        return Err(LogError::Mismatch);
    }
    if let Some(newer) = remembered.iter().find(|remembered| remembered.size > found) {
        return Err(LogError::Older { found, remembered: newer.size });
    }
    let mut walk = Walk { peaks: Peaks::default(), epoch: Epoch(0), signed: Remembered::from(&signed), remembered };
    walk.check_heads(0)?;
    while walk.peaks.size() < found {
        walk.go_on(store, journal, found)?;
    }
    if walk.peaks != head.peaks || walk.epoch > head.epoch {
        return Err(LogError::HeadAltered);
    }
    require_end(store, journal, &head)?;
    let Head { size, root } = head.head();
    let tail = Tail { records: size - signed.size, torn_len: 0, guarded: true };
    Ok(Report { origin: key.name().to_owned(), records: size, root, tail: Some(tail) })
}

fn read_head(store: &mut dyn LogStore, journal: &MacKey) -> Result<StoredHead, LogError> {
    store.head(Turn::Look).map_err(LogError::database("read"))?.checked(journal)
}

/// No batch lies beyond the head, however far: the log would come to it one day. What is found belongs to the head that
/// is read after it, which others may have moved on.
fn require_end(store: &mut dyn LogStore, journal: &MacKey, head: &StoredHead) -> Result<(), LogError> {
    let found = store.read(head.peaks.size(), usize::MAX).map_err(LogError::database("read"))?;
    let end = read_head(store, journal)?.peaks.size();
    match found.iter().find(|batch| batch.end() > end) {
        Some(batch) => Err(LogError::RecordsAltered { first: batch.first, count: batch.count }),
        None => Ok(()),
    }
}

/// How far verification has come.
struct Walk<'a> {
    peaks: Peaks,
    epoch: Epoch,
    signed: Remembered,
    remembered: &'a [Remembered],
}

impl Walk<'_> {
    fn go_on(&mut self, store: &mut dyn LogStore, journal: &MacKey, end: u64) -> Result<(), LogError> {
        let next = self.peaks.size();
        let batches = store.read(next, RECORDS_READ).map_err(LogError::database("read"))?;
        let mut is_first = true;
        for batch in batches.iter().take_while(|batch| batch.first < end) {
            let altered = LogError::RecordsAltered { first: batch.first, count: batch.count };
            if batch.first != self.peaks.size() {
                // The one before the gap is what the database gives where the next one is not.
                return Err(LogError::RecordsMissing { first: self.peaks.size() });
            }
            let before = self.peaks.size();
            let records = batch.checked(journal)?;
            records.iter().for_each(|record| self.peaks.push(Hashes::of(record).leaf));
            if self.peaks.root() != batch.root || batch.epoch < self.epoch {
                return Err(altered);
            }
            self.epoch = batch.epoch;
            self.check_heads(before)?;
            is_first = false;
        }
        if is_first { Err(LogError::RecordsMissing { first: next }) } else { Ok(()) }
    }

    /// Compares the heads that are known from elsewhere, at their sizes: a head is always where a batch ends.
    fn check_heads(&self, before: u64) -> Result<(), LogError> {
        let size = self.peaks.size();
        let differs = |head: &Remembered| match head.size {
            at if at == size => head.root != self.peaks.root(),
            within => before < within && within < size,
        };
        if differs(&self.signed) {
            return Err(LogError::Mismatch);
        }
        if self.remembered.iter().any(differs) {
            return Err(LogError::Fork { size });
        }
        Ok(())
    }
}
