//! The checkout that is being tested.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::command::Cmd;

/// How big the big tests are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    /// A twentieth of the specification's figures.
    Ordinary,
    /// The specification's figures.
    Full,
}

impl Scale {
    /// What `--full` asks for.
    pub(crate) fn of(full: bool) -> Self {
        if full { Self::Full } else { Self::Ordinary }
    }

    /// What the tests read from `KEYRAIL_TEST_SCALE`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "twentieth",
            Self::Full => "full",
        }
    }

    /// How long each fuzz target runs.
    pub(crate) fn fuzz_time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ordinary => 10,
            Self::Full => 60,
        })
    }

    /// How long one command of a step may run before it counts as hung.
    pub(crate) fn command_limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ordinary => 40 * 60,
            Self::Full => 4 * 60 * 60,
        })
    }
}

/// A checkout, and the scale at which it is tested.
pub(crate) struct Workspace {
    root: PathBuf,
    /// How big the big tests are.
    pub(crate) scale: Scale,
}

impl Workspace {
    /// The checkout that this program was built from.
    pub(crate) fn open(scale: Scale) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let root = root.context("xtask lies outside of a workspace")?.to_path_buf();
        std::env::set_current_dir(&root)?;
        Ok(Self { root, scale })
    }

    /// A path inside the checkout.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Where xtask keeps its tools and its working files.
    pub(crate) fn own_dir(&self) -> PathBuf {
        self.target().join("xtask")
    }

    /// Where cargo builds.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.join("target"), |dir| self.join(dir))
    }

    /// A command of the pinned cargo, run at the root.
    pub(crate) fn cargo(&self, args: &[&str]) -> Cmd {
        Cmd::new("cargo").args(args).dir(&self.root).limit(self.scale.command_limit())
    }

    /// A command of git at the root; a checkout of another user is trusted, as it is by cargo.
    pub(crate) fn git(&self, args: &[&str]) -> Cmd {
        Cmd::new("git").args(["-c", "safe.directory=*"]).args(args).dir(&self.root)
    }

    /// Every file that git tracks or would track, relative to the root, in order.
    pub(crate) fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let listed = self.git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output()?;
        let mut files: Vec<_> = listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
        files.retain(|file| self.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(files)
    }
}
