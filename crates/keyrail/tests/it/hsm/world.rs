//! A home with a token, and the binary run so that it finds the token.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use keyrail_testkit::Server;
use keyrail_testkit::softhsm::{PIN, Shim, SoftHsm, TOKEN};
use serde_json::Value;

use crate::client::Http;
use crate::place::{Place, Ran};

/// How long anything may take.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

const KEY: &str = "acme/prod/crm/customer-pii";

pub(super) struct World {
    pub(super) place: Place,
    pub(super) hsm: SoftHsm,
    pub(super) shim: Shim,
}

impl World {
    pub(super) fn new() -> Self {
        let hsm = SoftHsm::new().unwrap();
        let shim = hsm.shim().unwrap();
        let world = Self { place: Place::new(), hsm, shim };
        world.write_pin(PIN);
        world
    }

    /// Writes the PIN's file, anew each time.
    pub(super) fn write_pin(&self, pin: &str) {
        let path = self.place.file("pin");
        let _absent = std::fs::remove_file(&path);
        std::fs::write(&path, format!("{pin}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// The key `root` by the module of SoftHSM2.
    pub(super) fn spec(&self) -> String {
        self.spec_of(&SoftHsm::module().unwrap(), "root")
    }

    pub(super) fn spec_of(&self, module: &Path, object: &str) -> String {
        let (token, object) = (TOKEN.replace(' ', "%20"), object.replace(' ', "%20"));
        let pin = self.place.file("pin");
        format!("pkcs11:{}?token={token}&object={object}&pin-file={}", module.display(), pin.display())
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let dir = self.place.data_dir();
        let mut command = self.place.command(&["--data-dir", dir.to_str().unwrap()]);
        command.args(args).env("KEYRAIL_LOG", "debug");
        self.hsm.equip(&mut command);
        self.shim.equip(&mut command).unwrap();
        command
    }

    pub(super) fn run(&self, args: &[&str]) -> Ran {
        Place::finish(self.command(args), b"")
    }

    pub(super) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.text(), ran.stderr);
        ran
    }

    /// Makes a store with a key; gives the owner's token.
    pub(super) fn init(&self, spec: &str) -> String {
        let made = self.ok(&["init", "--json", "--root", spec]).json();
        for line in ["domain create acme", "app create acme/prod/crm"] {
            self.ok(&line.split(' ').collect::<Vec<_>>());
        }
        self.ok(&["key", "create", KEY, "--label", "internal"]);
        made["token"].as_str().unwrap().to_owned()
    }

    pub(super) fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        let ran = Place::finish(self.command(&["encrypt", KEY]), plaintext);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
    }

    pub(super) fn decrypt(&self, ciphertext: &[u8]) -> Vec<u8> {
        let ran = Place::finish(self.command(&["decrypt", KEY]), ciphertext);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
    }

    pub(super) fn serve(&self) -> Server {
        self.place.serve_with(self.command(&["serve", "--listen", "127.0.0.1:0"]))
    }

    pub(super) fn seal_of(&self, url: &str) -> Value {
        Http::new(url, None).send(Method::GET, "/v1/health/seal", &[], &Value::Null).json()
    }

    /// Waits until the server has tried its root so often by itself, and failed.
    pub(super) fn wait_for_tries(&self, server: &Server, tries: usize) {
        for _ in 0..tries {
            let failed = |line: &str| line.contains("background work failed").then_some(());
            server.child().wait_line(LIMIT, failed).unwrap();
        }
    }

    pub(super) fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let until = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < until, "not in time: {what}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Alters the last byte of the slot in the store.
    pub(super) fn damage_slot(&self) {
        let store = rusqlite::Connection::open(self.place.data_dir().join("store.sqlite")).unwrap();
        let mut slot: Vec<u8> = store.query_row("SELECT slot FROM root_slot", [], |row| row.get(0)).unwrap();
        *slot.last_mut().unwrap() ^= 1;
        assert_eq!(store.execute("UPDATE root_slot SET slot = ?1", [slot]).unwrap(), 1);
    }

    /// Waits until the server says this state, and this cause if there is one.
    pub(super) fn wait_for(&self, url: &str, state: &str, cause: Option<&str>) -> Value {
        let until = Instant::now() + LIMIT;
        loop {
            let said = self.seal_of(url);
            if said["seal"] == state && said["cause"].as_str() == cause {
                return said;
            }
            assert!(Instant::now() < until, "it does not say {state} ({cause:?}): {said}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Logs in with a wrong PIN by another tool.
    pub(super) fn wrong_login(&self) {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(SoftHsm::module().unwrap()).args(["--token-label", TOKEN, "--login"]);
        command.args(["--pin", "0000-wrong", "--list-objects"]);
        self.hsm.equip(&mut command);
        assert!(!command.output().unwrap().status.success(), "a wrong PIN was taken");
    }

    /// Makes a key with the token's own tool.
    pub(super) fn keygen(&self, label: &str, size: &str, attributes: &[&str]) {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(SoftHsm::module().unwrap()).args(["--token-label", TOKEN, "--login", "--pin", PIN]);
        command.args(["--keygen", "--key-type", size, "--label", label]).args(attributes);
        self.hsm.equip(&mut command);
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}
