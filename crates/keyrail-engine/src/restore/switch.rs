//! Putting a restored store in the place of the former one: after one rename it is the new one, whatever happens then.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use keyrail_crypto::random;

use crate::bootstrap::{file_failed, lock, write_file};
use crate::error::EngineError;
use crate::paths::Paths;

/// Where a store is restored, within the data directory.
const STAGING: &str = "restoring-";

/// The same once it is whole: from here on it is the store of the data directory.
const RESTORED: &str = "restored-";

/// Where the former store is kept: it is evidence.
const FORMER: &str = "before-restore-";

/// In the restored store, once all files of the former one are out of the way.
const CLEARED: &str = "cleared";

/// Everything of a data directory that belongs to one store.
const NAMES: [&str; 10] = [
    "store.sqlite-wal",
    "store.sqlite-shm",
    "store.sqlite-journal",
    "store.sqlite",
    "store-url",
    "audit",
    "journal",
    "cosigned",
    "log-public-key",
    "root-of-trust",
];

/// A place for a store that is being restored.
pub(super) struct Staging {
    data_dir: PathBuf,
    token: String,
}

impl Staging {
    /// An empty place; what former attempts left is removed. The caller holds the lock of the data directory.
    pub(super) fn begin(data_dir: &Path) -> Result<Self, EngineError> {
        for path in named(data_dir, STAGING)? {
            std::fs::remove_dir_all(&path).map_err(|source| file_failed("remove", &path, source))?;
        }
        let staging = Self { data_dir: data_dir.to_owned(), token: hex::encode(random::array::<8>()?) };
        let dir = staging.dir();
        DirBuilder::new().mode(0o700).create(&dir).map_err(|source| file_failed("create", &dir, source))?;
        Ok(staging)
    }

    /// Where the store is restored.
    pub(super) fn dir(&self) -> PathBuf {
        self.data_dir.join(format!("{STAGING}{}", self.token))
    }

    /// Makes it the store of the data directory. Gives where the former one is, if there was one.
    pub(super) fn commit(self) -> Result<Option<PathBuf>, EngineError> {
        let (from, to) = (self.dir(), self.data_dir.join(format!("{RESTORED}{}", self.token)));
        sync(&from)?;
        std::fs::rename(&from, &to).map_err(|source| file_failed("write", &to, source))?;
        sync(&self.data_dir)?;
        finish_in(&self.data_dir, &to)?;
        let former = self.data_dir.join(format!("{FORMER}{}", self.token));
        Ok(former.exists().then_some(former))
    }

    /// Leaves everything as it was.
    pub(super) fn abandon(self) -> Result<(), EngineError> {
        let dir = self.dir();
        std::fs::remove_dir_all(&dir).map_err(|source| file_failed("remove", &dir, source))
    }
}

/// Ends a restore that was killed after the store was whole.
///
/// # Errors
/// [`EngineError::InUse`] while it is going on, [`EngineError::File`].
pub(crate) fn settle(data_dir: &Path) -> Result<(), EngineError> {
    if named(data_dir, RESTORED)?.is_empty() {
        return Ok(());
    }
    let _lock = lock(&Paths::new(data_dir))?;
    finish(data_dir)
}

/// The same for who holds the lock.
pub(super) fn finish(data_dir: &Path) -> Result<(), EngineError> {
    named(data_dir, RESTORED)?.iter().try_for_each(|restored| finish_in(data_dir, restored))
}

fn finish_in(data_dir: &Path, restored: &Path) -> Result<(), EngineError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| file_failed("move", &path, source)
    };
    let cleared = restored.join(CLEARED);
    let token = restored.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(RESTORED));
    let token = token.unwrap_or_default();
    // With none of the new files left in it, all of them are in their places: only its removal was not ended.
    let holds_files = NAMES.iter().any(|name| is_there(&restored.join(name)));
    if holds_files && !cleared.exists() {
        // None of the new files is in its place yet: what is there is of the former store.
        let former = data_dir.join(format!("{FORMER}{token}"));
        for name in NAMES.iter().filter(|name| is_there(&data_dir.join(name))) {
            match DirBuilder::new().mode(0o700).create(&former) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(&former)(error)),
                _ => {}
            }
            let path = data_dir.join(name);
            rename_new(&path, &former.join(name)).map_err(failed(&path))?;
        }
        if former.exists() {
            sync(&former)?;
        }
        sync(data_dir)?;
        write_file(&cleared, b"")?;
    }
    for name in NAMES {
        let path = restored.join(name);
        if is_there(&path) {
            rename_new(&path, &data_dir.join(name)).map_err(failed(&path))?;
        }
    }
    sync(data_dir)?;
    // Under its name it must never be seen half removed.
    let emptied = data_dir.join(format!("{STAGING}{token}"));
    rename_new(restored, &emptied).map_err(failed(restored))?;
    sync(data_dir)?;
    std::fs::remove_dir_all(&emptied).map_err(|source| file_failed("remove", &emptied, source))?;
    sync(data_dir)
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Never onto a name that exists: what is there may be the last of its kind. The caller holds the lock.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    if is_there(to) {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}

/// Where former stores of a data directory are kept, in the order of time.
pub(super) fn formers(data_dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let mut found = named(data_dir, FORMER)?;
    found.sort_by_cached_key(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok());
    Ok(found)
}

fn sync(dir: &Path) -> Result<(), EngineError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| file_failed("write", dir, source))
}

/// The entries of a data directory that begin like this; none if there is no such directory.
fn named(data_dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |source| file_failed("read", data_dir, source);
    let entries = match std::fs::read_dir(data_dir) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(dir: &Path) -> Vec<(String, String)> {
        let mut found: Vec<_> = NAMES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::fs::read_to_string(dir.join(name)).ok()?)))
            .collect();
        found.sort();
        found
    }

    /// Killed between any two steps: what is there then is one store or the other, and the next start ends it.
    #[test]
    fn a_switch_that_is_killed_anywhere_is_ended() {
        let old = ["store.sqlite", "store.sqlite-wal", "audit", "store-url"];
        let new = ["store.sqlite", "audit", "root-of-trust"];
        for cleared in 0..=old.len() {
            for moved in 0..=new.len() {
                if moved > 0 && cleared < old.len() {
                    continue;
                }
                let dir = tempfile::tempdir().unwrap();
                let data = dir.path();
                let (restored, former) = (data.join("restored-ab"), data.join("before-restore-ab"));
                std::fs::create_dir(&restored).unwrap();
                std::fs::create_dir(&former).unwrap();
                for (number, name) in old.iter().enumerate() {
                    let at = if number < cleared { &former } else { data };
                    std::fs::write(at.join(name), format!("old {name}")).unwrap();
                }
                if moved > 0 {
                    std::fs::write(restored.join(CLEARED), "").unwrap();
                }
                for (number, name) in new.iter().enumerate() {
                    let at = if number < moved { data } else { &restored };
                    std::fs::write(at.join(name), format!("new {name}")).unwrap();
                }
                settle(data).unwrap();
                let wanted = |names: &[&str], age: &str| {
                    let mut all: Vec<_> =
                        names.iter().map(|name| ((*name).to_owned(), format!("{age} {name}"))).collect();
                    all.sort();
                    all
                };
                assert_eq!(content(data), wanted(&new, "new"), "{cleared} cleared, {moved} moved");
                assert_eq!(content(&former), wanted(&old, "old"));
                assert!(!restored.exists());
            }
        }
    }

    /// What is left of a switch whose end was killed is no store that has to be switched to.
    #[test]
    fn a_removal_that_is_killed_anywhere_is_ended() {
        for (left, holds_mark) in [("restored-ab", true), ("restored-ab", false), ("restoring-ab", false)] {
            let dir = tempfile::tempdir().unwrap();
            let (data, former) = (dir.path(), dir.path().join("before-restore-ab"));
            std::fs::create_dir(&former).unwrap();
            std::fs::create_dir(data.join(left)).unwrap();
            if holds_mark {
                std::fs::write(data.join(left).join(CLEARED), "").unwrap();
            }
            std::fs::write(former.join("store.sqlite"), "old").unwrap();
            std::fs::write(data.join("store.sqlite"), "new").unwrap();
            settle(data).unwrap();
            assert_eq!(content(data), [("store.sqlite".to_owned(), "new".to_owned())], "{left} {holds_mark}");
            assert_eq!(content(&former), [("store.sqlite".to_owned(), "old".to_owned())]);
            Staging::begin(data).unwrap().abandon().unwrap();
            assert!(!data.join(left).exists());
        }
    }

    #[test]
    fn nothing_is_moved_onto_what_is_there() {
        for cleared in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path();
            let (restored, former) = (data.join("restored-ab"), data.join("before-restore-ab"));
            for (at, age) in [(data, "present"), (&restored, "new"), (&former, "old")] {
                std::fs::create_dir_all(at).unwrap();
                std::fs::write(at.join("store.sqlite"), age).unwrap();
            }
            if cleared {
                std::fs::write(restored.join(CLEARED), "").unwrap();
            }
            assert_eq!(settle(data).unwrap_err().code(), "file_failed", "cleared: {cleared}");
            for (at, age) in [(data, "present"), (&restored, "new"), (&former, "old")] {
                assert_eq!(content(at), [("store.sqlite".to_owned(), age.to_owned())]);
            }
        }
    }

    #[test]
    fn what_is_given_up_leaves_the_store_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("store.sqlite"), "old").unwrap();
        let killed = Staging::begin(dir.path()).unwrap();
        std::fs::write(killed.dir().join("store.sqlite"), "half").unwrap();
        settle(dir.path()).unwrap();
        let staging = Staging::begin(dir.path()).unwrap();
        assert!(!killed.dir().exists(), "what a killed one left goes");
        staging.abandon().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
