//! Real PostgreSQL servers for tests: started, stopped, killed, halted and followed by a standby.
//!
//! A server belongs to who started it, listens on loopback alone, and ends with the test process at the latest. Where
//! the tests run as root, it runs as the user `postgres` or `nobody`, since PostgreSQL refuses to run as root. Its
//! databases sort text by a language (ICU `en`), so that a query that means the order of bytes has to say so.

mod database;
mod host;
mod standby;
mod tls;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::child::Child;
use crate::dir::{TempDir, free_port};
pub use database::{Database, shared};
use host::{Host, spawn};

/// How long a server may take to start, stop or answer. Far above what it takes, for a loaded machine.
pub const SERVER_LIMIT: Duration = Duration::from_secs(60);

/// The user that owns a cluster.
pub const SUPERUSER: &str = "postgres";

/// Which PostgreSQL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// PostgreSQL 15, from Debian.
    V15,
    /// PostgreSQL 18, from a package that `cargo xtask` unpacks.
    V18,
}

impl Version {
    /// All that the tests run on.
    pub const ALL: [Self; 2] = [Self::V15, Self::V18];

    /// The directory of its programs: the one that `KEYRAIL_POSTGRES_15` or `KEYRAIL_POSTGRES_18` names, else the usual
    /// one.
    ///
    /// # Errors
    /// They are not there: `cargo xtask tools` and `cargo xtask test` install them.
    pub fn programs(self) -> anyhow::Result<PathBuf> {
        let (variable, usual) = match self {
            Self::V15 => ("KEYRAIL_POSTGRES_15", Some(PathBuf::from("/usr/lib/postgresql/15/bin"))),
            Self::V18 => ("KEYRAIL_POSTGRES_18", crate::dir::target_dir().map(|dir| v18_home(&dir).join("bin"))),
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        let dir = named.or(usual).unwrap_or_default();
        ensure!(
            dir.join("postgres").is_file(),
            "there is no PostgreSQL in `{}`: run `cargo xtask tools`, which installs it, or name it in {variable}",
            dir.display()
        );
        Ok(dir)
    }
}

/// Where `cargo xtask` unpacks PostgreSQL 18: below the target directory, unless the server's user cannot get there.
#[must_use]
pub fn v18_home(target: &Path) -> PathBuf {
    host::reachable(target.join("xtask/postgresql-18"))
}

/// How a server ends when it is asked to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// Transactions are broken off, the files are left clean.
    Fast,
    /// At once, as after a crash; the next start recovers.
    Immediate,
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which PostgreSQL.
    pub version: Version,
    /// Whether connections over the network must use TLS, under a certificate of [`Cluster::ca_file`].
    pub tls: bool,
    /// Further settings, in the words of `postgresql.conf`.
    pub settings: Vec<(&'static str, String)>,
}

impl Options {
    /// A cluster as it comes: synced, without TLS.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self { version, tls: false, settings: Vec::new() }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }
}

/// A server with its files. Dropped, it ends and its files go.
pub struct Cluster {
    version: Version,
    host: Host,
    port: u16,
    server: Mutex<Option<Child>>,
    /// The last field, so that the server has ended when the files go.
    dir: TempDir,
}

impl Cluster {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// PostgreSQL is not there, or does not start.
    pub fn start(version: Version) -> anyhow::Result<Self> {
        Self::start_with(&Options::new(version))
    }

    /// The same, as `options` say.
    ///
    /// # Errors
    /// PostgreSQL is not there, or does not start.
    pub fn start_with(options: &Options) -> anyhow::Result<Self> {
        let cluster = Self::place(options.version)?;
        cluster.init(options)?;
        cluster.run()?;
        Ok(cluster)
    }

    fn place(version: Version) -> anyhow::Result<Self> {
        let host = Host::find()?;
        let dir = host.place()?;
        Ok(Self { version, host, port: free_port()?, server: Mutex::new(None), dir })
    }

    fn init(&self, options: &Options) -> anyhow::Result<()> {
        let password = hex::encode(rand::random::<[u8; 16]>());
        self.host.write(&self.dir.join("password"), &password)?;
        self.host.write(&self.passfile(), &password_lines(SUPERUSER, &password))?;
        let mut initdb = self.host.command(&self.version.programs()?.join("initdb"));
        initdb.arg("-D").arg(self.data_dir()).arg("--pwfile").arg(self.dir.join("password"));
        initdb.args(["-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--locale-provider=icu", "--icu-locale=en", "--no-sync", "--no-instructions", "--data-checksums"]);
        finish(initdb)?;
        let mut settings = self.settings();
        if options.tls {
            settings.extend(tls::prepare(&self.host, self.dir.path(), &self.data_dir())?);
        }
        settings.extend(options.settings.iter().map(|(name, value)| (*name, value.clone())));
        self.configure(&settings)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        // The path of a socket is limited by the system.
        let socket_fits = self.dir.path().as_os_str().len() < SOCKET_DIR_LEN_MAX;
        let sockets = if socket_fits { self.dir.path().display().to_string() } else { String::new() };
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", sockets),
            // What the kernel keeps for a killed server would outlive it.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("timezone", "UTC".to_owned()),
        ];
        settings.extend(SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())));
        settings
    }

    fn configure(&self, settings: &[(&str, String)]) -> anyhow::Result<()> {
        let path = self.data_dir().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path)?;
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        self.host.write(&path, &text)
    }

    fn run(&self) -> anyhow::Result<()> {
        let mut command = self.host.command(&self.version.programs()?.join("postgres"));
        command.arg("-D").arg(self.data_dir());
        let server = spawn(command)?;
        server.wait_line(SERVER_LIMIT, |line| line.contains("system is ready to accept").then_some(()))?;
        *self.server.lock() = Some(server);
        Ok(())
    }

    /// Which PostgreSQL it is.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Its port on loopback.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its files.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The directory of its unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// A password file with all its users.
    #[must_use]
    pub fn passfile(&self) -> PathBuf {
        self.dir.join("passfile")
    }

    /// The certificate that vouches for the server, where it has TLS.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The URL of a database for the superuser; its password is in the file that the URL names.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    /// The same for another user; see [`Cluster::create_user`].
    #[must_use]
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}?passfile={}", self.port, self.passfile().display())
    }

    /// Runs SQL as the superuser, each statement for itself, and gives what it answers: a line per row, unaligned.
    ///
    /// # Errors
    /// A statement fails; the error holds what the server said.
    pub fn sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let script = tempfile::Builder::new().suffix(".sql").tempfile_in(self.dir.path())?;
        std::fs::write(script.path(), sql)?;
        let mut psql = Command::new(Version::V15.programs()?.join("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            SUPERUSER,
            "-d",
            database,
        ]);
        psql.args(["-p", &self.port.to_string(), "-f"]).arg(script.path());
        psql.env("PGPASSFILE", self.passfile()).env("PGCONNECT_TIMEOUT", "10").env_remove("PGOPTIONS");
        Ok(finish(psql)?.trim_end().to_owned())
    }

    /// Waits until a condition in SQL holds on the server.
    ///
    /// # Errors
    /// It does not within [`SERVER_LIMIT`].
    pub fn wait_for(&self, condition: &str) -> anyhow::Result<()> {
        let sql = format!(
            "DO $$ BEGIN FOR round IN 1..{} LOOP IF ({condition}) THEN RETURN; END IF; \
             PERFORM pg_sleep(0.02); PERFORM pg_stat_clear_snapshot(); END LOOP; RAISE 'it does not come'; END $$",
            SERVER_LIMIT.as_millis() / 40
        );
        self.sql("postgres", &sql).with_context(|| format!("waiting for `{condition}`")).map(drop)
    }

    /// Ends the server.
    ///
    /// # Errors
    /// It does not end in time; it is killed then.
    pub fn stop(&self, how: Stop) -> anyhow::Result<()> {
        let Some(server) = self.server.lock().take() else { return Ok(()) };
        server.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        })?;
        server.wait(SERVER_LIMIT).map(drop)
    }

    /// Ends the server and all its processes at once, as a crash of the machine would.
    ///
    /// # Errors
    /// The system refuses to say how it ended.
    pub fn kill(&self) -> anyhow::Result<()> {
        let Some(server) = self.server.lock().take() else { return Ok(()) };
        // A halted server starts no further process while they are listed.
        server.signal(Signal::STOP)?;
        for process in processes_of(&server)? {
            let _gone_already = kill_process(process, Signal::KILL);
        }
        server.kill()?;
        Ok(())
    }

    /// Starts the server again, on the same port; one that runs is stopped first.
    ///
    /// # Errors
    /// It does not stop or start.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop(Stop::Fast)?;
        self.run()
    }

    /// Halts the server with all its processes: connections stay open and nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::STOP)
    }

    /// Lets a halted server go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        let server = self.server.lock();
        let Some(server) = server.as_ref() else { bail!("the server does not run") };
        server.signal(signal)?;
        for process in processes_of(server)? {
            let _gone_already = kill_process(process, signal);
        }
        Ok(())
    }

    /// What the server has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.lock().as_ref().map(Child::written).unwrap_or_default()
    }

    fn end(&self) -> anyhow::Result<()> {
        let _not_running = self.resume();
        if let Some(server) = self.server.lock().take() {
            server.signal(Signal::QUIT)?;
            server.wait(SERVER_LIMIT)?;
            return Ok(());
        }
        // What a killed server has left in the kernel: the last number of the seventh line.
        let Ok(left) = std::fs::read_to_string(self.data_dir().join("postmaster.pid")) else { return Ok(()) };
        if let Some(id) = left.lines().nth(6).and_then(|line| line.split_whitespace().last()) {
            let mut remove = Command::new("ipcrm");
            remove.args(["-m", id]);
            let _gone_already = finish(remove);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.end().is_err() {
            let _nobody_to_tell = self.kill();
        }
    }
}

/// The processes that a server has started and that still are.
fn processes_of(server: &Child) -> anyhow::Result<Vec<Pid>> {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid()))?;
    Ok(children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}

/// Runs a command to its end and gives its standard output.
fn finish(command: Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let exit = Child::start(command)?.wait(SERVER_LIMIT)?;
    ensure!(exit.status.success(), "`{name}` failed: {}{}", exit.stdout, exit.stderr);
    Ok(exit.stdout)
}

/// The lines of a password file for a user: for the server's own host, and for whatever host.
fn password_lines(user: &str, password: &str) -> String {
    ["127.0.0.1", "*"].map(|host| format!("{host}:*:*:{user}:{password}\n")).concat()
}

/// A socket's path has 108 bytes; the name of the socket itself takes up to 22.
const SOCKET_DIR_LEN_MAX: usize = 85;

/// Small, and with all that a standby needs.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "16MB"),
    ("max_connections", "100"),
    ("max_wal_senders", "5"),
    ("wal_keep_size", "64MB"),
    ("max_prepared_transactions", "5"),
    ("jit", "off"),
    ("huge_pages", "off"),
];
