//! A second root: shares that go out and come in, a root that is lost, and moving to another one while the store is
//! in use.

mod interop;
mod killed;
mod killed_key;
mod rotated;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use keyrail_testkit::Server;
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::{Place, Ran};

const KEY: &str = "acme/prod/crm/customer-pii";

/// A store whose root key lies beside its data directory, with five shares in files, any three of which open it.
struct Recoverable {
    place: Place,
    token: String,
    sealed: Vec<u8>,
}

fn recoverable() -> Recoverable {
    let place = Place::new();
    let (root, shares) = (place.file("root.key"), place.file("shares"));
    let line = format!("init --root keyfile:{} --recovery shamir:3/5 --json --shares-dir", root.display());
    let made = place.run(&format!("{line} {}", shares.display())).json();
    assert_eq!((&made["recovery"]["set"]["threshold"], &made["recovery"]["set"]["total"]), (&json!(3), &json!(5)));
    for line in ["domain create acme", "app create acme/prod/crm", &format!("key create {KEY} --label confidential")] {
        place.ok(line);
    }
    let sealed = place.run_in(&format!("encrypt {KEY}"), b"what must not be lost").stdout;
    Recoverable { place, token: made["token"].as_str().unwrap().to_owned(), sealed }
}

impl Recoverable {
    fn share(&self, number: usize) -> PathBuf {
        self.place.file("shares").join(format!("share-{number}.txt"))
    }

    /// The text of a share without what stands around it.
    fn text(&self, number: usize) -> String {
        let content = std::fs::read_to_string(self.share(number)).unwrap();
        content.lines().find(|line| line.starts_with("krs1.")).unwrap().to_owned()
    }

    fn spec(&self, numbers: &[usize]) -> String {
        let paths: Vec<_> = numbers.iter().map(|number| self.share(*number).display().to_string()).collect();
        format!("shamir:{}", paths.join(","))
    }

    fn opens(&self) {
        let ran = self.place.run_in(&format!("decrypt {KEY}"), &self.sealed);
        assert_eq!((ran.code, ran.text().as_str()), (0, "what must not be lost"), "{}", ran.stderr);
        self.place.ok("verify");
    }

    /// A server that takes roots of trust from this place.
    fn serve(&self) -> Server {
        let (dir, here) = (self.place.data_dir(), self.place.home.work().to_owned());
        let places = ["keyfile", "passphrase-file"].map(|kind| format!("--allow-root={kind}:{}", here.display()));
        let mut command = self.place.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(dir).args(places);
        self.place.serve_with(command)
    }

    fn slots(&self) -> Vec<Value> {
        slots(&self.place.run("root status --json"))
    }

    fn lose_the_root(&self) {
        std::fs::rename(self.place.file("root.key"), self.place.file("lost")).unwrap();
    }
}

fn slots(status: &Ran) -> Vec<Value> {
    status.json()["slots"].as_array().unwrap().clone()
}

fn refused(ran: &Ran, says: &str) {
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains(says) && ran.stderr.contains("\nhint: "), "{}", ran.stderr);
}

#[test]
fn shares_are_files_of_their_owner_and_rehearsing_them_is_noted() {
    let store = recoverable();
    for number in 1..=5 {
        let metadata = std::fs::metadata(store.share(number)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(store.text(number).len(), 116);
    }
    assert_eq!(std::fs::metadata(store.place.file("shares")).unwrap().mode() & 0o777, 0o700);
    let recovery = |slots: &[Value]| slots.iter().find(|slot| slot["role"] == "recovery").unwrap().clone();
    let before = recovery(&store.slots());
    assert!(before["warning"].as_str().unwrap().contains("nobody has proved yet"), "{before}");
    assert!(before.get("rehearsed_at").is_none());
    let proved = store.place.run(&format!("root rehearse --root {} --json", store.spec(&[5, 1, 3]))).json();
    assert_eq!(proved["id"], before["id"]);
    let after = recovery(&store.slots());
    assert!(after["rehearsed_at"].is_string() && after.get("warning").is_none(), "{after}");
    // From standard input, as people type them, and all of them at once.
    let typed = format!("{}\n{}\n{}\n", store.text(2).to_uppercase(), store.text(4).replace('-', " "), store.text(1));
    assert_eq!(store.place.run_in("root rehearse --root shamir:-", typed.as_bytes()).code, 0);
    store.place.ok(&format!("root rehearse --root shares-dir:{}", store.place.file("shares").display()));
    // The primary root can be rehearsed, too.
    store.place.ok(&format!("root rehearse --root keyfile:{}", store.place.file("root.key").display()));
    let log = store.place.run("audit show --limit 100 --json").text();
    assert_eq!(log.matches("\"action\":\"root.rehearse\"").count(), 4, "{log}");
    store.opens();
}

#[test]
fn a_bad_share_is_named() {
    let store = recoverable();
    let other = recoverable();
    let rehearse = |spec: &str| store.place.run(&format!("root rehearse --root {spec}"));
    let put = |name: &str, text: &str| {
        let path = store.place.file(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    refused(&rehearse(&store.spec(&[1, 2])), "there are 2 shares, and it takes 3");
    refused(&rehearse(&store.spec(&[1, 2, 2])), "share 2 (number 3): it is given twice");
    let foreign = put("foreign", &other.text(4));
    refused(&rehearse(&format!("{},{foreign}", store.spec(&[1, 2]))), "share 4 (number 3): it belongs to another set");
    let mut typo = store.text(3);
    let sign = if &typo[9..10] == "7" { "8" } else { "7" };
    typo.replace_range(9..10, sign);
    let typo = put("typo", &typo);
    refused(&rehearse(&format!("{},{typo}", store.spec(&[1, 2]))), "typo`, line 1: its checksum is wrong");
    let cut = put("cut", &store.text(3)[..100]);
    refused(&rehearse(&format!("{},{cut}", store.spec(&[1, 2]))), "cut`, line 1: it is not a whole share");
    // Nothing of it counts as a rehearsal, and all of it is on record.
    assert!(store.slots().iter().all(|slot| slot.get("rehearsed_at").is_none()));
    let log = store.place.run("audit show --limit 100 --json").text();
    assert_eq!(log.matches("\"code\":\"bad_shares\"").count(), 3, "{log}");
    // Shares of another store altogether.
    let wrong = store.place.run(&format!("root rehearse --root {}", other.spec(&[1, 2, 3])));
    assert_eq!(wrong.code, 6, "{}", wrong.stderr);
}

/// What a lost HSM is: the primary root is gone. The shares open the store, and it moves to a new root.
#[test]
fn a_lost_root_is_not_lost_data() {
    let store = recoverable();
    store.lose_the_root();
    assert_eq!(store.place.run(&format!("decrypt {KEY}")).code, 6);
    let status = store.place.run("root status --json");
    assert!(status.text().contains("\"seal\":\"root-unavailable\""), "{}", status.text());
    let new = store.place.file("new.key");
    let few = store.place.run(&format!("root migrate --to keyfile:{} --root {}", new.display(), store.spec(&[4, 5])));
    refused(&few, "there are 2 shares, and it takes 3");
    let line = format!("root migrate --to keyfile:{} --root {}", new.display(), store.spec(&[2, 4, 5]));
    store.place.ok(&line);
    store.opens();
    let slots = store.slots();
    assert_eq!(slots.len(), 2, "{slots:?}");
    // The root that was lost opens nothing any more, should somebody find it.
    std::fs::rename(store.place.file("lost"), store.place.file("root.key")).unwrap();
    std::fs::write(
        store.place.data_dir().join("root-of-trust"),
        format!("keyfile:{}\n", store.place.file("root.key").display()),
    )
    .unwrap();
    let found = store.place.run("root status --json");
    assert!(found.text().contains("\"seal\":\"wrong-secret\""), "{}", found.text());
}

/// The same on a server that started without its root.
#[test]
fn shares_open_the_store_of_a_running_server() {
    let store = recoverable();
    store.lose_the_root();
    let server = store.serve();
    let url = server.url().to_owned();
    let post =
        |token: Option<&str>, path: &str, body: &Value| Http::new(&url, token).send(Method::POST, path, &[], body);
    let texts =
        |numbers: &[usize]| json!({ "shares": numbers.iter().map(|number| store.text(*number)).collect::<Vec<_>>() });
    let owner = Some(store.token.as_str());
    assert_eq!(post(owner, "/v1/system/unseal", &json!({})).status, 503);
    let few = post(owner, "/v1/system/unseal", &texts(&[1, 2]));
    assert_eq!((few.status, few.code().as_str()), (400, "bad_shares"), "{}", few.text);
    // Three shares open the store for whoever may open it, and for nobody else.
    assert_eq!(post(None, "/v1/system/unseal", &texts(&[1, 2, 3])).status, 401);
    assert_eq!(post(owner, &format!("/v1/keys/{KEY}/rotate"), &json!({})).status, 503);
    let remote = |line: &str| {
        let mut args = vec!["--server", &url, "--token-file"];
        let file = store.place.file("token");
        std::fs::write(&file, &store.token).unwrap();
        let file = file.display().to_string();
        args.push(&file);
        args.extend(line.split(' '));
        store.place.run_with(&args, b"")
    };
    refused(
        &remote("root unseal --root keyfile:/nowhere"),
        "with the root that is written down, or with recovery shares",
    );
    let opened = remote(&format!("root unseal --root {} --json", store.spec(&[1, 3, 5])));
    assert_eq!(opened.json(), json!({ "seal": "unsealed" }));
    let moved = remote(&format!("root migrate --to keyfile:{} --json", store.place.file("new.key").display()));
    assert_eq!(moved.json()["role"], "primary");
    assert_eq!(slots(&remote("root status --json")).len(), 2);
    server.into_child().stop(crate::place::READY).unwrap();
    store.opens();
}

/// Requests go on all the time while the store is moved to and fro; none of them fails.
#[test]
fn a_store_in_use_is_moved_and_no_request_notices() {
    let store = recoverable();
    let server = store.serve();
    let url = server.url().to_owned();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let http = Http::new(&url, Some(&store.token));
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        http.post(&format!("/v1/keys/{KEY}/encrypt"), &json!({ "items": [{ "plaintext": "aGk=" }] }));
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let owner = Http::new(&url, Some(&store.token));
        for number in 0..6 {
            let to = match number % 2 {
                0 => format!("keyfile:{}", store.place.file(&format!("{number}.key")).display()),
                _ => {
                    let path = store.place.file(&format!("{number}.pass"));
                    std::fs::write(&path, format!("passphrase {number}")).unwrap();
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
                    format!("passphrase-file:{}", path.display())
                }
            };
            let moved = owner.post("/v1/system/root/migrate", &json!({ "to": to }));
            assert_eq!((&moved["role"], &moved["in_use"]), (&json!("primary"), &json!(true)));
            let shown = owner.get("/v1/system/root");
            assert_eq!((shown["root"].as_str(), shown["slots"].as_array().unwrap().len()), (Some(to.as_str()), 2));
        }
        let same = owner.send(
            Method::POST,
            "/v1/system/root/migrate",
            &[],
            &json!({ "to": owner.get("/v1/system/root")["root"] }),
        );
        assert_eq!((same.status, same.code().as_str()), (400, "invalid"), "{}", same.text);
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 20, "work went on");
        }
    });
    server.into_child().stop(crate::place::READY).unwrap();
    store.opens();
    store.place.ok(&format!("root rehearse --root {}", store.spec(&[1, 2, 3])));
}

/// A new set beside the old one; then the old one goes. What opens the store cannot be taken away.
#[test]
fn a_set_of_shares_is_replaced() {
    let store = recoverable();
    let dir = store.place.file("second");
    let made =
        store.place.run(&format!("root deal --recovery shamir:2/3 --shares-dir {} --json", dir.display())).json();
    refused(
        &store.place.run(&format!("root deal --recovery shamir:2/3 --shares-dir {}", dir.display())),
        "holds shares already",
    );
    store.place.ok(&format!("root rehearse --root shares-dir:{}", dir.display()));
    let slots = store.slots();
    assert_eq!(slots.len(), 3);
    let id = |slot: &Value| slot["id"].as_str().unwrap().to_owned();
    let primary = slots.iter().find(|slot| slot["role"] == "primary").unwrap();
    let old = slots.iter().find(|slot| slot["role"] == "recovery" && slot["id"] != made["slot"]).unwrap();
    refused(&store.place.run(&format!("root remove {}", id(primary))), "this slot opens the store");
    assert_eq!(store.place.run("root remove 00").code, 4);
    store.place.ok(&format!("root remove {}", id(old)));
    assert_ne!(store.place.run(&format!("root rehearse --root {}", store.spec(&[1, 2, 3]))).code, 0);
    store.place.ok(&format!("root rehearse --root shares-dir:{}", dir.display()));
    // Printed, in plain text and as JSON; and no more ways to open it than there may be.
    for _ in 0..6 {
        let shown = store.place.ok("root deal --recovery shamir:2/2");
        assert_eq!(shown.text().matches("krs1.").count(), 2, "{}", shown.text());
    }
    let many = store.place.run("root deal --recovery shamir:2/2");
    assert_eq!(many.code, 2, "{}", many.stderr);
    assert!(many.stderr.contains("there are 8 ways to open the store"), "{}", many.stderr);
    store.opens();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let place = Place::new();
    for (line, says) in [
        ("init --recovery shamir:1/3", "2"),
        ("init --recovery shamir:2/17", "16"),
        ("init --share-recipient age1x", "--recovery"),
        ("init --recovery shamir:2/2 --share-recipient age1x", "age recipient is age1"),
        ("root deal", "--recovery"),
    ] {
        let ran = place.run(line);
        assert_eq!(ran.code, 2, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{line}: {}", ran.stderr);
    }
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    refused(
        &place.run(&format!("init --recovery shamir:2/2 --share-recipient {recipient}")),
        "encrypted shares are files",
    );
    let dir = place.file("s");
    let few = format!("init --recovery shamir:2/3 --share-recipient {recipient} --shares-dir {}", dir.display());
    refused(&place.run(&few), "there are 1 recipients for 3 shares");
    assert!(!place.data_dir().join("store.sqlite").exists() || place.run("root status").code != 0);
    let store = recoverable();
    let shares = store.spec(&[1, 2, 3]);
    refused(
        &store.place.run(&format!("root migrate --to {shares}")),
        "cannot be the root that opens the store at a start",
    );
    let same = format!("root migrate --to keyfile:{}", store.place.file("root.key").display());
    refused(&store.place.run(&same), "opens the store already");
}

/// Over the network a root comes from where the server was told that roots come from, and a refused one is on record with
/// its place.
#[test]
fn a_server_takes_roots_from_nowhere_else() {
    let store = recoverable();
    let server = store.place.serve();
    let http = Http::new(server.url(), Some(&store.token));
    let post = |path: &str, body: &Value| http.send(Method::POST, path, &[], body);
    let to = format!("keyfile:{}", store.place.file("new.key").display());
    for (path, body) in [
        ("/v1/system/root/migrate", json!({ "to": to })),
        ("/v1/system/root/migrate", json!({ "to": "pkcs11:/usr/lib/none.so?token=t&object=o&pin-file=/p" })),
        ("/v1/system/root/rehearse", json!({ "root": to })),
    ] {
        let refused = post(path, &body);
        assert_eq!((refused.status, refused.code().as_str()), (409, "root_place"), "{body}: {}", refused.text);
        assert!(refused.text.contains("--allow-root"), "{}", refused.text);
    }
    assert!(!store.place.file("new.key").exists(), "nothing is made");
    let configured = format!("keyfile:{}", store.place.file("root.key").display());
    assert_eq!(post("/v1/system/root/rehearse", &json!({ "root": configured })).status, 200);
    assert_eq!(post("/v1/system/root/rehearse", &json!({})).status, 200);
    let records = http.get("/v1/audit/records?limit=100").to_string();
    assert_eq!(records.matches(&format!("\"resource\":\"{to}\"")).count(), 2, "{records}");
    // Shares are texts that somebody sends, and not files that the server reads, nor its standard input.
    for root in ["shamir:-", "shares-dir:/"] {
        let refused = post("/v1/system/root/rehearse", &json!({ "root": root }));
        assert_eq!((refused.status, refused.code().as_str()), (400, "invalid"), "{}", refused.text);
    }
    // More than are looked at is told, whatever they are.
    let many = json!({ "shares": vec![store.text(1); 65] });
    let refused = post("/v1/system/root/rehearse", &many);
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_shares"), "{}", refused.text);
    assert!(refused.text.contains("there are 65 shares, and may be 64 at most"), "{}", refused.text);
}

fn make_pipe(path: &std::path::Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A pipe that nobody writes to keeps a request for as long as is allowed, and the server from nothing: it is sealed, opened
/// and ended meanwhile.
#[test]
fn a_pipe_that_nobody_writes_to_stops_nobody() {
    let store = recoverable();
    let pipe = store.place.file("pipe");
    make_pipe(&pipe);
    let server = store.serve();
    let url = server.url().to_owned();
    let root = format!("passphrase-file:{}", pipe.display());
    let waiting: Vec<_> =
        [("/v1/system/root/rehearse", json!({ "root": root })), ("/v1/system/root/migrate", json!({ "to": root }))]
            .into_iter()
            .map(|(path, body)| {
                let (url, token) = (url.clone(), store.token.clone());
                std::thread::spawn(move || Http::new(&url, Some(&token)).send(Method::POST, path, &[], &body))
            })
            .collect();
    for request in waiting {
        let answer = request.join().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (503, "root_failed"), "{}", answer.text);
    }
    let owner = Http::new(&url, Some(&store.token));
    for path in ["/v1/system/seal", "/v1/system/unseal"] {
        assert_eq!(owner.send(Method::POST, path, &[], &Value::Null).status, 200);
    }
    let ended = server.into_child().stop(crate::place::READY).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    store.opens();
}

/// What is kept nowhere is handed out before anything can go wrong: here the root is asked for again, and nobody answers.
#[test]
fn shares_and_token_are_handed_out_before_the_store_is_opened() {
    let place = Place::new();
    let (pipe, shares) = (place.file("pipe"), place.file("shares"));
    make_pipe(&pipe);
    let mut command = place.command(&["init", "--json", "--data-dir"]);
    command.arg(place.data_dir()).arg("--root").arg(format!("passphrase-file:{}", pipe.display()));
    command.args(["--recovery", "shamir:2/3", "--shares-dir"]).arg(&shares);
    let child = keyrail_testkit::Child::start(command).unwrap();
    std::fs::write(&pipe, "once\n").unwrap();
    let told =
        child.wait_line(crate::place::READY, |line| line.contains("\"token\"").then(|| line.to_owned())).unwrap();
    assert!(told.contains("share-3.txt"), "{told}");
    assert!((1..=3).all(|number| shares.join(format!("share-{number}.txt")).is_file()));
    child.kill().unwrap();
    place.ok(&format!(
        "root migrate --to keyfile:{} --root shares-dir:{}",
        place.file("new.key").display(),
        shares.display()
    ));
    place.ok("verify");
}

/// A pipe that takes nothing more until somebody reads.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while std::io::Write::write(&mut writer, b"\n").is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// As long as nobody has taken what is told once, nothing else is done: the data directory is still held.
#[test]
fn new_shares_are_handed_out_before_the_store_is_closed() {
    let store = recoverable();
    // The answer to an exposure voids those that were dealt before.
    ["deal", "exposed"].iter().for_each(|verb| require_handed_out_first(&store, verb));
}

fn require_handed_out_first(store: &Recoverable, verb: &str) {
    let (dir, (mut reader, writer)) = (store.place.file(verb), full_pipe());
    let mut command = store.place.command(&["root", verb, "--recovery", "shamir:2/3", "--json", "--data-dir"]);
    command.arg(store.place.data_dir()).arg("--shares-dir").arg(&dir).stdout(writer);
    let mut child = command.spawn().unwrap();
    // Else the reader sees no end.
    drop(command);
    let until = std::time::Instant::now() + crate::place::READY;
    while !dir.join("share-3.txt").exists() {
        assert!(std::time::Instant::now() < until, "there are no shares");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let other = store.place.run("domain create other --json");
    assert!(other.stderr.contains("data_dir_in_use"), "it was closed before: {}{}", other.text(), other.stderr);
    let mut told = String::new();
    std::io::Read::read_to_string(&mut reader, &mut told).unwrap();
    assert!(child.wait().unwrap().success() && told.contains("share-3.txt"), "{told}");
    store.place.ok(&format!("root rehearse --root shares-dir:{}", dir.display()));
}
