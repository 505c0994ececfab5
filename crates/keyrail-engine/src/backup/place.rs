//! Where backups lie: their names, and which of them are kept.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyrail_core::time::Timestamp;
use rustix::fs::{FlockOperation, flock};

use crate::bootstrap::file_failed;
use crate::error::EngineError;

/// The name of a backup: `keyrail-STORE-TIME-SIZE.backup`, so that names of one store are in the order of time.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct BackupName {
    /// The first digits of the store's id.
    pub(crate) store: String,
    /// Whole seconds, like `20261129T141503Z`.
    time: String,
    /// Records in the log then.
    pub(crate) log_size: u64,
}

/// How many digits of the store's id a name has.
const STORE_DIGITS: usize = 8;

/// How many digits a size has at least, so that names sort.
const SIZE_DIGITS: usize = 12;

const SUFFIX: &str = ".backup";
const UNFINISHED: &str = ".part";

impl BackupName {
    pub(crate) fn new(store: &str, time: Timestamp, log_size: u64) -> Self {
        let text = time.to_string();
        let whole = text.split('.').next().unwrap_or_default();
        let time = whole.chars().filter(|letter| !matches!(letter, '-' | ':')).collect::<String>() + "Z";
        Self { store: store.chars().take(STORE_DIGITS).collect(), time, log_size }
    }

    /// When it was made, in whole seconds.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        let part = |from: usize, to: usize| self.time.get(from..to);
        let [year, month, day] = [part(0, 4)?, part(4, 6)?, part(6, 8)?];
        let [hour, minute, second] = [part(9, 11)?, part(11, 13)?, part(13, 15)?];
        format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
    }

    /// The name while it is written.
    pub(crate) fn temporary(&self, random: &[u8; 8]) -> String {
        format!(".{self}.{}{UNFINISHED}", hex::encode(random))
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keyrail-{}-{}-{:0SIZE_DIGITS$}{SUFFIX}", self.store, self.time, self.log_size)
    }
}

impl FromStr for BackupName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let inner = text.strip_prefix("keyrail-").and_then(|rest| rest.strip_suffix(SUFFIX)).ok_or(())?;
        let mut parts = inner.split('-');
        let (Some(store), Some(time), Some(size), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let name = Self { store: store.to_owned(), time: time.to_owned(), log_size: size.parse().map_err(|_| ())? };
        // Exactly what is written: nothing else is ever removed.
        let as_written = name.time().map(|time| Self::new(store, time, name.log_size).to_string());
        let is_ours = store.len() == STORE_DIGITS && as_written.is_some_and(|name| name == text);
        if is_ours { Ok(name) } else { Err(()) }
    }
}

/// The directory of backups, made if its parent is there. Never within the data directory: what is lost with that is
/// no backup, and every file there has its meaning.
pub(crate) fn prepare(dir: &Path, data_dir: Option<&Path>) -> Result<(), EngineError> {
    let invalid = |problem: String, hint| Err(EngineError::Invalid { problem, hint });
    if !dir.is_absolute() {
        return invalid(
            format!("`{}` is no absolute path", dir.display()),
            "name a directory on the machine of the service, like /var/backups/keyrail",
        );
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(file_failed("create", dir, error)),
        _ => {}
    }
    let real = dir.canonicalize().map_err(|source| file_failed("read", dir, source))?;
    let data = data_dir.and_then(|dir| dir.canonicalize().ok());
    if data.is_some_and(|data| real.starts_with(data)) {
        return invalid(
            format!("`{}` lies in the data directory", dir.display()),
            "name a directory on another disk: a backup must outlive the data directory",
        );
    }
    Ok(())
}

/// The backups in a directory with their paths, oldest first, of one store or of all.
pub(crate) fn list(dir: &Path, store: Option<&str>) -> Result<Vec<(BackupName, PathBuf)>, EngineError> {
    let failed = |source| file_failed("read", dir, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().and_then(|name| name.parse::<BackupName>().ok()) else { continue };
        if store.is_none_or(|store| store == name.store) && entry.file_type().map_err(failed)?.is_file() {
            found.push((name, entry.path()));
        }
    }
    found.sort_by(|(one, _), (other, _)| {
        (&one.time, one.log_size, &one.store).cmp(&(&other.time, other.log_size, &other.store))
    });
    Ok(found)
}

/// Removes all but the newest `keep` backups of a store, counted back from the one that was just made; tells how many.
/// Those with a later time were made while the clock was ahead, or by nobody: they count for nothing and are left alone.
pub(crate) fn keep(dir: &Path, made: &BackupName, keep: Option<u32>) -> Result<u64, EngineError> {
    let Some(keep) = keep else { return Ok(0) };
    let mut found = list(dir, Some(&made.store))?;
    let all = found.len();
    found.retain(|(name, _)| (&name.time, name.log_size) <= (&made.time, made.log_size));
    let later = all.saturating_sub(found.len());
    if later > 0 {
        tracing::warn!(dir = %dir.display(), later, "backups with a time in the future are not counted and not removed");
    }
    let over = found.len().saturating_sub(keep.max(1) as usize);
    for (_, path) in found.iter().take(over) {
        std::fs::remove_file(path).map_err(|source| file_failed("remove", path, source))?;
    }
    Ok(over as u64)
}

/// Removes what a killed process left of backups of a store that it had not finished.
pub(crate) fn sweep(dir: &Path, store: &str) -> Result<(), EngineError> {
    let failed = |source| file_failed("read", dir, source);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if !name.starts_with(&format!(".keyrail-{store}-")) || !name.ends_with(UNFINISHED) {
            continue;
        }
        let path = entry.path();
        // Whoever still writes one holds its lock.
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            std::fs::remove_file(&path).map_err(|source| file_failed("remove", &path, source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_nothing_else_is_one() {
        let time: Timestamp = "2026-11-29T14:15:03.123Z".parse().unwrap();
        let name = BackupName::new("0123456789abcdef0123456789abcdef", time, 1234);
        let text = "keyrail-01234567-20261129T141503Z-000000001234.backup";
        assert_eq!(name.to_string(), text);
        assert_eq!(text.parse(), Ok(name.clone()));
        assert_eq!(name.time(), Some("2026-11-29T14:15:03Z".parse().unwrap()));
        let large = BackupName { log_size: u64::MAX, ..name };
        assert_eq!(large.to_string().parse(), Ok(large));
        for other in [
            "keyrail-01234567-20261129T141503Z-1234.backup",
            "keyrail-01234567-20261129T141503Z-000000001234.backup.old",
            "keyrail-0123456-20261129T141503Z-000000001234.backup",
            "keyrail-01234567-20261329T141503Z-000000001234.backup",
            "keyrail-01234567-20261129T141503-000000001234.backup",
            "people.backup",
        ] {
            assert_eq!(other.parse::<BackupName>(), Err(()), "{other}");
        }
    }

    #[test]
    fn the_oldest_of_a_store_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let made = |store: &str, second: i64| made_in(dir.path(), store, second);
        let ours: Vec<_> = (0..5).map(|second| made("aaaaaaaa", second)).collect();
        let others = [made("bbbbbbbb", 0), made("bbbbbbbb", 1)];
        std::fs::write(dir.path().join("keyrail-notes.txt"), "").unwrap();
        assert_eq!(keep(dir.path(), &ours[4], None).unwrap(), 0);
        assert_eq!(keep(dir.path(), &ours[4], Some(2)).unwrap(), 3);
        assert_eq!(left(dir.path(), "aaaaaaaa"), ours[3..]);
        assert_eq!(list(dir.path(), None).unwrap().len(), 4);
        assert_eq!(left(dir.path(), "bbbbbbbb"), others);
        assert_eq!(keep(dir.path(), &ours[4], Some(0)).unwrap(), 1, "the newest stays");
    }

    /// Files of the future fill no place of those that are kept, and never push out the one that was just made.
    #[test]
    fn what_was_just_made_stays_whatever_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let ours: Vec<_> = (0..4).map(|second| made_in(dir.path(), "aaaaaaaa", second)).collect();
        let later: Vec<_> = (100..103).map(|second| made_in(dir.path(), "aaaaaaaa", second)).collect();
        assert_eq!(keep(dir.path(), &ours[3], Some(2)).unwrap(), 2);
        assert_eq!(left(dir.path(), "aaaaaaaa"), [&ours[2..], &later[..]].concat());
    }

    fn made_in(dir: &Path, store: &str, second: i64) -> BackupName {
        let name = BackupName::new(store, Timestamp::from_millis(second * 1000), 7);
        std::fs::write(dir.join(name.to_string()), "").unwrap();
        name
    }

    fn left(dir: &Path, store: &str) -> Vec<BackupName> {
        list(dir, Some(store)).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_a_killed_one_left_is_removed_and_what_is_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let name = BackupName::new("aaaaaaaa", Timestamp::from_millis(0), 7);
        let [left, held] = [[1; 8], [2; 8]].map(|random| dir.path().join(name.temporary(&random)));
        std::fs::write(&left, "").unwrap();
        let file = File::create(&held).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(dir.path(), "aaaaaaaa").unwrap();
        assert!(!left.exists() && held.exists());
    }
}
