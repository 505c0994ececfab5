//! What the machine must give a server: a user, a place, and an end.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, mpsc};

use anyhow::Context as _;

use crate::child::Child;
use crate::dir::{TempDir, parent_dir};

/// Who runs a server.
pub(super) struct Host {
    /// The user and group to change to, where the tests run as root.
    user: Option<(u32, u32)>,
}

impl Host {
    pub(super) fn find() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { user: None });
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let named = |name| users.lines().find_map(|line| ids_of(line, name));
        let user = named("postgres").or_else(|| named("nobody")).context("there is no user `postgres` or `nobody`")?;
        Ok(Self { user: Some(user) })
    }

    /// An empty directory of the server's user, which can reach it.
    pub(super) fn place(&self) -> anyhow::Result<TempDir> {
        let dir = TempDir::new_in(&reachable(parent_dir()))?;
        self.give(dir.path())?;
        Ok(dir)
    }

    /// A command that runs as the server's user and ends with who started it.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=QUIT");
        if let Some((user, group)) = self.user {
            command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
        }
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Writes a file that the server's user alone can read.
    pub(super) fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        std::fs::write(path, text)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        self.give(path)
    }

    /// Makes it the server's user's own.
    pub(super) fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group))
                .with_context(|| format!("`{}` cannot be given away", path.display()))?;
        }
        Ok(())
    }
}

/// The same place, if a server's user can get there; else one below the system's temporary directory.
pub(super) fn reachable(place: PathBuf) -> PathBuf {
    if !rustix::process::geteuid().is_root() || place.ancestors().all(is_open) {
        return place;
    }
    std::env::temp_dir().join("keyrail-tests").join(place.file_name().unwrap_or_default())
}

/// User and group from a line of the list of users.
fn ids_of(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    (fields.next()? == name).then_some(())?;
    let mut ids = fields.skip(1).map(str::parse);
    Some((ids.next()?.ok()?, ids.next()?.ok()?))
}

/// Whether everybody may pass through a directory; one that is not there yet will be made so.
fn is_open(dir: &Path) -> bool {
    std::fs::metadata(dir).map_or(true, |dir| dir.permissions().mode() & 0o001 != 0)
}

/// Starts a child from a thread that lives as long as the process: the system ends the child with the thread that
/// started it, and the thread of a test ends with its test.
pub(super) fn spawn(command: Command) -> anyhow::Result<Child> {
    type Asked = (Command, mpsc::Sender<anyhow::Result<Child>>);
    static STARTER: LazyLock<mpsc::Sender<Asked>> = LazyLock::new(|| {
        let (sender, asked) = mpsc::channel::<Asked>();
        std::thread::spawn(move || {
            for (command, answer) in asked {
                let _nobody_waits = answer.send(Child::start(command));
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    STARTER.send((command, answer)).context("the thread that starts servers is gone")?;
    child.recv()?
}
