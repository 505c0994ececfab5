//! A SoftHSM2 token of one's own, also behind `p11-kit server` and behind a shim that fails by script.
//!
//! Where SoftHSM2 and p11-kit find their files is told by environment variables, so whatever uses the token runs in a
//! child process: see [`SoftHsm::equip`] and [`in_child`].

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::child::{Child, run_to_end};
use crate::dir::TempDir;

/// The user PIN of every token.
pub const PIN: &str = "2718281828459045";

const SO_PIN: &str = "3141592653589793";

/// The label of every token.
pub const TOKEN: &str = "keyrail test";

/// How long a program of the tests' own may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A token in a directory of its own.
pub struct SoftHsm {
    dir: TempDir,
}

impl SoftHsm {
    /// Makes a token with the label [`TOKEN`] and the user PIN [`PIN`].
    ///
    /// # Errors
    /// SoftHSM2 is absent (Debian: `softhsm2`), or does not make a token.
    pub fn new() -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        std::fs::create_dir(dir.join("tokens"))?;
        let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", dir.join("tokens").display());
        std::fs::write(dir.join("softhsm2.conf"), conf)?;
        let hsm = Self { dir };
        hsm.add_token(TOKEN)?;
        Ok(hsm)
    }

    /// Makes another token.
    ///
    /// # Errors
    /// SoftHSM2 is absent, or does not make a token.
    pub fn add_token(&self, label: &str) -> anyhow::Result<()> {
        self.util(&["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN])
    }

    /// Takes the token away, as if it were unplugged; [`SoftHsm::plug_in`] brings it back.
    ///
    /// # Errors
    /// The directory cannot be renamed.
    pub fn unplug(&self) -> anyhow::Result<()> {
        std::fs::rename(self.dir.join("tokens"), self.dir.join("away"))?;
        Ok(std::fs::create_dir(self.dir.join("tokens"))?)
    }

    /// Brings a token back that was taken away.
    ///
    /// # Errors
    /// The directory cannot be renamed.
    pub fn plug_in(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.dir.join("tokens"))?;
        Ok(std::fs::rename(self.dir.join("away"), self.dir.join("tokens"))?)
    }

    /// Where the token's files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The module of SoftHSM2.
    ///
    /// # Errors
    /// It is absent.
    pub fn module() -> anyhow::Result<PathBuf> {
        first_of(&MODULES, "softhsm2")
    }

    /// Lets `command` find this token, whether it loads the module itself or that of p11-kit.
    pub fn equip(&self, command: &mut Command) {
        command.env("SOFTHSM2_CONF", self.dir.join("softhsm2.conf"));
        command.env("P11_KIT_SERVER_ADDRESS", format!("unix:path={}", self.socket().display()));
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("p11-kit.socket")
    }

    /// Starts `p11-kit server` in front of the token; [`P11Server::module`] reaches it.
    ///
    /// # Errors
    /// p11-kit is absent (Debian: `p11-kit`, `p11-kit-modules`), or does not listen in time.
    pub fn serve(&self) -> anyhow::Result<P11Server> {
        let socket = self.socket();
        let _gone = std::fs::remove_file(&socket);
        let mut command = Command::new("p11-kit");
        command.args(["server", "--foreground", "--provider"]).arg(Self::module()?);
        command.arg("--name").arg(&socket).arg("pkcs11:").stdin(Stdio::null()).process_group(0);
        self.equip(&mut command);
        let child = Child::start(command)?;
        // It says where it listens once it does.
        child.wait_line(LIMIT, |line| line.contains("P11_KIT_SERVER_ADDRESS").then_some(()))?;
        Ok(P11Server { child: Some(child) })
    }

    /// Builds the shim, for commands that [`Shim::equip`] equips.
    ///
    /// # Errors
    /// There is no C compiler.
    pub fn shim(&self) -> anyhow::Result<Shim> {
        let (source, module, dir) = (self.dir.join("shim.c"), self.dir.join("shim.so"), self.dir.join("shim"));
        std::fs::write(&source, include_str!("softhsm/shim.c"))?;
        std::fs::create_dir(&dir)?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&module).arg(&source).args(["-ldl", "-lpthread"]);
        run_to_end(compiler).context("the shim cannot be compiled")?;
        Ok(Shim { module, dir })
    }

    fn util(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("softhsm2-util");
        command.args(args);
        self.equip(&mut command);
        run_to_end(command)
    }
}

const MODULES: [&str; 3] =
    ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];

const CLIENTS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib64/pkcs11/p11-kit-client.so",
    "/usr/lib/pkcs11/p11-kit-client.so",
];

fn first_of(paths: &[&str], package: &str) -> anyhow::Result<PathBuf> {
    let found = paths.iter().map(PathBuf::from).find(|path| path.is_file());
    found.with_context(|| format!("none of {paths:?} is there: install `{package}`"))
}

/// A running `p11-kit server`, with a process for each of its clients.
pub struct P11Server {
    child: Option<Child>,
}

impl P11Server {
    /// The module that reaches the server.
    ///
    /// # Errors
    /// It is absent.
    pub fn module() -> anyhow::Result<PathBuf> {
        first_of(&CLIENTS, "p11-kit-modules")
    }

    /// Sends a signal to the server and to the processes of its clients.
    ///
    /// # Errors
    /// They are gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &self.child else { bail!("the server was killed") };
        let pid = Pid::from_raw(i32::try_from(child.pid())?).context("no process id")?;
        Ok(kill_process_group(pid, signal)?)
    }

    /// Ends all of it at once, as a crash would.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        if let Some(child) = self.child.take() {
            child.kill()?;
        }
        Ok(())
    }
}

impl Drop for P11Server {
    fn drop(&mut self) {
        // What was stopped must go on to be killed; a server that is gone needs neither.
        let _ = self.signal(Signal::KILL);
    }
}

/// A module in front of that of SoftHSM2, which fails by script and writes down what is called.
pub struct Shim {
    module: PathBuf,
    dir: PathBuf,
}

impl Shim {
    /// The shim that a parent process built and equipped this one for.
    ///
    /// # Errors
    /// The path has no parent.
    pub fn at(module: &Path) -> anyhow::Result<Self> {
        let dir = module.parent().context("no directory")?.join("shim");
        Ok(Self { module: module.to_owned(), dir })
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// Lets `command` find the script and the real module.
    ///
    /// # Errors
    /// SoftHSM2 is absent.
    pub fn equip(&self, command: &mut Command) -> anyhow::Result<()> {
        command.env("SHIM_MODULE", SoftHsm::module()?).env("SHIM_DIR", &self.dir);
        Ok(())
    }

    /// The next `times` calls of `C_<function>` wait `millis`, then return `code`; code 0 asks the real module.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn script(&self, function: &str, code: u64, times: u64, millis: u64) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.join(function), format!("{code} {times} {millis}"))?)
    }

    /// From now on the token locks itself at the `tries`-th wrong PIN in a row.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn lock_after(&self, tries: u64) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.join("locks"), tries.to_string())?)
    }

    /// Counts no wrong PIN any more, as after the security officer set a new one.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn unlock(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.join("wrong"), "0")?)
    }

    /// The token has counted so many wrong PINs, whoever gave them to it.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn count_wrong(&self, count: u64) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.join("wrong"), count.to_string())?)
    }

    /// How often `C_<function>` was called.
    #[must_use]
    pub fn calls(&self, function: &str) -> usize {
        let calls = std::fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        calls.lines().filter(|line| *line == function).count()
    }
}

/// Runs the test of this name in a child process that is equipped by `equip`: `true` in that child, where the test goes
/// on; `false` in the parent once the child has passed.
///
/// # Errors
/// The test failed in the child.
pub fn in_child(test: &str, equip: impl FnOnce(&mut Command)) -> anyhow::Result<bool> {
    if std::env::var_os(IN_CHILD).is_some() {
        return Ok(true);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", test, "--nocapture"]).env(IN_CHILD, "1");
    equip(&mut command);
    let ended = Child::start(command)?.wait(LIMIT)?;
    let passed = ended.status.success() && ended.stdout.contains("1 passed");
    ensure!(passed, "`{test}` failed in its child: {}{}", ended.stdout, ended.stderr);
    Ok(false)
}

const IN_CHILD: &str = "TESTKIT_IN_CHILD";
