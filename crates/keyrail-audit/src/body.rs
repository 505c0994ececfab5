//! Records: a salted body, and the entry that commits to it. The log proves entries; a body can be dropped
//! later without losing the proof.

use keyrail_crypto::digest::Sha256;

use crate::journal::FRAME_LEN_MAX;
use crate::tree::{Hash, TILE_WIDTH, leaf_hash};

/// Length of a record's salt, in bytes.
pub(crate) const SALT_LEN: usize = 16;

/// The longest body of a record, in bytes.
pub const BODY_LEN_MAX: usize = 1024 * 1024;

/// Keeps the commitment apart from every other use of the hash.
const COMMITMENT_DOMAIN: &[u8] = b"keyrail/audit/entry/v1\0";

/// A record as it lies in a body file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Hides the body from who knows only the entry.
    pub salt: [u8; SALT_LEN],
    /// What was logged.
    pub body: Vec<u8>,
}

impl Record {
    /// The log entry: SHA-256 of the salted body.
    pub fn entry(&self) -> Hash {
        Sha256::new().with(COMMITMENT_DOMAIN).with(&self.salt).with(&self.body).finish()
    }

    /// Length, salt, body.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.body.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.body);
    }

    pub(crate) fn encoded_len(&self) -> usize {
        4 + SALT_LEN + self.body.len()
    }
}

/// The hashes of a record, which are computed once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hashes {
    /// Its entry in the log.
    pub(crate) entry: Hash,
    /// The entry's leaf in the tree.
    pub(crate) leaf: Hash,
}

impl Hashes {
    pub(crate) fn of(record: &Record) -> Self {
        let entry = record.entry();
        Self { entry, leaf: leaf_hash(&entry) }
    }
}

/// A record as it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged<'a> {
    /// Length, salt, body.
    pub(crate) encoded: &'a [u8],
    pub(crate) hashes: &'a Hashes,
}

impl Logged<'_> {
    /// The record itself.
    pub(crate) fn record(&self) -> Option<Record> {
        parse_records(self.encoded, 1)?.pop()
    }
}

/// Records that follow each other, in one piece of memory: they wait to be published by the ten thousand, and each in
/// places of its own would cost more time than to write them.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// Of each record its length in `bytes`, and its hashes.
    each: Vec<(usize, Hashes)>,
}

impl Records {
    /// Room for as many as there were before, if they fit into one frame: what waits to be published keeps the room that it
    /// was made with.
    pub(crate) fn like(former: &Self) -> Self {
        if former.bytes.len() > FRAME_LEN_MAX {
            return Self::default();
        }
        Self { bytes: Vec::with_capacity(former.bytes.len()), each: Vec::with_capacity(former.each.len()) }
    }

    pub(crate) fn push(&mut self, record: &Record, hashes: Hashes) {
        record.encode(&mut self.bytes);
        self.each.push((record.encoded_len(), hashes));
    }

    pub(crate) fn len(&self) -> usize {
        self.each.len()
    }

    /// All of them as they are stored, one behind the other.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Logged<'_>> {
        self.each.iter().scan(self.bytes.as_slice(), |rest, (len, hashes)| {
            let (encoded, behind) = rest.split_at_checked(*len)?;
            *rest = behind;
            Some(Logged { encoded, hashes })
        })
    }

    /// All of them in their order, in pieces of at most `len_max` bytes, or of one record. Of several pieces each has its
    /// bytes for itself, copied once and without room for more: they are kept for longer than the whole.
    pub(crate) fn in_pieces(self, len_max: usize) -> impl Iterator<Item = Self> {
        let is_one = self.bytes.len() <= len_max;
        let (mut all, mut bytes_done, mut done) = (self, 0, 0);
        std::iter::from_fn(move || {
            if is_one {
                return Some(std::mem::take(&mut all)).filter(|all| all.len() > 0);
            }
            let piece = all.piece(bytes_done, done, len_max)?;
            bytes_done += piece.bytes.len();
            done += piece.each.len();
            Some(piece)
        })
    }

    /// A copy of those from record `first` on, which begins at `begin`, of which all together have at most `len_max`
    /// bytes; one at least, `None` if there is none.
    fn piece(&self, begin: usize, first: usize, len_max: usize) -> Option<Self> {
        let rest = self.each.get(first..).filter(|rest| !rest.is_empty())?;
        let (mut len, mut count) = (0, 0);
        for (next, _) in rest {
            if count > 0 && len + next > len_max {
                break;
            }
            len += next;
            count += 1;
        }
        Some(Self { bytes: self.bytes.get(begin..begin + len)?.to_vec(), each: rest.get(..count)?.to_vec() })
    }

    /// Those that `keep` says yes to, in their order; it is asked for each.
    pub(crate) fn filter(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut kept = Self::default();
        for (index, logged) in self.iter().enumerate() {
            if keep(index) {
                kept.bytes.extend_from_slice(logged.encoded);
                kept.each.push((logged.encoded.len(), *logged.hashes));
            }
        }
        kept
    }
}

impl FromIterator<Record> for Records {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut all = Self::default();
        records.into_iter().for_each(|record| all.push(&record, Hashes::of(&record)));
        all
    }
}

/// Reads records that lie one behind the other, at most `max`; `None` if the bytes do not end with a record.
pub(crate) fn parse_records(mut bytes: &[u8], max: usize) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok().filter(|len| *len <= BODY_LEN_MAX)?;
        let (body, rest) = rest.split_at_checked(len)?;
        if records.len() >= max {
            return None;
        }
        records.push(Record { salt: *salt, body: body.to_vec() });
        bytes = rest;
    }
    Some(records)
}

/// Reads a body file: up to 256 records.
pub fn parse_bodies(bytes: &[u8]) -> Option<Vec<Record>> {
    parse_records(bytes, TILE_WIDTH)
}

/// One entry as it lies in an entry bundle: a length of two bytes, and the hash.
pub(crate) fn encode_entry(entry: &Hash, out: &mut Vec<u8>) {
    out.extend_from_slice(&(entry.len() as u16).to_be_bytes());
    out.extend_from_slice(entry);
}

/// Length of one entry in an entry bundle, in bytes.
pub(crate) const ENTRY_LEN: usize = 34;

/// Reads an entry bundle of ours: up to 256 entries of 32 bytes.
pub fn parse_entries(bytes: &[u8]) -> Option<Vec<Hash>> {
    if !bytes.len().is_multiple_of(ENTRY_LEN) || bytes.len() > ENTRY_LEN * TILE_WIDTH {
        return None;
    }
    let entry = |chunk: &[u8]| chunk.strip_prefix(&[0, 32])?.try_into().ok();
    bytes.chunks_exact(ENTRY_LEN).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: usize) -> Record {
        Record { salt: [number as u8; SALT_LEN], body: vec![b'a' + number as u8; 10 * number] }
    }

    fn numbers(records: &Records) -> Vec<usize> {
        let number = |logged: Logged<'_>| {
            let found = logged.record().unwrap();
            assert_eq!(*logged.hashes, Hashes::of(&found));
            usize::from(found.salt[0])
        };
        let found: Vec<_> = records.iter().map(number).collect();
        assert_eq!(found.len(), records.len());
        assert_eq!(parse_records(records.bytes(), usize::MAX).unwrap().len(), records.len());
        found
    }

    #[test]
    fn records_stay_in_their_order_however_they_are_divided() {
        let all = || (0..6).map(record).collect::<Records>();
        assert_eq!(numbers(&all()), [0, 1, 2, 3, 4, 5]);
        assert_eq!(numbers(&all().filter(|index| index % 2 == 1)), [1, 3, 5]);
        let len = |number: usize| record(number).encoded_len();
        for len_max in 0..all().bytes().len() + 2 {
            let mut found = Vec::new();
            for piece in all().in_pieces(len_max) {
                // Never more than fits, but one at least; and never fewer than fit.
                assert!(piece.bytes().len() <= len_max || piece.len() == 1, "{len_max}");
                found.extend(numbers(&piece));
                assert!(found.len() == 6 || piece.bytes().len() + len(found.len()) > len_max, "{len_max}");
            }
            assert_eq!(found, [0, 1, 2, 3, 4, 5], "{len_max}");
        }
    }

    /// What is kept until it is published has no room for what it was divided from.
    #[test]
    fn pieces_and_what_comes_after_a_full_queue_hold_little_more_than_their_bytes() {
        let all = (0..200).map(|_| Record { salt: [0; SALT_LEN], body: vec![b'x'; 100_000] }).collect::<Records>();
        assert!(all.bytes().len() > 2 * FRAME_LEN_MAX);
        assert!(Records::like(&all).bytes.capacity() <= FRAME_LEN_MAX);
        assert!(Records::like(&(0..6).map(record).collect()).bytes.capacity() > 0, "a usual batch makes room");
        let (len, pieces) = (all.bytes().len(), all.in_pieces(FRAME_LEN_MAX).collect::<Vec<_>>());
        assert_eq!(pieces.len(), 3);
        let held: usize = pieces.iter().map(|piece| piece.bytes.capacity()).sum();
        assert!(held < len + len / 10, "{held} bytes are held for {len}");
        assert_eq!(Records::default().in_pieces(1).count(), 0);
    }
}
