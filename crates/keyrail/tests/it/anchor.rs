//! A rollback of everything, store and log together, is seen by what remembers the log outside the data directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::Method;
use keyrail_testkit::{Child, Server};
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::{Place, Ran};

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";
const LIMIT: Duration = Duration::from_secs(60);

/// A place with an anchor on what stands for another volume.
struct Anchored {
    place: Place,
    token: String,
    anchor: PathBuf,
}

impl Anchored {
    fn new() -> Self {
        let place = Place::new();
        let token = place.with_key();
        let volume = place.file("volume");
        std::fs::create_dir(&volume).unwrap();
        let anchor = volume.join("anchor");
        let made = place.ok(&format!("anchor create {} --json", anchor.display())).json();
        assert_eq!(made["anchor"], format!("file:{}", anchor.display()));
        Self { place, token, anchor }
    }

    fn spec(&self) -> String {
        format!("file:{}", self.anchor.display())
    }

    /// A command that names the anchor, and ends by itself; a server that should have been refused does not.
    fn run(&self, line: &str) -> Ran {
        ends(&self.place, &format!("{line} --anchor {}", self.spec()))
    }

    fn ok(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.text(), ran.stderr);
        ran
    }

    fn serve(&self) -> Server {
        let dir = self.place.data_dir();
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap(), "--anchor", &self.spec()];
        self.place.serve_with(self.place.command(&args))
    }

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.place.file(name);
        copy_dir(&self.place.data_dir(), &copy);
        copy
    }

    fn put_back(&self, copy: &Path) {
        std::fs::remove_dir_all(self.place.data_dir()).unwrap();
        copy_dir(copy, &self.place.data_dir());
    }

    /// How many records the anchor remembers.
    fn size(&self) -> u64 {
        size_in(&self.anchor)
    }

    /// Waits until the anchor knows all that the log has published.
    fn caught_up(&self) {
        let checkpoint = self.place.data_dir().join("audit/checkpoint");
        eventually("the anchor catches up", || self.size() == size_in(&checkpoint));
    }
}

fn size_in(note: &Path) -> u64 {
    std::fs::read_to_string(note).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_dir(&path, &target) } else { std::fs::copy(&path, &target).map(drop).unwrap() }
    }
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Runs a command on the data directory that must end by itself within the limit.
pub(crate) fn ends(place: &Place, line: &str) -> Ran {
    let dir = place.data_dir();
    let args: Vec<&str> = ["--data-dir", dir.to_str().unwrap()].into_iter().chain(line.split(' ')).collect();
    let ended = Child::start(place.command(&args)).unwrap().wait(LIMIT).unwrap();
    Ran { code: ended.status.code().unwrap_or(-1), stdout: ended.stdout.into_bytes(), stderr: ended.stderr }
}

/// Every file below a directory, with its content.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path))
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()))
        }
    }
    found.sort();
    found
}

fn encrypt(http: &Http, items: usize) {
    let items: Vec<_> = (0..items).map(|_| json!({ "plaintext": "aGVsbG8=" })).collect();
    assert_eq!(http.send(Method::POST, &format!("{KEY}/encrypt"), &[], &json!({ "items": items })).status, 200);
}

fn check(http: &Http, name: &str) -> Value {
    let health = http.send(Method::GET, "/v1/health/ready", &[], &Value::Null).json();
    let checks = health["checks"].as_array().unwrap().clone();
    checks.into_iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{health}"))
}

#[test]
fn an_older_copy_of_everything_is_refused_at_the_start_and_left_as_it_is() {
    let world = Anchored::new();
    let older = world.copy("older");
    let (before, _) = (world.size(), world.ok("key rotate acme/prod/crm/customer-pii"));
    assert!(world.size() > before, "the anchor knows the change when the command has ended");
    world.put_back(&older);
    // The copy as the command below finds it, but for the lock.
    let held = content(&world.place.data_dir().join("audit"));
    let says = format!(
        "the log has {before} records, and the anchor at `{}` remembers {}",
        world.anchor.display(),
        world.size()
    );
    for line in ["serve --listen 127.0.0.1:0", "domain create other", "key rotate acme/prod/crm/customer-pii"] {
        let refused = world.run(&format!("{line} --json"));
        assert_eq!(refused.code, 5, "{line}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("\"code\":\"anchor_ahead\"") && refused.stderr.contains(&says),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(content(&world.place.data_dir().join("audit")), held, "the evidence is as it was");
    for line in ["verify", "audit verify", &format!("audit verify --checkpoint {}", world.anchor.display())] {
        assert_eq!(world.run(line).code, 5, "{line}");
    }
    let status = world.ok("root status --json").json();
    assert_eq!(status["anchor"], "failing");
    assert!(status["anchors"][0]["problem"].as_str().unwrap().contains("an older copy was put back"), "{status}");
    // Without the anchor nothing is wrong with it, and the status says that this would not be seen.
    let status = world.place.ok("root status --json").json();
    assert_eq!(status["anchor"], "none");
    assert!(
        status["hint"].as_str().unwrap().contains("a rollback of the whole store together with its log"),
        "{status}"
    );
    world.place.ok("verify");
}

#[test]
fn an_older_copy_that_went_on_is_another_log() {
    let world = Anchored::new();
    let older = world.copy("older");
    let server = world.serve();
    let http = Http::new(server.url(), Some(&world.token));
    (0..300).for_each(|_| encrypt(&http, 1));
    server.into_child().stop(LIMIT).unwrap();
    let newer = world.copy("newer");
    let long = world.size();
    assert!(long > 300, "{long}");
    // Longer than what the anchor remembers, so that its size alone says nothing.
    world.put_back(&older);
    let server = world.place.serve();
    let http = Http::new(server.url(), Some(&world.token));
    (0..400).for_each(|_| encrypt(&http, 1));
    server.into_child().stop(LIMIT).unwrap();
    let refused = world.run("serve --listen 127.0.0.1:0 --json");
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("\"code\":\"anchor_fork\""), "{}", refused.stderr);
    // The right one opens, and the anchor of another store is none of its own.
    world.put_back(&newer);
    world.ok("domain create other");
    let stranger = Place::new();
    stranger.ok("init");
    let refused = stranger.run(&format!("domain create other --json --anchor {}", world.spec()));
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("\"code\":\"anchor_other_log\""), "{}", refused.stderr);
}

/// The journal begins anew at a clean start, so only the tiles tell whether the log goes on from there.
#[test]
fn an_anchor_that_lags_is_proved_from_the_tiles_and_catches_up() {
    let world = Anchored::new();
    let lagging = std::fs::read(&world.anchor).unwrap();
    let server = world.place.serve();
    let http = Http::new(server.url(), Some(&world.token));
    (0..600).for_each(|_| encrypt(&http, 1));
    server.into_child().stop(LIMIT).unwrap();
    world.place.ok("domain create other");
    let server = world.serve();
    world.caught_up();
    assert!(world.size() > 600);
    let view = Http::new(server.url(), Some(&world.token)).get("/v1/system/root");
    assert_eq!((&view["anchor"], &view["anchors"][0]["kind"]), (&json!("ok"), &json!("file")), "{view}");
    assert!(view["anchors"][0]["remembered_at"].is_string(), "{view}");
    server.into_child().stop(LIMIT).unwrap();
    // Under a tile that was altered nothing is proved.
    std::fs::write(&world.anchor, &lagging).unwrap();
    let tile = world.place.data_dir().join("audit/tile/0/000");
    let mut bytes = std::fs::read(&tile).unwrap();
    bytes[32 * 6] ^= 1;
    std::fs::write(&tile, bytes).unwrap();
    let refused = world.run("domain create more --json");
    assert_eq!(refused.code, 5, "{}", refused.stderr);
}

#[test]
fn a_volume_that_is_away_is_told_everywhere_and_missed_only_where_it_is_required() {
    let world = Anchored::new();
    let (volume, away) = (world.place.file("volume"), world.place.file("away"));
    let server = world.serve();
    let http = Http::new(server.url(), Some(&world.token));
    encrypt(&http, 1);
    world.caught_up();
    assert_eq!(check(&http, "anchor")["ok"], true);
    std::fs::rename(&volume, &away).unwrap();
    encrypt(&http, 1);
    eventually("health says that the anchor is away", || check(&http, "anchor")["ok"] == false);
    let ready = http.send(Method::GET, "/v1/health/ready", &[], &Value::Null);
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)), "the service goes on");
    let problem = check(&http, "anchor")["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("it is not there"), "{problem}");
    assert_eq!(http.get("/v1/system/root")["anchor"], "failing");
    let metrics = http.send(Method::GET, "/v1/metrics", &[], &Value::Null).text;
    assert!(metrics.contains("keyrail_healthy{check=\"anchor\"} 0"), "{metrics}");
    assert!(metrics.contains("keyrail_anchor_lag_seconds "), "{metrics}");
    assert!(!volume.exists(), "nothing is made where the volume would be");
    std::fs::rename(&away, &volume).unwrap();
    eventually("the anchor is back", || check(&http, "anchor")["ok"] == true);
    world.caught_up();
    std::fs::rename(&volume, &away).unwrap();
    let ended = server.into_child().stop(LIMIT).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("remembers the newest head again"), "{}", ended.stderr);
    // A start without it goes on with a warning, and is refused where it is required.
    let server = world.serve();
    let http = Http::new(server.url(), Some(&world.token));
    assert_eq!(check(&http, "anchor")["ok"], false);
    server.into_child().stop(LIMIT).unwrap();
    let refused = world.run("serve --listen 127.0.0.1:0 --anchor-required --json");
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("\"code\":\"anchor_unavailable\""), "{}", refused.stderr);
    // One that is required and goes away while it serves takes the readiness with it.
    std::fs::rename(&away, &volume).unwrap();
    let dir = world.place.data_dir();
    let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap(), "--anchor-required"];
    let mut command = world.place.command(&args);
    command.env("KEYRAIL_ANCHORS", world.spec());
    let server = world.place.serve_with(command);
    let http = Http::new(server.url(), Some(&world.token));
    std::fs::rename(&volume, &away).unwrap();
    encrypt(&http, 1);
    let ready = || http.send(Method::GET, "/v1/health/ready", &[], &Value::Null).status;
    eventually("it is not ready without its anchor", || ready() == 503);
    std::fs::rename(&away, &volume).unwrap();
    eventually("it is ready again", || ready() == 200);
}

#[test]
fn a_kill_between_publication_and_anchor_loses_nothing_and_accuses_nobody() {
    let world = Anchored::new();
    for round in 0..keyrail_testkit::scale(100) {
        let server = world.serve();
        let http = Http::new(server.url(), Some(&world.token));
        (0..20 + round).for_each(|_| encrypt(&http, 1));
        server.into_child().kill().unwrap();
        assert!(world.anchor.exists(), "the anchor is whole at every moment");
        world.place.ok(&format!("audit verify --checkpoint {}", world.anchor.display()));
    }
    world.ok("domain create other");
    assert_eq!(world.size(), size_in(&world.place.data_dir().join("audit/checkpoint")));
}

#[test]
fn what_is_no_anchor_is_refused_before_anything_is_opened() {
    let world = Anchored::new();
    for spec in ["elsewhere", "file:", "witness:https://w.example", "witness:https://w.example#key"] {
        let refused = world.place.run(&format!("domain list --anchor {spec}"));
        assert_eq!(refused.code, 2, "{spec}: {}", refused.stderr);
    }
    assert_eq!(world.place.run(&format!("anchor create {}", world.anchor.display())).code, 2, "one is there");
    std::fs::write(&world.anchor, "").unwrap();
    assert_eq!(world.run("domain create other").code, 5, "an empty file remembers nothing");
}
