//! Places for a test: a temporary directory beside the build's own files, a home, a port.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// A directory that is removed when it is dropped.
///
/// It lies under the build's target directory and not under the system's temporary one, which is often in memory:
/// durability and space are tested on the disk that the checkout is on.
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    /// Makes an empty directory.
    ///
    /// # Errors
    /// The directory could not be made.
    pub fn new() -> anyhow::Result<Self> {
        Self::new_in(&parent_dir())
    }

    /// Makes an empty directory in another one.
    pub(crate) fn new_in(parent: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(parent).with_context(|| format!("`{}` cannot be made", parent.display()))?;
        let dir = tempfile::Builder::new().prefix("keyrail-").tempdir_in(parent)?;
        Ok(Self(dir))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path inside.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

/// A home directory of its own for a child process, with a working directory in it.
pub struct TempHome {
    dir: TempDir,
    work: PathBuf,
}

impl TempHome {
    /// Makes an empty home.
    ///
    /// # Errors
    /// A directory could not be made.
    pub fn new() -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let work = dir.join("work");
        std::fs::create_dir(&work)?;
        Ok(Self { dir, work })
    }

    /// What `HOME` will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The working directory, empty at first.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Makes `command` live here: its home, its working directory, and nothing of Keyrail's or XDG's settings from
    /// the caller's environment.
    pub fn house(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if is_setting(&name) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.path()).current_dir(self.work());
    }
}

fn is_setting(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("KEYRAIL_") || name.starts_with("XDG_")
}

/// A loopback port that was free a moment ago. Better: let the server bind port 0 and read its address from
/// [`Server::url`](crate::Server::url).
///
/// # Errors
/// No port is free.
pub fn free_port() -> anyhow::Result<u16> {
    // Below those that the system gives to clients: a server that is restarted finds its port as it left it.
    for _ in 0..PORT_TRIES_MAX {
        let port = PORTS.start + rand::random::<u16>() % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port is free among {PORT_TRIES_MAX} that were tried")
}

/// Where ports of servers are looked for, and how often.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
const PORT_TRIES_MAX: usize = 100;

pub(crate) fn parent_dir() -> PathBuf {
    target_dir().map_or_else(std::env::temp_dir, |target| target.join("tmp"))
}

/// The target directory that the running test was built in: the nearest parent that cargo has tagged.
pub(crate) fn target_dir() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf)
}
