//! Commands that are shown, limited in time, and ended by their own id.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// A command to run. It leads a process group of its own, so that a limit ends it with all that it started.
pub(crate) struct Cmd {
    command: Command,
    limit: Duration,
}

impl Cmd {
    /// A command without arguments.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0);
        Self { command, limit: LIMIT }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets the time after which the command counts as hung.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it with its output shown.
    ///
    /// # Errors
    /// It cannot be started, hangs or fails.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        self.show();
        let child = self.spawn()?;
        self.succeeded(wait(child, self.limit)?)
    }

    /// Runs it with its output shown, and hands every line of its standard output to `seen`.
    ///
    /// # Errors
    /// It cannot be started or hangs. A failure is not an error: the status says so.
    pub(crate) fn follow(mut self, seen: impl FnMut(&str) + Send) -> anyhow::Result<ExitStatus> {
        self.show();
        self.command.stdout(Stdio::piped());
        let mut child = self.spawn()?;
        let output = child.stdout.take().context("no standard output")?;
        std::thread::scope(|scope| {
            scope.spawn(move || tee(BufReader::new(output), seen));
            wait(child, self.limit)
        })
    }

    /// Runs it quietly and gives its standard output.
    ///
    /// # Errors
    /// It cannot be started, hangs or fails; the error holds what it wrote to standard error.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn()?;
        let pid = Pid::from_child(&child);
        let output = within(self.limit, pid, move || child.wait_with_output())??;
        if !output.status.success() {
            bail!("`{}` failed: {}", self.shown(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it with its standard error shown, and gives its standard output.
    ///
    /// # Errors
    /// It cannot be started, hangs or fails.
    pub(crate) fn answer(mut self) -> anyhow::Result<String> {
        self.show();
        self.command.stdout(Stdio::piped());
        let child = self.spawn()?;
        let pid = Pid::from_child(&child);
        let output = within(self.limit, pid, move || child.wait_with_output())??;
        self.succeeded(output.status)?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs it quietly with both outputs written to a file.
    ///
    /// # Errors
    /// It cannot be started or hangs, or the file cannot be made. A failure is not an error: the status says so.
    pub(crate) fn log_to(mut self, file: &Path) -> anyhow::Result<ExitStatus> {
        let log = std::fs::File::create(file).with_context(|| format!("`{}` cannot be made", file.display()))?;
        self.command.stdout(log.try_clone()?).stderr(log);
        let child = self.spawn()?;
        wait(child, self.limit)
    }

    fn succeeded(&self, status: ExitStatus) -> anyhow::Result<()> {
        if !status.success() {
            bail!("`{}` failed ({status})", self.shown());
        }
        Ok(())
    }

    fn spawn(&mut self) -> anyhow::Result<Child> {
        self.command.spawn().with_context(|| format!("`{}` cannot be started", self.command.get_program().display()))
    }

    fn show(&self) {
        eprintln!("  $ {}", self.shown());
    }

    fn shown(&self) -> String {
        let program = Path::new(self.command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str()).to_os_string();
        let words: Vec<OsString> = std::iter::once(name).chain(self.command.get_args().map(OsString::from)).collect();
        words.join(OsStr::new(" ")).to_string_lossy().into_owned()
    }
}

fn tee(lines: impl BufRead, mut seen: impl FnMut(&str)) {
    for line in lines.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        seen(&line);
    }
}

fn wait(mut child: Child, limit: Duration) -> anyhow::Result<ExitStatus> {
    let pid = Pid::from_child(&child);
    Ok(within(limit, pid, move || child.wait())??)
}

/// Runs `finish`, which waits for the process `pid`, and ends the process's group when the limit passes first.
fn within<T: Send + 'static>(
    limit: Duration,
    pid: Pid,
    finish: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(finish()));
    receiver.recv_timeout(limit).or_else(|_| {
        let _ = kill_process_group(pid, Signal::KILL);
        bail!("a command still ran after {} seconds and was ended", limit.as_secs())
    })
}

/// How long a command may run unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(15 * 60);
