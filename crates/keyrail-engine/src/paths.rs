//! What lies where in a data directory.

use std::path::{Path, PathBuf};

/// The files of one data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The data directory at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The audit log: every byte in there is evidence.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// Records that are durable and not yet in the audit log's files.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// The SQLite store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store.sqlite")
    }

    /// Names the database that the store is in, where it is not in the data directory.
    pub fn store_url(&self) -> PathBuf {
        self.root.join("store-url")
    }

    /// The newest checkpoint with the signature of each witness.
    pub fn cosigned(&self) -> PathBuf {
        self.root.join("cosigned")
    }

    /// Held by the one process that writes.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The log's public key, for whoever verifies; not a secret, and not evidence of itself.
    pub fn public_key(&self) -> PathBuf {
        self.root.join("log-public-key")
    }

    /// Which root of trust opens the store.
    pub fn root_spec(&self) -> PathBuf {
        self.root.join("root-of-trust")
    }

    /// The key file that `init` makes when none is named.
    pub fn default_root_key(&self) -> PathBuf {
        self.root.join("root.key")
    }
}
