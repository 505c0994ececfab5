//! The file of a backup: a header that says how to open it, then sealed parts.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keyrail_core::system::{ROOT_SLOTS_MAX, RootSlotRow};
use keyrail_core::time::Timestamp;
use keyrail_crypto::digest::{Sha256, sha256};
use keyrail_crypto::random;
use keyrail_crypto::secret::RootKey;
use keyrail_crypto::stream::{CHUNK_LEN_MAX, CHUNK_TAG_LEN, Ending, STREAM_SALT_LEN, StreamKey};
use keyrail_seal::RootOfTrust;
use rustix::fs::{FlockOperation, flock};

use crate::backup::place::BackupName;
use crate::backup::problem::BackupProblem;
use crate::backup::{Manifest, slot_rows};
use crate::bootstrap::file_failed;
use crate::error::EngineError;
use crate::parallel::blocking;
use crate::roots::open_any;

/// The first bytes of every backup.
const MAGIC: &[u8; 8] = b"keyrail\x16";

/// The one format there is.
const FORMAT: u8 = 1;

/// The longest slot in a header, in bytes.
const SLOT_LEN_MAX: usize = 1024;

/// Stands before each part: its number, and its length with the mark of the last one.
const PART_HEAD_LEN: usize = 8;

/// Set in the length of the last part.
const LAST: u32 = 1 << 31;

/// A backup that is being written, under a name that no restore looks for.
pub(crate) struct BackupFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    key: StreamKey,
    digest: Sha256,
    part: Vec<u8>,
    next: u32,
    len: u64,
    finished: bool,
}

/// A backup that is durable under its name.
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
}

impl BackupFile {
    /// Begins a backup with its header and its manifest.
    pub(crate) fn create(
        dir: &Path,
        name: &BackupName,
        slots: &[RootSlotRow],
        root: &RootKey,
        manifest: &Manifest,
    ) -> Result<Self, EngineError> {
        Self::create_with(dir, name, slots, root, manifest, &random::array()?)
    }

    fn create_with(
        dir: &Path,
        name: &BackupName,
        slots: &[RootSlotRow],
        root: &RootKey,
        manifest: &Manifest,
        salt: &[u8; STREAM_SALT_LEN],
    ) -> Result<Self, EngineError> {
        let path = dir.join(name.to_string());
        if path.exists() {
            return Err(EngineError::Exists { what: "backup", name: path.display().to_string() });
        }
        let header = header(salt, slots)?;
        let key = root.backup_key(salt, &sha256(&header))?;
        let temporary = dir.join(name.temporary(&random::array()?));
        let failed = |source| file_failed("write", &temporary, source);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        // What holds no lock was left by a process that is gone.
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        let mut backup = Self {
            file,
            temporary,
            path,
            key,
            digest: Sha256::new(),
            part: Vec::with_capacity(CHUNK_LEN_MAX + CHUNK_TAG_LEN),
            next: 0,
            len: 0,
            finished: false,
        };
        backup.put(&header)?;
        let text = serde_json::to_vec(manifest).map_err(|_| EngineError::Bug { what: "a manifest that is no JSON" })?;
        if text.len() > CHUNK_LEN_MAX {
            return Err(EngineError::Bug { what: "a manifest that is too long" });
        }
        backup.part.extend_from_slice(&text);
        backup.seal(Ending::More)?;
        Ok(backup)
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            if self.part.len() == CHUNK_LEN_MAX {
                self.seal(Ending::More)?;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_LEN_MAX - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = rest;
        }
        Ok(())
    }

    /// Ends it, and gives it its name once it is on the disk.
    pub(crate) fn finish(mut self) -> Result<Written, EngineError> {
        self.seal(Ending::Last)?;
        let failed = |source| file_failed("write", &self.temporary, source);
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, &self.path).map_err(failed)?;
        self.finished = true;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| file_failed("write", dir, source))?;
        let digest = std::mem::take(&mut self.digest);
        Ok(Written { path: self.path.clone(), len: self.len, sha256: digest.finish() })
    }

    fn seal(&mut self, ending: Ending) -> Result<(), EngineError> {
        let mut part = std::mem::take(&mut self.part);
        self.key.seal_chunk(self.next, ending, &mut part)?;
        let mark = if ending == Ending::Last { LAST } else { 0 };
        let len = u32::try_from(part.len()).map_err(|_| EngineError::Bug { what: "a part that is too long" })?;
        self.put(&[self.next.to_be_bytes(), (len | mark).to_be_bytes()].concat())?;
        self.put(&part)?;
        let following = self.next.checked_add(1);
        self.next =
            following.ok_or(EngineError::TooLarge { what: "a backup", unit: "parts", len: 1 << 32, max: 1 << 32 })?;
        part.clear();
        self.part = part;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.file.write_all(bytes).map_err(|source| file_failed("write", &self.temporary, source))?;
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        if !self.finished {
            // The next backup removes what cannot be removed now.
            let _left = std::fs::remove_file(&self.temporary);
        }
    }
}

fn header(salt: &[u8; STREAM_SALT_LEN], slots: &[RootSlotRow]) -> Result<Vec<u8>, EngineError> {
    let too_many = EngineError::Bug { what: "slots that no header holds" };
    let mut out = [&MAGIC[..], &[FORMAT], salt].concat();
    out.push(u8::try_from(slots.len()).ok().filter(|count| usize::from(*count) <= ROOT_SLOTS_MAX).ok_or(too_many)?);
    for row in slots {
        let len = u16::try_from(row.slot.len()).ok().filter(|len| usize::from(*len) <= SLOT_LEN_MAX);
        out.extend_from_slice(&len.ok_or(EngineError::Bug { what: "a slot that is too long" })?.to_be_bytes());
        out.extend_from_slice(&row.slot);
    }
    Ok(out)
}

/// What stands in front of the parts.
pub(crate) struct Header {
    salt: [u8; STREAM_SALT_LEN],
    slots: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Header {
    /// Reads it. No length is believed beyond its limit.
    pub(crate) fn read(from: &mut impl Read) -> Result<Self, ReadFailure> {
        let mut bytes = Vec::new();
        if take(from, &mut bytes, MAGIC.len())? != MAGIC {
            return Err(BackupProblem::NotABackup.into());
        }
        match take(from, &mut bytes, 1)? {
            [FORMAT] => {}
            found => return Err(BackupProblem::UnknownFormat { found: found.first().copied().unwrap_or(0) }.into()),
        }
        let salt = take(from, &mut bytes, STREAM_SALT_LEN)?.try_into().map_err(|_| BackupProblem::Truncated)?;
        let count = usize::from(take(from, &mut bytes, 1)?.first().copied().unwrap_or(0));
        if count > ROOT_SLOTS_MAX {
            return Err(BackupProblem::Altered { part: 0 }.into());
        }
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let len = take(from, &mut bytes, 2)?.try_into().map_err(|_| BackupProblem::Truncated)?;
            let len = usize::from(u16::from_be_bytes(len));
            if len > SLOT_LEN_MAX {
                return Err(BackupProblem::Altered { part: 0 }.into());
            }
            slots.push(take(from, &mut bytes, len)?.to_vec());
        }
        Ok(Self { salt, slots, bytes })
    }
}

/// Why a part cannot be read: it is not as it was written, or the disk fails.
pub(crate) enum ReadFailure {
    Problem(BackupProblem),
    Io(std::io::Error),
}

impl From<BackupProblem> for ReadFailure {
    fn from(problem: BackupProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<std::io::Error> for ReadFailure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Problem(BackupProblem::Truncated),
            _ => Self::Io(error),
        }
    }
}

impl ReadFailure {
    fn at(self, path: &Path) -> EngineError {
        match self {
            Self::Problem(problem) => problem.at(path),
            Self::Io(source) => file_failed("read", path, source),
        }
    }
}

/// The next bytes, which are also kept.
fn take<'a>(from: &mut impl Read, kept: &'a mut Vec<u8>, len: usize) -> Result<&'a [u8], ReadFailure> {
    let before = kept.len();
    kept.resize(before + len, 0);
    let place = kept.get_mut(before..).unwrap_or_default();
    from.read_exact(place)?;
    Ok(place)
}

/// A part as it stands in the file.
pub(crate) struct Part {
    pub(crate) index: u32,
    pub(crate) ending: Ending,
    pub(crate) sealed: Vec<u8>,
}

impl Part {
    /// Reads the next one.
    pub(crate) fn read(from: &mut impl Read, expected: u32) -> Result<Self, ReadFailure> {
        let mut head = [0; PART_HEAD_LEN];
        from.read_exact(&mut head)?;
        let [a, b, c, d, e, f, g, h] = head;
        let (index, len) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let ending = if len & LAST == 0 { Ending::More } else { Ending::Last };
        let len = (len & !LAST) as usize;
        if !(CHUNK_TAG_LEN..=CHUNK_LEN_MAX + CHUNK_TAG_LEN).contains(&len) {
            return Err(BackupProblem::Altered { part: expected }.into());
        }
        let mut sealed = vec![0; len];
        from.read_exact(&mut sealed)?;
        Ok(Self { index, ending, sealed })
    }
}

/// The parts of a file, one after the other.
struct Parts {
    file: BufReader<File>,
    path: PathBuf,
    key: StreamKey,
    next: u32,
    ended: bool,
}

impl Parts {
    fn next(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        if self.ended {
            return match self.file.read(&mut [0]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(BackupProblem::Trailing.at(&self.path)),
                Err(source) => Err(file_failed("read", &self.path, source)),
            };
        }
        let expected = self.next;
        let part = Part::read(&mut self.file, expected).map_err(|failure| failure.at(&self.path))?;
        let altered = || BackupProblem::Altered { part: expected }.at(&self.path);
        let opened = self.key.open_chunk(part.index, part.ending, &part.sealed).map_err(|_| altered())?;
        if part.index != expected {
            // It is a part of this backup, and stands in the place of another one.
            return Err(BackupProblem::Reordered { found: part.index, expected }.at(&self.path));
        }
        self.ended = part.ending == Ending::Last;
        self.next = expected.checked_add(1).ok_or_else(altered)?;
        Ok(Some(opened))
    }
}

/// A backup that is open: its manifest is known, its rows come part by part.
pub(crate) struct BackupReader {
    parts: Parts,
    root: RootKey,
    manifest: Manifest,
}

impl BackupReader {
    /// Opens a backup with a root of trust that opened its store.
    ///
    /// # Errors
    /// [`EngineError::Backup`], [`EngineError::File`]; [`EngineError::Root`] if the root is none of those.
    pub(crate) fn open(path: &Path, root: &dyn RootOfTrust) -> Result<Self, EngineError> {
        let mut file = BufReader::new(File::open(path).map_err(|source| file_failed("read", path, source))?);
        let header = Header::read(&mut file).map_err(|failure| failure.at(path))?;
        let rows = slot_rows(&header.slots, Timestamp::from_millis(0));
        let (root, _) = blocking(|| open_any(&rows, root))?;
        let key = root.backup_key(&header.salt, &sha256(&header.bytes))?;
        let mut parts = Parts { file, path: path.to_owned(), key, next: 0, ended: false };
        let text = parts.next()?.unwrap_or_default();
        let manifest = serde_json::from_slice(&text).map_err(|_| BackupProblem::Altered { part: 0 }.at(path))?;
        Ok(Self { parts, root, manifest })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The key that opens the store of the backup.
    pub(crate) fn root(&self) -> &RootKey {
        &self.root
    }

    pub(crate) fn into_manifest(self) -> Manifest {
        self.manifest
    }

    /// The next bytes of its rows; none at the end.
    ///
    /// # Errors
    /// [`EngineError::Backup`], [`EngineError::File`].
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        self.parts.next()
    }
}

#[cfg(test)]
mod tests;
