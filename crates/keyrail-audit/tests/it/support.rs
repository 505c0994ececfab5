//! A log in a directory of its own.

use std::path::PathBuf;
use std::time::Duration;

use keyrail_audit::{Epoch, Keys, Log, LogOptions, Recovered, VerifierKey};
use keyrail_crypto::secret::{RootKey, SigningSeed, StoreKey, Wraps};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use tempfile::TempDir;

/// A log whose keys can be had again: they are kept wrapped, as the store keeps them.
pub(crate) struct TestLog {
    pub(crate) dir: TempDir,
    root: RootKey,
    seed: WrappedKey,
    store: WrappedKey,
    pub(crate) key: VerifierKey,
}

const CONTEXT: WrapContext<'_> = WrapContext { table: "test", id: &[0; 16], version: 1, generation: 1 };

impl TestLog {
    pub(crate) fn create() -> Self {
        let root = RootKey::generate().unwrap();
        let seed = root.wrap(&SigningSeed::generate().unwrap(), &CONTEXT).unwrap();
        let store = root.wrap(&StoreKey::generate().unwrap(), &CONTEXT).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut log = Self { dir, root, seed, store, key: VerifierKey::new("placeholder", [0; 32]).unwrap() };
        log.key = Log::create(&log.options(), &log.keys()).unwrap();
        log
    }

    /// The same log, lying elsewhere.
    pub(crate) fn moved_to(self, dir: TempDir) -> Self {
        Self { dir, ..self }
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    pub(crate) fn options(&self) -> LogOptions {
        let mut options = LogOptions::new(self.audit(), self.dir.path().join("journal"), "keyrail.test/log".to_owned());
        options.publish_interval = Duration::from_secs(3600);
        options
    }

    pub(crate) fn keys(&self) -> Keys {
        let store: StoreKey = self.root.unwrap_key(&self.store, &CONTEXT).unwrap();
        Keys { seed: self.root.unwrap_key(&self.seed, &CONTEXT).unwrap(), journal: store.mac_key("journal").unwrap() }
    }

    pub(crate) fn open(&self) -> (Log, Recovered) {
        Log::open(self.options(), self.keys()).unwrap()
    }

    /// Appends `count` records and closes the log properly.
    pub(crate) fn fill(&self, count: usize) {
        let (log, _) = self.open();
        for _ in 0..count {
            let body = format!("record {}", log.size());
            log.append_blocking(body.into_bytes(), Epoch(0)).unwrap();
        }
        log.close().unwrap();
    }
}
