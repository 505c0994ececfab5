//! A witness that is not ours (`litewitness` of torchwood) signs our heads, and tells an older copy from the present log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::Method;
use keyrail_testkit::{Child, free_port};
use rusqlite::Connection;
use serde_json::Value;

use crate::anchor::{copy_dir, ends, eventually};
use crate::client::Http;
use crate::place::{Place, READY};

const LIMIT: Duration = Duration::from_secs(60);

/// The program; the run fails without it.
fn litewitness() -> PathBuf {
    let found = std::env::var_os("KEYRAIL_LITEWITNESS").map(PathBuf::from);
    found.expect("KEYRAIL_LITEWITNESS is not set: run `cargo xtask test test`, which installs it")
}

/// A witness with its key in an agent of its own.
struct Witness {
    dir: PathBuf,
    port: u16,
    fingerprint: String,
    _agent: Child,
    running: Option<Child>,
    /// Its public key.
    key: String,
}

impl Witness {
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join("key")).status();
        assert!(made.unwrap().success());
        let said = Command::new("ssh-keygen").args(["-l", "-E", "sha256", "-f"]).arg(dir.join("key")).output().unwrap();
        let fingerprint = String::from_utf8(said.stdout).unwrap().split(' ').nth(1).unwrap().to_owned();
        let socket = socket(&dir);
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(&socket).current_dir(&dir);
        let agent = Child::start(command).unwrap();
        eventually("the agent listens", || {
            let added = Command::new("ssh-add").arg("-q").arg(dir.join("key")).env("SSH_AUTH_SOCK", &socket).output();
            added.unwrap().status.success()
        });
        let port = free_port().unwrap();
        let mut witness = Self { dir, port, fingerprint, _agent: agent, running: None, key: String::new() };
        witness.start();
        witness
    }

    fn start(&mut self) {
        let mut command = Command::new(litewitness());
        command
            .args(["-name", "witness.example/w1", "-db"])
            .arg(self.database())
            .arg("-ssh-agent")
            .arg(socket(&self.dir));
        command.args(["-key", &self.fingerprint, "-listen", &format!("127.0.0.1:{}", self.port)]);
        let running = Child::start(command).unwrap();
        let key = |line: &str| Some(line.split_once("vkey=")?.1.trim_matches('"').to_owned());
        self.key = running.wait_line(LIMIT, key).unwrap();
        let port = self.port;
        eventually("the witness listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.running = Some(running);
    }

    fn stop(&mut self) {
        self.running.take().unwrap().kill().unwrap();
    }

    fn database(&self) -> PathBuf {
        self.dir.join("witness.db")
    }

    /// Tells it of a log by its public key, as its operator does.
    fn trust(&self, log_key: &str) {
        let origin = log_key.split('+').next().unwrap();
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let database = Connection::open(self.database()).unwrap();
        database.execute("INSERT INTO log VALUES (?1, 0, ?2)", [origin, empty]).unwrap();
        database.execute("INSERT INTO key VALUES (?1, ?2)", [origin, log_key]).unwrap();
    }

    fn spec(&self) -> String {
        format!("witness:http://127.0.0.1:{}#{}", self.port, self.key)
    }

    /// A server, and where it listens: a warning before that line may hold the address of the witness.
    fn serve(&self, place: &Place) -> (Child, String) {
        let dir = place.data_dir();
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap(), "--anchor", &self.spec()];
        let server = Child::start(place.command(&args)).unwrap();
        let url = server.wait_line(READY, |line| Some(line.strip_prefix("listening on ")?.to_owned())).unwrap();
        (server, url)
    }
}

/// The path of a socket may not be long, and that of a test's directory is.
fn socket(dir: &Path) -> PathBuf {
    let short = dir.ancestors().nth(2).unwrap().file_name().unwrap().to_string_lossy().into_owned();
    std::env::temp_dir().join(format!("{short}.agent"))
}

fn log_key(place: &Place) -> String {
    std::fs::read_to_string(place.data_dir().join("log-public-key")).unwrap().trim().to_owned()
}

fn problem(http: &Http) -> String {
    let view = http.get("/v1/system/root");
    view["anchors"][0]["problem"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_witness_signs_what_goes_on_from_what_it_knows_and_tells_an_older_copy() {
    let place = Place::new();
    let token = place.with_key();
    let mut witness = Witness::new(place.file("witness"));
    // It does not know the log: told, with what to do about it.
    let (server, url) = witness.serve(&place);
    let http = Http::new(&url, Some(&token));
    assert!(problem(&http).contains(&format!("give it the key {}", log_key(&place))), "{}", problem(&http));
    witness.trust(&log_key(&place));
    eventually("the witness signs", || http.get("/v1/system/root")["anchor"] == "ok");
    for name in ["one", "two", "three"] {
        http.send(Method::POST, "/v1/domains", &[], &serde_json::json!({ "name": name }));
    }
    server.stop(LIMIT).unwrap();

    // The cosigned head is a checkpoint that verifies here, and by what the witness says.
    let cosigned: Vec<_> = std::fs::read_dir(place.data_dir().join("cosigned")).unwrap().collect();
    let cosigned = cosigned.into_iter().next().unwrap().unwrap().path();
    let note = std::fs::read_to_string(&cosigned).unwrap();
    assert_eq!(note.matches("\n\u{2014} ").count(), 2, "{note}");
    assert!(note.contains("\u{2014} witness.example/w1 "), "{note}");
    place.ok(&format!("audit verify --checkpoint {}", cosigned.display()));
    assert_eq!(
        std::fs::read_to_string(place.data_dir().join("audit/checkpoint")).unwrap().lines().nth(1),
        note.lines().nth(1)
    );

    // An older copy is refused; one that went on as well.
    let (data, newer) = (place.data_dir(), place.file("newer"));
    copy_dir(&data, &newer);
    place.ok(&format!("key rotate acme/prod/crm/customer-pii --anchor {}", witness.spec()));
    std::fs::remove_dir_all(&data).unwrap();
    copy_dir(&newer, &data);
    let refused = ends(&place, &format!("serve --listen 127.0.0.1:0 --json --anchor {}", witness.spec()));
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("\"code\":\"anchor_ahead\""), "{}", refused.stderr);
    (0..3).for_each(|round| drop(place.ok(&format!("domain create more-{round}"))));
    let refused = place.run(&format!("domain create other --json --anchor {}", witness.spec()));
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("\"code\":\"anchor_fork\""), "{}", refused.stderr);

    // One that is down is told, and required where it is.
    witness.stop();
    let refused = place.run(&format!("domain create other --json --anchor-required --anchor {}", witness.spec()));
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("\"code\":\"anchor_unavailable\""), "{}", refused.stderr);
}

#[test]
fn a_witness_that_is_down_is_told_and_signs_all_when_it_is_back() {
    let place = Place::new();
    let token = place.with_key();
    let mut witness = Witness::new(place.file("witness"));
    witness.trust(&log_key(&place));
    let (server, url) = witness.serve(&place);
    let http = Http::new(&url, Some(&token));
    assert_eq!(http.get("/v1/system/root")["anchor"], "ok");
    witness.stop();
    http.send(Method::POST, "/v1/domains", &[], &serde_json::json!({ "name": "one" }));
    eventually("the witness is missed", || problem(&http).contains("does not answer"));
    assert_eq!(http.send(Method::GET, "/v1/health/ready", &[], &Value::Null).status, 200);
    witness.start();
    eventually("the witness has signed", || {
        let view = http.get("/v1/system/root");
        view["anchor"] == "ok" && view["anchors"][0]["size"].as_u64() > Some(5)
    });
    server.stop(LIMIT).unwrap();
    // Another key than the one that it signs with is none of its signatures.
    let other = Witness::new(place.file("witness-2"));
    let (url, key) = (format!("http://127.0.0.1:{}", witness.port), &other.key);
    let refused = place.run(&format!("domain create two --json --anchor-required --anchor witness:{url}#{key}"));
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("is no signature of witness.example/w1"), "{}", refused.stderr);
}
