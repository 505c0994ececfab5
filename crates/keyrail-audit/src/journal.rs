//! The journal: what makes a group commit durable with one sync.
//!
//! A journal file begins with the log's right edge at its start, so that everything after it can be derived
//! again from the file alone. Then come frames of records. Each frame has a MAC that chains it to the one
//! before: a torn tail, which was never acknowledged, is told from tampering.
//!
//! A file grows by whole steps of zeros, ahead of what is written: a sync within a step need not make the file's
//! new length durable, which costs a file system more than the bytes themselves. The last of these zeros are a reserve: on
//! a full disk they take the records of what keeps safe, and no others.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use keyrail_crypto::mac::MacKey;

use crate::body::{Record, parse_records};
use crate::error::LogError;
use crate::files::{self, failed};
use crate::publish::{EDGE_LEN_MAX, RightEdge};

const MAGIC: &[u8; 24] = b"keyrail audit journal 1\n";

/// A journal file is followed by a new one when it has grown by so many bytes beyond the edge that it begins with.
pub(crate) const JOURNAL_LEN_MAX: u64 = 32 * 1024 * 1024;

/// The most bytes of records in one frame: a full queue of the longest ones does not fit, so a commit may be several.
pub(crate) const FRAME_LEN_MAX: usize = 8 * 1024 * 1024;

/// What a file is called until its edge is durable. A kill leaves it there, and the next start removes it.
pub(crate) const TEMPORARY: &str = "beginning";

/// A file grows by this many bytes at a time.
const GROWTH_LEN: u64 = 256 * 1024;

/// So many bytes of zeros are kept ahead of the usual records, for those that must get through when the disk is full.
pub(crate) const RESERVE_LEN: u64 = 256 * 1024;

/// What a disk writes whole or not at all, in bytes. A head lies within one such sector, so that it is there or not.
const SECTOR_LEN: usize = 512;

const MAC_LEN: usize = 32;

/// Kind, payload length, first index.
const HEAD_LEN: usize = 1 + 4 + 8;

/// The head's own guard: only a length that was not altered tells a frame that was not finished.
const CHECK_LEN: usize = 16;

/// What a frame holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FrameKind {
    /// The right edge, first in every file.
    Edge = 1,
    /// Records.
    Records = 2,
    /// Everything before is published and durable.
    Clean = 3,
}

/// Which room of a journal file records may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Room {
    /// What is ahead of the reserve.
    Usual,
    /// The reserve as well.
    Reserve,
}

/// A journal file, open for appending.
pub(crate) struct JournalFile {
    path: PathBuf,
    file: File,
    chain: [u8; MAC_LEN],
    /// Where the next frame begins.
    len: u64,
    /// Where the edge ends.
    edge_end: u64,
    /// The file's length: zeros from `len` on.
    allocated: u64,
}

impl JournalFile {
    /// Begins a file with the right edge, durable before this returns. An edge that could not be read back is refused,
    /// and nothing is made: the file before this one is removed on the strength of it.
    ///
    /// The file gets its name when its edge is durable: a power cut keeps some sectors of what is being written and loses
    /// others, and an edge without its first one would look like a file that somebody altered.
    pub(crate) fn create(dir: &Path, sequence: u64, edge: &RightEdge, key: &MacKey) -> Result<Self, LogError> {
        let path = Self::path_in(dir, sequence);
        let content = edge.encode();
        if content.len() > content_len_max(FrameKind::Edge as u8) || RightEdge::decode(&content).is_none() {
            return Err(failed("begin", &path)(ErrorKind::FileTooLarge.into()));
        }
        let temporary = dir.join(TEMPORARY);
        let begun = Self::begin(&temporary, sequence, edge.size(), &content, key);
        let mut journal = begun.inspect_err(|_| files::discard(&temporary))?;
        files::give_name(&temporary, &path).inspect_err(|_| files::discard(&temporary))?;
        journal.path = path;
        files::sync_dir(dir)?;
        Ok(journal)
    }

    fn begin(path: &Path, sequence: u64, size: u64, edge: &[u8], key: &MacKey) -> Result<Self, LogError> {
        let (file, chain) = (files::begin_at(path)?, start_of_chain(key, sequence));
        let mut journal = Self { path: path.to_owned(), file, chain, len: 0, edge_end: 0, allocated: 0 };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(frame(FrameKind::Edge, size, edge, &mut journal.chain, key));
        journal.grow_for(bytes.len() as u64, Room::Usual)?;
        journal.write(&bytes)?;
        journal.edge_end = journal.len;
        Ok(journal)
    }

    /// Opens a file whose frames were just read, at the end of the last good one; what follows is cut off.
    pub(crate) fn resume(path: &Path, replayed: &Replayed) -> Result<Self, LogError> {
        let file = OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
        if replayed.torn_len > 0 {
            file.set_len(replayed.len).and_then(|()| file.sync_all()).map_err(failed("cut", path))?;
        }
        let allocated = file.metadata().map_err(failed("open", path))?.len();
        let Replayed { chain, len, edge_end, .. } = *replayed;
        Ok(Self { path: path.to_owned(), file, chain, len, edge_end, allocated })
    }

    /// Where the file of this number is.
    pub(crate) fn path_in(dir: &Path, sequence: u64) -> PathBuf {
        dir.join(format!("journal-{sequence:020}"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes were written behind the edge, without the zeros behind them.
    pub(crate) fn grown_len(&self) -> u64 {
        self.len - self.edge_end
    }

    /// Makes sure that there is room on the disk for a frame with so many bytes of records. Fails without having done
    /// anything to what is written: the file stays good.
    pub(crate) fn make_room(&mut self, payload_len: usize, room: Room) -> Result<(), LogError> {
        let frame_len = HEAD_LEN + CHECK_LEN + payload_len + MAC_LEN;
        self.grow_for((gap(self.len) + frame_len) as u64, room)
    }

    fn grow_for(&mut self, len: u64, room: Room) -> Result<(), LogError> {
        let end = self.len + len;
        let wanted = end + RESERVE_LEN;
        if wanted <= self.allocated {
            return Ok(());
        }
        let grown = self.allocated..wanted.next_multiple_of(GROWTH_LEN);
        match files::fill(&self.file, &self.path, grown.clone()) {
            Ok(()) => self.allocated = grown.end,
            Err(_) if room == Room::Reserve && end <= self.allocated => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the file is where it was made, as long as it was made.
    pub(crate) fn require_in_place(&self) -> Result<(), LogError> {
        files::require_in_place(&self.file, &self.path, self.allocated)
    }

    /// Appends one frame of records that begin at `first`, and makes it durable. After an error the state of
    /// the file is unknown, and it must not be written again.
    pub(crate) fn append(&mut self, first: u64, payload: &[u8], key: &MacKey) -> Result<(), LogError> {
        let bytes = frame(FrameKind::Records, first, payload, &mut self.chain, key);
        self.write(&bytes)
    }

    /// Notes that everything up to `size` is published and durable.
    pub(crate) fn mark_clean(&mut self, size: u64, key: &MacKey) -> Result<(), LogError> {
        let bytes = frame(FrameKind::Clean, size, &[], &mut self.chain, key);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let begin = self.len + gap(self.len) as u64;
        let end = begin + bytes.len() as u64;
        files::write_at(&self.file, &self.path, begin, bytes)?;
        self.allocated = self.allocated.max(end);
        self.len = end;
        // What was written to a file that is gone is gone with it.
        self.require_in_place()
    }
}

/// How many zeros stand before a frame that could begin at `len`, so that its head lies within one sector.
fn gap(len: u64) -> usize {
    let used = (len % SECTOR_LEN as u64) as usize;
    if used + HEAD_LEN + CHECK_LEN > SECTOR_LEN { SECTOR_LEN - used } else { 0 }
}

/// What a journal file holds.
pub(crate) struct Replayed {
    pub(crate) edge: RightEdge,
    /// Records from the edge's size on.
    pub(crate) records: Vec<Record>,
    /// Whether the last frame says that everything is published and durable.
    pub(crate) clean: bool,
    /// Bytes that were cut off, up to the last that is not zero: a frame that was not finished and never acknowledged.
    pub(crate) torn_len: u64,
    chain: [u8; MAC_LEN],
    len: u64,
    edge_end: u64,
}

/// The journal files of a directory, in their order.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        let sequence = path.file_name().and_then(|name| name.to_str()?.strip_prefix("journal-")?.parse().ok());
        if let Some(sequence) = sequence {
            found.push((sequence, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a file that a killed writer did not come to name: it has the bodies of some records in it, and counts for
/// nothing. For the writer alone.
pub(crate) fn forget_begun(dir: &Path) {
    files::discard(&dir.join(TEMPORARY));
}

/// Reads a journal file. `None` if it was begun and its edge is not whole, so that nothing can be in it: former builds
/// named a file before its edge was durable, this one leaves none.
pub(crate) fn replay(path: &Path, sequence: u64, key: Option<&MacKey>) -> Result<Option<Replayed>, LogError> {
    replay_bytes(&std::fs::read(path).map_err(failed("read", path))?, path, sequence, key)
}

/// Reads what a journal file holds; `path` is for errors. Without the key its form alone is looked at.
pub(crate) fn replay_bytes(
    bytes: &[u8],
    path: &Path,
    sequence: u64,
    key: Option<&MacKey>,
) -> Result<Option<Replayed>, LogError> {
    let altered = |offset: usize| LogError::JournalAltered { path: path.to_owned(), offset: offset as u64 };
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return if is_begun(bytes) { Ok(None) } else { Err(altered(0)) };
    };
    let data_len = written_len(bytes);
    let mut chain = key.map_or([0; MAC_LEN], |key| start_of_chain(key, sequence));
    let mut replayed: Option<Replayed> = None;
    loop {
        let offset = bytes.len() - rest.len();
        let left = data_len.saturating_sub(offset);
        let found = match next_frame(rest, left, &chain, key) {
            Next::Frame(found) => found,
            Next::Altered => return Err(altered(offset)),
            // A torn tail was never acknowledged, so what is clean before it stays clean.
            Next::End => {
                let (torn_len, len) = (left as u64, offset as u64);
                return Ok(replayed.map(|state| Replayed { torn_len, chain, len, ..state }));
            }
        };
        chain = found.mac;
        rest = found.rest;
        match (&mut replayed, found.kind) {
            (None, kind) if kind == FrameKind::Edge as u8 => {
                let edge = RightEdge::decode(found.payload).filter(|edge| edge.size() == found.first);
                let edge = edge.ok_or_else(|| altered(offset))?;
                let edge_end = (bytes.len() - rest.len()) as u64;
                let (records, clean, torn_len) = (Vec::new(), false, 0);
                replayed = Some(Replayed { edge, records, clean, torn_len, chain, len: 0, edge_end });
            }
            (Some(state), kind) if kind == FrameKind::Records as u8 => {
                let records = parse_records(found.payload, usize::MAX).ok_or_else(|| altered(offset))?;
                state.records.extend(records);
                state.clean = false;
            }
            (Some(state), kind) if kind == FrameKind::Clean as u8 => state.clean = true,
            _ => return Err(altered(offset)),
        }
        rest = skip_gap(rest, bytes.len()).ok_or_else(|| altered(bytes.len() - rest.len()))?;
    }
}

/// What follows the zeros before the next frame; `None` if they are none.
fn skip_gap(rest: &[u8], file_len: usize) -> Option<&[u8]> {
    let gap = gap((file_len - rest.len()) as u64).min(rest.len());
    let (zeros, rest) = rest.split_at_checked(gap)?;
    is_zero(zeros).then_some(rest)
}

/// Whether a file is one that a former build began for an empty log and did not finish: it is no longer than that beginning,
/// so that no record has room in it, and nothing else stands there.
pub(crate) fn is_empty_beginning(path: &Path) -> Result<bool, LogError> {
    let bytes = std::fs::read(path).map_err(failed("read", path))?;
    let edge_len = HEAD_LEN + CHECK_LEN + RightEdge::default().encode().len() + MAC_LEN;
    let begun = is_begun(&bytes) || bytes.starts_with(MAGIC);
    Ok(begun && written_len(&bytes) <= MAGIC.len() + edge_len)
}

/// Whether a file without the magic is one whose first write was not finished, by a former build.
fn is_begun(bytes: &[u8]) -> bool {
    bytes.get(..written_len(bytes)).is_some_and(|written| MAGIC.starts_with(written))
}

/// What stands at a place of a journal file.
enum Next<'a> {
    Frame(Frame<'a>),
    /// The end, or a frame that was not finished.
    End,
    Altered,
}

/// A frame is torn if the file ends before it does, or if it is the last one and not whole: a power cut keeps some
/// of its sectors and leaves the others as they were, zeros. Its head is guarded by itself, so that no altered length
/// makes later frames look like the rest of a torn one.
///
/// `left` is how many bytes there are up to the last that is not zero.
fn next_frame<'a>(bytes: &'a [u8], left: usize, chain: &[u8; MAC_LEN], key: Option<&MacKey>) -> Next<'a> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_LEN).filter(|_| left >= HEAD_LEN + CHECK_LEN) else {
        // A head that is not whole, with nothing or with zeros behind it.
        return Next::End;
    };
    let Some((check, _)) = rest.split_at_checked(CHECK_LEN) else { return Next::End };
    if is_zero(head) && is_zero(check) {
        // The sector of the head was not kept, others of the same frame were.
        return if left <= FRAME_LEN_READ_MAX { Next::End } else { Next::Altered };
    }
    if key.is_some_and(|key| check != head_check(key, chain, head).as_slice()) {
        return Next::Altered;
    }
    // Nobody writes such a frame: to call it torn would drop what may follow.
    if content_len(head).is_none() {
        return Next::Altered;
    }
    match parse_frame(bytes) {
        None => Next::End,
        Some(frame) if frame.is_whole(chain, key) => Next::Frame(frame),
        Some(frame) if bytes.len() - frame.rest.len() >= left => Next::End,
        Some(_) => Next::Altered,
    }
}

/// How many bytes there are up to the last that is not zero.
fn written_len(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The most bytes that one frame of records takes, head and tag included. The head of an edge is in one sector with
/// what the file begins with, so that it is never missing alone.
const FRAME_LEN_READ_MAX: usize = FRAME_LEN_MAX + HEAD_LEN + CHECK_LEN + MAC_LEN;

/// The most bytes of content that a frame of this kind has.
fn content_len_max(kind: u8) -> usize {
    match kind {
        kind if kind == FrameKind::Edge as u8 => EDGE_LEN_MAX,
        kind if kind == FrameKind::Records as u8 => FRAME_LEN_MAX,
        _ => 0,
    }
}

/// The length of the content that a head tells; `None` if it is over what its kind may have.
fn content_len(head: &[u8]) -> Option<usize> {
    let (kind, numbers) = head.split_first()?;
    let len = usize::try_from(u32::from_be_bytes(*numbers.first_chunk::<4>()?)).ok()?;
    (len <= content_len_max(*kind)).then_some(len)
}

/// A frame, as far as its lengths tell; its MAC is not checked yet.
#[derive(Debug)]
pub struct Frame<'a> {
    kind: u8,
    first: u64,
    head: &'a [u8],
    payload: &'a [u8],
    mac: [u8; MAC_LEN],
    rest: &'a [u8],
}

impl Frame<'_> {
    fn is_whole(&self, chain: &[u8; MAC_LEN], key: Option<&MacKey>) -> bool {
        match key {
            Some(key) => key.verify(&[chain, self.head, self.payload], &self.mac),
            None => self.kind != FrameKind::Records as u8 || parse_records(self.payload, usize::MAX).is_some(),
        }
    }
}

/// Splits a frame off; `None` if there is no whole one.
pub fn parse_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
    let (kind, numbers) = head.split_first()?;
    let (_len, first) = numbers.split_first_chunk::<4>()?;
    let len = content_len(head)?;
    let (_check, rest) = rest.split_at_checked(CHECK_LEN)?;
    let (payload, rest) = rest.split_at_checked(len)?;
    let (mac, rest) = rest.split_first_chunk::<MAC_LEN>()?;
    Some(Frame { kind: *kind, first: u64::from_be_bytes(first.try_into().ok()?), head, payload, mac: *mac, rest })
}

/// A whole file of frames of any kind.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn assemble(frames: &[(u8, u64, &[u8])], sequence: u64, key: &MacKey) -> Vec<u8> {
    let mut chain = start_of_chain(key, sequence);
    let mut bytes = MAGIC.to_vec();
    for (kind, first, payload) in frames {
        bytes.resize(bytes.len() + gap(bytes.len() as u64), 0);
        bytes.extend(raw_frame(*kind, *first, payload, &mut chain, key));
    }
    bytes
}

fn frame(kind: FrameKind, first: u64, payload: &[u8], chain: &mut [u8; MAC_LEN], key: &MacKey) -> Vec<u8> {
    raw_frame(kind as u8, first, payload, chain, key)
}

fn raw_frame(kind: u8, first: u64, payload: &[u8], chain: &mut [u8; MAC_LEN], key: &MacKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_LEN + CHECK_LEN + payload.len() + MAC_LEN);
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&first.to_be_bytes());
    let check = head_check(key, chain, &out);
    let next = key.tag(&[chain, &out, payload]);
    *chain = next;
    out.extend_from_slice(&check);
    out.extend_from_slice(payload);
    out.extend_from_slice(chain);
    out
}

fn start_of_chain(key: &MacKey, sequence: u64) -> [u8; MAC_LEN] {
    key.tag(&[MAGIC, &sequence.to_be_bytes()])
}

/// The first bytes of the tag of the head alone; two parts, where a frame's tag has three.
fn head_check(key: &MacKey, chain: &[u8; MAC_LEN], head: &[u8]) -> [u8; CHECK_LEN] {
    let mut check = [0; CHECK_LEN];
    check.iter_mut().zip(key.tag(&[chain, head])).for_each(|(to, from)| *to = from);
    check
}

#[cfg(test)]
mod tests;
