//! A home with a data directory, and the binary run in it.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyrail_testkit::softhsm::{PIN, SoftHsm, TOKEN};
use keyrail_testkit::{Server, TempHome, keyrail_bin};
use serde_json::Value;

/// How long a server may take to say that it listens.
pub(crate) const READY: std::time::Duration = std::time::Duration::from_secs(60);

pub(crate) struct Place {
    pub(crate) home: TempHome,
    /// What each command finds in its environment besides.
    env: Vec<(OsString, OsString)>,
    /// What opens its stores, if that is no key file beside the data.
    root: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The last line of the output as JSON.
    pub(crate) fn last_json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(self.text().lines().last().unwrap()).unwrap()
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { home: TempHome::new().unwrap(), env: Vec::new(), root: None }
    }

    /// A place whose commands are equipped like this one.
    pub(crate) fn equipped(equip: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("nothing");
        equip(&mut command);
        let env = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        Self { env: env.collect(), ..Self::new() }
    }

    /// A place whose stores are opened by the key with this label on a token.
    pub(crate) fn on_token(hsm: &SoftHsm, module: &Path, object: &str) -> Self {
        let place = Self::equipped(|command| hsm.equip(command));
        let pin = place.file("pin");
        std::fs::write(&pin, PIN).unwrap();
        std::fs::set_permissions(&pin, PermissionsExt::from_mode(0o600)).unwrap();
        let token = TOKEN.replace(' ', "%20");
        let root = format!("pkcs11:{}?token={token}&object={object}&pin-file={}", module.display(), pin.display());
        Self { root: Some(root), ..place }
    }

    /// The command line that makes a store here.
    pub(crate) fn init(&self) -> String {
        self.root.as_ref().map_or("init --json".to_owned(), |root| format!("init --json --root {root}"))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.work().join("D")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.work().join(name)
    }

    /// The binary, in this home.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(keyrail_bin().unwrap());
        self.home.house(&mut command);
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &[u8]) -> Ran {
        Self::finish(self.command(args), stdin)
    }

    /// Like [`Self::run_with`], with the program's own log at trace level.
    pub(crate) fn run_traced(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let mut command = self.command(args);
        command.env("KEYRAIL_LOG", "trace");
        Self::finish(command, stdin)
    }

    pub(crate) fn finish(mut command: Command, stdin: &[u8]) -> Ran {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = stdin.to_vec();
        let feeder = std::thread::spawn(move || {
            // A command that refuses before it reads closes the pipe.
            let _closed = input.write_all(&bytes);
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command line that is split at spaces, on the data directory.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_in(line, b"")
    }

    pub(crate) fn run_in(&self, line: &str, stdin: &[u8]) -> Ran {
        let dir = self.data_dir();
        let mut args = vec!["--data-dir", dir.to_str().unwrap()];
        args.extend(line.split(' '));
        self.run_with(&args, stdin)
    }

    pub(crate) fn ok(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.text(), ran.stderr);
        ran
    }

    /// A store with the key `acme/prod/crm/customer-pii`; gives the owner's token.
    pub(crate) fn with_key(&self) -> String {
        let made = self.run(&self.init()).json();
        self.ok("domain create acme");
        self.ok("app create acme/prod/crm");
        self.ok("key create acme/prod/crm/customer-pii --label confidential");
        made["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn serve(&self) -> Server {
        let dir = self.data_dir();
        self.serve_with(self.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()]))
    }

    pub(crate) fn serve_with(&self, command: Command) -> Server {
        Server::start(command, READY).unwrap()
    }
}
