//! The shell that a page's commands are typed into.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use keyrail_testkit::{TempHome, free_port};
use rustix::process::{Pid, Signal, kill_process_group};

use super::pattern;

/// How a command ended.
pub(super) struct Outcome {
    /// Its exit status.
    pub(super) status: i32,
    /// What it wrote to both outputs.
    pub(super) output: Vec<String>,
}

/// A shell in a home of its own. Variables, directories and background commands last until it is dropped, which ends
/// all that it started.
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    home: TempHome,
    outputs: usize,
    port: String,
}

impl Shell {
    /// Starts a shell that finds programs in `path`.
    pub(super) fn start(path: &OsStr) -> anyhow::Result<Self> {
        let home = TempHome::new()?;
        let mut command = Command::new("bash");
        home.house(&mut command);
        command.args(["--noprofile", "--norc"]).process_group(0).env("PATH", path).envs(toolchain());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("the tool `bash` cannot be had")?;
        let input = child.stdin.take().context("no standard input")?;
        let answers = lines_of(child.stdout.take().context("no standard output")?);
        Ok(Self { child, input, answers, home, outputs: 0, port: free_port()?.to_string() })
    }

    /// Runs a command to its end.
    pub(super) fn run(&mut self, command: &str) -> anyhow::Result<Outcome> {
        let file = self.next_output();
        let status = self.give(command, &file)?;
        let text = std::fs::read(&file)?;
        let output = String::from_utf8_lossy(&text).replace(&self.port, DOCUMENTED_PORT);
        Ok(Outcome { status, output: output.lines().map(|line| line.trim_end().to_owned()).collect() })
    }

    /// Starts a command and waits until it has written what the page shows.
    pub(super) fn start_in_background(&mut self, command: &str, wanted: Option<&[String]>) -> anyhow::Result<Outcome> {
        let pipe = self.next_output();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        let (opened, lines) = (pipe.clone(), mpsc::channel());
        std::thread::spawn(move || send_lines(std::fs::File::open(opened)?, &lines.0));
        let status = self.give(command, &pipe)?;
        let mut output = Vec::new();
        let deadline = Instant::now() + READY_LIMIT;
        while wanted.is_some_and(|wanted| !pattern::matches(wanted, &output)) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.1.recv_timeout(left) else { break };
            output.push(line.replace(&self.port, DOCUMENTED_PORT));
        }
        // The rest is read and forgotten, so that the command never waits for a reader.
        std::thread::spawn(move || lines.1.iter().for_each(drop));
        Ok(Outcome { status, output })
    }

    fn give(&mut self, command: &str, output: &Path) -> anyhow::Result<i32> {
        let command = command.replace(DOCUMENTED_PORT, &self.port);
        writeln!(self.input, "{{\n{command}\n}} </dev/null >'{}' 2>&1; echo \"$?\"", output.display())?;
        self.input.flush()?;
        match self.answers.recv_timeout(COMMAND_LIMIT) {
            Ok(status) => Ok(status.parse()?),
            Err(_) => bail!("`{command}` ended the shell, or still ran after {} seconds", COMMAND_LIMIT.as_secs()),
        }
    }

    fn next_output(&mut self) -> PathBuf {
        self.outputs += 1;
        self.home.path().join(format!("output-{}", self.outputs))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may be gone already, with all that it started.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Where cargo and rustup have their files; they look under the home otherwise.
fn toolchain() -> impl Iterator<Item = (&'static str, PathBuf)> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")]
        .map(|(name, dir)| (name, std::env::var_os(name).map_or_else(|| home.join(dir), PathBuf::from)))
        .into_iter()
}

fn lines_of(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || send_lines(source, &sender));
    lines
}

fn send_lines(source: impl Read, sender: &mpsc::Sender<String>) -> std::io::Result<()> {
    for line in BufReader::new(source).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        if sender.send(line).is_err() {
            break;
        }
    }
    Ok(())
}

/// The pages write the port of the default address; a free one stands for it.
const DOCUMENTED_PORT: &str = "8440";

/// How long a command may run.
const COMMAND_LIMIT: Duration = Duration::from_secs(15 * 60);

/// How long a command in the background may take until it has written what the page shows.
const READY_LIMIT: Duration = Duration::from_secs(30);
