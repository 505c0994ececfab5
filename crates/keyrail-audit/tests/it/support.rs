//! A log in a directory of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyrail_audit::{Keys, Log, LogError, LogOptions, Recovered, Report, VerifierKey, VerifyFailure, verify};
use keyrail_core::fence::Epoch;
use keyrail_crypto::secret::{RootKey, SigningSeed, StoreKey, Wraps};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use tempfile::TempDir;

/// Keys that can be had again: they are kept wrapped, as the store keeps them.
pub(crate) struct KeptKeys {
    root: RootKey,
    seed: WrappedKey,
    store: WrappedKey,
}

pub(crate) struct TestLog {
    pub(crate) dir: TempDir,
    kept: Arc<KeptKeys>,
    pub(crate) key: VerifierKey,
}

const CONTEXT: WrapContext<'_> = WrapContext { table: "test", id: &[0; 16], version: 1, generation: 1 };

impl KeptKeys {
    pub(crate) fn generate() -> Self {
        let root = RootKey::generate().unwrap();
        let seed = root.wrap(&SigningSeed::generate().unwrap(), &CONTEXT).unwrap();
        let store = root.wrap(&StoreKey::generate().unwrap(), &CONTEXT).unwrap();
        Self { root, seed, store }
    }

    pub(crate) fn keys(&self) -> Keys {
        let store: StoreKey = self.root.unwrap_key(&self.store, &CONTEXT).unwrap();
        Keys { seed: self.root.unwrap_key(&self.seed, &CONTEXT).unwrap(), journal: store.mac_key("journal").unwrap() }
    }
}

impl TestLog {
    pub(crate) fn create() -> Self {
        let kept = Arc::new(KeptKeys::generate());
        let dir = place();
        let mut log = Self { dir, kept, key: VerifierKey::new("placeholder", [0; 32]).unwrap() };
        log.key = Log::create(&log.options(), &log.keys()).unwrap();
        log
    }

    /// A log of `count` records that was closed properly.
    pub(crate) fn of(count: usize) -> Self {
        let log = Self::create();
        log.fill(count);
        log
    }

    /// Another copy of the log as it lies on the disk now: what a process that is killed leaves behind.
    pub(crate) fn copied(&self) -> Self {
        let dir = place();
        copy_dir(self.dir.path(), dir.path());
        Self { dir, kept: self.kept.clone(), key: self.key.clone() }
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// The journal files, oldest first.
    pub(crate) fn journal_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.journal()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-")).collect();
        files.sort();
        files
    }

    /// Where the frames of the only journal file begin, the edge first, and where the last one ends.
    pub(crate) fn frames(&self) -> Vec<usize> {
        let bytes = std::fs::read(&self.journal_files()[0]).unwrap();
        let (mut places, mut end) = (Vec::new(), 24_usize);
        loop {
            let begin = if end % 512 + 29 > 512 { end.next_multiple_of(512) } else { end };
            match bytes.get(begin..begin + 5) {
                Some([kind, len @ ..]) if *kind != 0 => {
                    places.push(begin);
                    end = begin + 13 + 16 + u32::from_be_bytes(len.try_into().unwrap()) as usize + 32;
                }
                _ => break,
            }
        }
        places.push(end);
        places
    }

    pub(crate) fn options(&self) -> LogOptions {
        let mut options = LogOptions::new(self.audit(), self.journal(), "keyrail.test/log".to_owned());
        options.limits.publish_interval = Duration::from_secs(3600);
        options
    }

    pub(crate) fn keys(&self) -> Keys {
        self.kept.keys()
    }

    pub(crate) fn open(&self) -> (Log, Recovered) {
        self.open_with(self.options()).unwrap()
    }

    pub(crate) fn open_with(&self, options: LogOptions) -> Result<(Log, Recovered), LogError> {
        Log::open(options, self.keys())
    }

    pub(crate) fn verify(&self) -> Result<Report, VerifyFailure> {
        verify(&self.audit(), &self.key, &[])
    }

    /// Appends `count` records and closes the log properly.
    pub(crate) fn fill(&self, count: usize) {
        let (log, _) = self.open();
        append(&log, count);
        log.close().unwrap();
    }
}

/// A directory in memory where there is one: syncs cost nothing there, and crashes are played with copies.
fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Appends `count` records, many at a time.
pub(crate) fn append(log: &Log, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = usize::try_from(log.size()).unwrap();
    let all: Vec<usize> = (first..first + count).collect();
    runtime.block_on(async {
        for some in all.chunks(2_000) {
            let mut waiting = tokio::task::JoinSet::new();
            for index in some {
                let (log, body) = (log.clone(), body(*index));
                waiting.spawn(async move { log.append(body, Epoch(0)).await.unwrap() });
            }
            waiting.join_all().await;
        }
    });
}

pub(crate) fn body(index: usize) -> Vec<u8> {
    format!("record {index}").into_bytes()
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            // The log goes on meanwhile, and may have removed a stale tile.
            match std::fs::copy(entry.path(), target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}
