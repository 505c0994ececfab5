//! Child processes: spawned, waited for with a limit, and ended by their own id.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::dir::target_dir;

/// How long a server may take until it says that it is ready. Far above the promise, for a loaded machine.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// The keyrail binary under test: the one that `KEYRAIL_BIN` names, else the one built beside the running test.
///
/// # Errors
/// There is none: build it with `cargo build -p keyrail`.
pub fn keyrail_bin() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("KEYRAIL_BIN").or_else(|| std::env::var_os("CARGO_BIN_EXE_keyrail"));
    if let Some(path) = named {
        return Ok(PathBuf::from(path));
    }
    let target = target_dir().context("the test does not run from a target directory")?;
    let exe = std::env::current_exe()?;
    let profile = exe.strip_prefix(&target)?.iter().next().context("the test lies outside of a profile")?;
    let path = target.join(profile).join("keyrail");
    if !path.is_file() {
        bail!("`{}` is absent: build it with `cargo build -p keyrail`", path.display());
    }
    Ok(path)
}

/// Runs a command that is over soon.
///
/// # Errors
/// It failed, or it did not end in time; the error holds what it wrote.
pub(crate) fn run_to_end(command: Command) -> anyhow::Result<()> {
    let name = command.get_program().to_owned();
    let ended = Child::start(command)?.wait(RUN_LIMIT)?;
    ensure!(ended.status.success(), "`{}` failed: {}{}", name.display(), ended.stdout, ended.stderr);
    Ok(())
}

/// How long such a command may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// How a child ended, and what it wrote.
#[derive(Debug)]
pub struct Exit {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output; of more than 64 MiB, the beginning and the end.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
    /// How many bytes of both were left out.
    pub left_out: u64,
}

/// How much of each output of a child is kept, in bytes: half of it from the beginning, half from the end.
pub(crate) const KEPT_LEN_MAX: usize = 64 * 1024 * 1024;

/// How many lines wait for who looks at them; of more the oldest go.
const LINES_MAX: usize = 100_000;

/// A line that is longer is taken for several, in bytes.
const LINE_LEN_MAX: u64 = 1024 * 1024;

/// A running child whose two outputs are read as they come. It is killed when it is dropped.
pub struct Child {
    child: std::process::Child,
    pid: Pid,
    stdout: Stream,
    stderr: Stream,
    lines: Arc<Lines>,
}

impl Child {
    /// Starts `command`; standard input is empty unless the command says otherwise before.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("`{}` cannot be started", command.get_program().display()))?;
        let pid = Pid::from_child(&child);
        let lines = Arc::new(Lines::default());
        let stdout = Stream::follow(child.stdout.take().context("no standard output")?, &lines);
        let stderr = Stream::follow(child.stderr.take().context("no standard error")?, &lines);
        Ok(Self { child, pid, stdout, stderr, lines })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line, of either output, that `wanted` turns into something.
    ///
    /// # Errors
    /// No such line came within `limit`, or the child closed its outputs first; the error holds what it wrote.
    pub fn wait_line<T>(&self, limit: Duration, wanted: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.next(deadline) {
                Next::Line(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                }
                Next::TooLate => bail!("no such line within {limit:?}: {}", self.written()),
                Next::Ended => bail!("the child ended before such a line: {}", self.written()),
            }
        }
    }

    /// What it has written so far: standard output, then standard error.
    #[must_use]
    pub fn written(&self) -> String {
        format!("{}{}", self.stdout.text(), self.stderr.text())
    }

    /// Sends it a signal, by its id.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It still runs after `limit`; it is killed then.
    pub fn wait(mut self, limit: Duration) -> anyhow::Result<Exit> {
        if !self.ends_within(limit)? {
            bail!("the child still runs after {limit:?}: {}", self.written());
        }
        self.collect()
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It still runs after `limit`; it is killed then.
    pub fn stop(self, limit: Duration) -> anyhow::Result<Exit> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Ends it at once (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// The system refuses to say how it ended.
    pub fn kill(mut self) -> anyhow::Result<Exit> {
        self.child.kill()?;
        self.collect()
    }

    fn ends_within(&self, limit: Duration) -> anyhow::Result<bool> {
        let handle = pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut waited = [PollFd::new(&handle, PollFlags::IN)];
        let limit = rustix::event::Timespec::try_from(limit)?;
        Ok(poll(&mut waited, Some(&limit))? > 0)
    }

    fn collect(&mut self) -> anyhow::Result<Exit> {
        let status = self.child.wait()?;
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        let left_out = self.stdout.kept.lock().left_out + self.stderr.kept.lock().left_out;
        Ok(Exit { status, stdout, stderr, left_out })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A child that was waited for is gone already; there is nobody left to tell about an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that has said where it listens.
pub struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts `command` and waits for the first line, on either output, that holds an address.
    ///
    /// # Errors
    /// It could not be started, or no address came within `limit`.
    pub fn start(command: Command, limit: Duration) -> anyhow::Result<Self> {
        let child = Child::start(command)?;
        let url = child.wait_line(limit, address)?;
        Ok(Self { child, url })
    }

    /// The base address, such as `http://127.0.0.1:8440`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The process, to wait for, stop or kill it.
    #[must_use]
    pub fn into_child(self) -> Child {
        self.child
    }
}

/// The first `http://` or `https://` address with a port in a line.
fn address(line: &str) -> Option<String> {
    let start = line.find("http://").or_else(|| line.find("https://"))?;
    let rest = line.get(start..)?;
    let end = rest.find(|c: char| !is_address(c)).unwrap_or(rest.len());
    let found = rest.get(..end)?.trim_end_matches(['/', '.', ',']);
    found.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok())?;
    Some(found.to_owned())
}

fn is_address(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".:/[]-".contains(c)
}

/// One output of a child, read by a thread of its own so that the child never blocks on a full pipe.
struct Stream {
    kept: Arc<Mutex<Kept>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Stream {
    fn follow(source: impl Read + Send + 'static, lines: &Arc<Lines>) -> Self {
        let kept = Arc::new(Mutex::new(Kept::new(KEPT_LEN_MAX)));
        lines.state.lock().writers += 1;
        let (to, lines) = (Arc::clone(&kept), Arc::clone(lines));
        let reader = std::thread::spawn(move || {
            follow(source, &to, &lines);
            lines.end();
        });
        Self { kept, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.kept.lock().text()
    }

    /// The whole text; the child has ended, so the reader ends too.
    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}

fn follow(source: impl Read, kept: &Mutex<Kept>, lines: &Lines) {
    let mut source = BufReader::new(source);
    let mut bytes = Vec::new();
    while source.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        kept.lock().push(&bytes);
        lines.push(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        bytes.clear();
    }
}

/// The beginning and the end of an output.
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half_len_max: usize,
    left_out: u64,
}

impl Kept {
    const fn new(len_max: usize) -> Self {
        Self { head: Vec::new(), tail: VecDeque::new(), half_len_max: len_max / 2, left_out: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.half_len_max - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let beyond = self.tail.len().saturating_sub(self.half_len_max);
        self.tail.drain(..beyond);
        self.left_out += beyond as u64;
    }

    fn text(&self) -> String {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let tail = String::from_utf8_lossy(&tail);
        if self.left_out == 0 { head + &tail } else { format!("{head}\n[{} bytes left out]\n{tail}", self.left_out) }
    }
}

/// Lines of both outputs, in the order in which they came.
#[derive(Default)]
struct Lines {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    /// Outputs that are still open.
    writers: usize,
}

enum Next {
    Line(String),
    TooLate,
    Ended,
}

impl Lines {
    /// Nobody may be looking at lines any more: then the oldest make room.
    fn push(&self, line: String) {
        let mut state = self.state.lock();
        if state.lines.len() >= LINES_MAX {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.state.lock().writers -= 1;
        self.changed.notify_all();
    }

    fn next(&self, deadline: Instant) -> Next {
        let mut state = self.state.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                return Next::Line(line);
            }
            if state.writers == 0 {
                return Next::Ended;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Next::TooLate;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, LINES_MAX, Lines, Next, address};
    use std::time::Instant;

    #[test]
    fn of_a_long_output_the_beginning_and_the_end_are_kept() {
        let mut kept = Kept::new(10);
        kept.push(b"abc");
        assert_eq!((kept.text().as_str(), kept.left_out), ("abc", 0));
        kept.push(b"defghij");
        assert_eq!((kept.text().as_str(), kept.left_out), ("abcdefghij", 0));
        for letter in b'k'..=b'z' {
            kept.push(&[letter]);
        }
        assert_eq!((kept.text().as_str(), kept.left_out), ("abcde\n[16 bytes left out]\nvwxyz", 16));
        assert!(kept.head.len() + kept.tail.len() <= 10);
    }

    #[test]
    fn lines_that_nobody_takes_make_room() {
        let lines = Lines::default();
        (0..LINES_MAX + 2).for_each(|number| lines.push(number.to_string()));
        assert_eq!(lines.state.lock().lines.len(), LINES_MAX);
        assert!(matches!(lines.next(Instant::now()), Next::Line(line) if line == "2"));
    }

    #[test]
    fn an_address_is_found_in_a_ready_line() {
        for (line, want) in [
            ("ready: listening on http://127.0.0.1:8440", Some("http://127.0.0.1:8440")),
            ("{\"url\":\"https://127.0.0.1:41\"}", Some("https://127.0.0.1:41")),
            ("listening on http://127.0.0.1:8440/, sealed.", Some("http://127.0.0.1:8440")),
            ("see https://example.org/docs", None),
            ("warning: the key file lies beside the data", None),
        ] {
            assert_eq!(address(line).as_deref(), want, "{line}");
        }
    }
}
