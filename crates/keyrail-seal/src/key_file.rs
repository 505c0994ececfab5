//! A key file as root of trust: 32 random bytes that lie, in production, on another disk than the store.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keyrail_crypto::digest::Sha256;
use keyrail_crypto::secret::{RootKey, SECRET_LEN, SlotKey, Wraps};
use keyrail_crypto::{CryptoError, random};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::slot::wrap_context;
use crate::{RootKind, RootOfTrust, RootSlot, SealError, SlotParameters, private};

/// The first line of a key file.
const HEADER: &[u8] = b"keyrail root key v1\n";

/// Length of the checksum at the end, in bytes: tells a damaged file from a wrong one.
const CHECKSUM_LEN: usize = 8;

/// Length of a key file, in bytes.
const FILE_LEN: usize = HEADER.len() + SECRET_LEN + CHECKSUM_LEN;

/// A key file as root of trust.
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The key file at `path`, which is read when it is needed.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes a new random key file, readable by its owner alone and durable before this returns. Killed at any
    /// moment it leaves the whole file or none under this name; what was begun lies beside it and is overwritten
    /// by the next attempt.
    ///
    /// # Errors
    /// [`SealError::Exists`], [`SealError::File`].
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, SealError> {
        let path = path.into();
        let mut content = Zeroizing::new([0; FILE_LEN]);
        write_content(&mut content)?;
        if std::fs::symlink_metadata(&path).is_ok() {
            return Err(SealError::Exists { path });
        }
        let begun = begun_name(&path);
        let written = write_private(&begun, content.as_slice());
        written.map_err(|source| SealError::File { action: "write", path: begun.clone(), source })?;
        match move_new(&begun, &path).and_then(|()| sync_parent(&path)) {
            Ok(()) => {}
            Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                let removed = std::fs::remove_file(&begun);
                removed.map_err(|source| SealError::File { action: "remove", path: begun, source })?;
                return Err(SealError::Exists { path });
            }
            Err(source) => return Err(SealError::File { action: "create", path, source }),
        }
        Ok(Self { path })
    }

    fn read(&self) -> Result<(SlotKey, [u8; 16]), SealError> {
        let mut content = Zeroizing::new([0; FILE_LEN + 1]);
        let content = private::read(&self.path, private::Kind::PlainFile, content.as_mut_slice(), "key file")?;
        parse_key_file(content).ok_or_else(|| SealError::Malformed { path: self.path.clone(), what: "key file" })
    }
}

/// Reads the content of a key file: its key and its fingerprint, or `None` for anything but the exact form.
pub fn parse_key_file(content: &[u8]) -> Option<(SlotKey, [u8; 16])> {
    let rest = content.strip_prefix(HEADER)?;
    let (key, checksum) = rest.split_first_chunk::<SECRET_LEN>()?;
    if checksum.len() != CHECKSUM_LEN || !checksum_of(key).starts_with(checksum) {
        return None;
    }
    let slot_key = SlotKey::init_with(|out| -> Result<(), CryptoError> {
        out.copy_from_slice(key);
        Ok(())
    });
    let fingerprint = *Sha256::new().with(b"keyrail/keyfile/fingerprint/v1").with(key).finish().first_chunk()?;
    Some((slot_key.ok()?, fingerprint))
}

impl RootOfTrust for KeyFile {
    fn kind(&self) -> RootKind {
        RootKind::KeyFile
    }

    fn describe(&self) -> String {
        format!("key file {}", self.path.display())
    }

    fn protect(&self, root: &RootKey) -> Result<RootSlot, SealError> {
        let (key, fingerprint) = self.read()?;
        let id = random::array()?;
        let wrapped = key.wrap(root, &wrap_context(&id))?;
        Ok(RootSlot { id, parameters: SlotParameters::KeyFile { fingerprint }, wrapped, links: Vec::new() })
    }

    fn open(&self, slot: &RootSlot) -> Result<RootKey, SealError> {
        let SlotParameters::KeyFile { fingerprint: expected } = slot.parameters else {
            return Err(SealError::OtherKind { found: slot.kind().as_str(), given: self.kind().as_str() });
        };
        let (key, fingerprint) = self.read()?;
        if fingerprint != expected {
            return Err(SealError::WrongSecret);
        }
        key.unwrap_key(&slot.wrapped, &wrap_context(&slot.id)).map_err(|_| SealError::SlotDamaged)
    }
}

fn write_content(content: &mut [u8; FILE_LEN]) -> Result<(), SealError> {
    let (header, rest) = content.split_at_mut(HEADER.len());
    header.copy_from_slice(HEADER);
    let (key, checksum) = rest.split_at_mut(SECRET_LEN);
    random::fill(key)?;
    for (to, from) in checksum.iter_mut().zip(checksum_of(key)) {
        *to = from;
    }
    Ok(())
}

fn checksum_of(key: &[u8]) -> [u8; 32] {
    Sha256::new().with(b"keyrail/keyfile/checksum/v1").with(key).finish()
}

/// The name of a key file that is not whole yet.
fn begun_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Writes a file that its owner alone can read, durable before this returns.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    // What an attempt that was killed left may have another mode, or be a link.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Gives a file its name, unless something has that name already.
fn move_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot do it in one step: a second name, then the first one goes.
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::hard_link(from, to).and_then(|()| std::fs::remove_file(from)),
        moved => Ok(moved?),
    }
}

/// Makes the directory entry of a new file durable.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_attempt_began_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        std::fs::write(begun_name(&path), &HEADER[..7]).unwrap();
        KeyFile::create(&path).unwrap().read().unwrap();
        assert!(!begun_name(&path).exists());
        assert!(matches!(KeyFile::create(&path), Err(SealError::Exists { .. })));
        assert!(!begun_name(&path).exists());
    }
}
