//! Disks that fail under a running server: what callers are told and in what time, what health and metrics say, that work
//! goes on by itself, and that nothing acknowledged is lost. The table of docs/operate/failing-disks.md, row by row.

mod power;
mod reserve;

use std::time::{Duration, Instant};

use http::Method;
use keyrail_testkit::{Disk, Server};
use serde_json::{Value, json};

use crate::client::{Http, Said};
use crate::place::Place;

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// How long the service may take for what it does by itself, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A store with a key, on a disk that fails by script, and a server on it.
struct World {
    place: Place,
    disk: Disk,
    token: String,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let token = place.with_key();
        let disk = Disk::under(&place.data_dir()).unwrap();
        Self { place, disk, token }
    }

    fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    fn serve_with(&self, args: &[&str]) -> Server {
        let dir = self.place.data_dir();
        let all = [&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()], args].concat();
        let mut command = self.place.command(&all);
        self.disk.equip(&mut command);
        self.place.serve_with(command)
    }

    fn owner(&self, server: &Server) -> Http {
        Http::new(server.url(), Some(&self.token))
    }
}

fn encrypt(http: &Http) -> Said {
    let items = json!({ "items": [{ "plaintext": "aGVsbG8=", "context": { "row": "1" } }] });
    http.send(Method::POST, &format!("{KEY}/encrypt"), &[], &items)
}

fn rotate(http: &Http) -> Said {
    http.send(Method::POST, &format!("{KEY}/rotate"), &[], &json!({}))
}

fn code(said: &Said) -> String {
    if said.status < 300 { "done".to_owned() } else { said.code() }
}

/// Tries until it is as it should be.
fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let since = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(since.elapsed() < LIMIT, "{what}: {seen}"),
        }
    }
}

/// What the health page says of a check; `None` while it is well.
fn problem(http: &Http, check: &str) -> Option<String> {
    let ready = http.send(Method::GET, "/v1/health/ready", &[], &Value::Null);
    let checks = ready.json()["checks"].as_array().unwrap().clone();
    let found = checks.into_iter().find(|found| found["name"] == check).unwrap();
    assert_eq!(ready.status == 503, !ready.json()["ready"].as_bool().unwrap());
    (found["ok"] == false).then(|| found["problem"].as_str().unwrap().to_owned())
}

fn metric(http: &Http, line: &str) -> f64 {
    let text = http.send(Method::GET, "/v1/metrics", &[], &Value::Null).text;
    let value = text.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_else(|| panic!("{line}: {text}"));
    value.trim().parse().unwrap()
}

/// A way for the disk to fail, and what comes of it.
struct Row {
    script: &'static str,
    /// What is asked for until it is refused.
    ask: fn(&Http) -> Said,
    /// What the refusals may be.
    refusals: &'static [&'static str],
    /// The check that is not well meanwhile, and words of its problem.
    told: (&'static str, &'static str),
    /// How long an answer may take, in seconds.
    seconds: u64,
}

const fn log(script: &'static str, words: &'static str) -> Row {
    let refusals = &["audit_unavailable", "indeterminate"];
    Row { script, ask: encrypt, refusals, told: ("audit", words), seconds: 20 }
}

const ROWS: [Row; 13] = [
    log("s /journal/ fail:5", "os error 5"),
    log("s /journal/ done:5", "os error 5"),
    log("w /journal/ fail:5", "os error 5"),
    log("w /journal/ done:5", "os error 5"),
    log("wcn /journal/ done:28", "os error 28"),
    log("wcnr / fail:28", "os error 28"),
    log("wcr / full", "os error 28"),
    // A change is not begun where its record would take the room that is kept.
    Row { ask: rotate, refusals: &["audit_unavailable"], ..log("w /journal/ full", "os error 28") },
    Row { seconds: 40, ..log("s /journal/ hang", "the disk has not answered for") },
    Row {
        script: "s store.sqlite fail:5",
        ask: rotate,
        refusals: &["store_failed", "indeterminate"],
        told: ("", ""),
        seconds: 20,
    },
    Row {
        script: "s store.sqlite done:5",
        ask: rotate,
        refusals: &["store_failed", "indeterminate"],
        told: ("", ""),
        seconds: 20,
    },
    Row {
        script: "wcr store.sqlite full",
        ask: rotate,
        refusals: &["store_failed"],
        told: ("store", "full"),
        seconds: 20,
    },
    Row {
        script: "s store.sqlite hang",
        ask: rotate,
        refusals: &["indeterminate", "store_stuck"],
        told: ("store", "has not"),
        seconds: 40,
    },
];

/// Whatever the disk does: a refusal in time, told everywhere; then work goes on by itself, with all that was acknowledged.
#[test]
fn each_fault_refuses_in_time_is_told_and_ends_by_itself() {
    for rows in ROWS.chunks(7) {
        std::thread::scope(|scope| rows.iter().for_each(|row| drop(scope.spawn(|| live_through(row)))));
    }
}

fn live_through(row: &Row) {
    let Row { script, ask, refusals, told: (check, words), seconds } = row;
    let world = World::new();
    let server = world.serve();
    let http = world.owner(&server);
    assert_eq!(code(&ask(&http)), "done", "{script}");
    world.disk.fails(script).unwrap();
    let mut done = 0;
    let refusal = until(script, || {
        let since = Instant::now();
        let code = code(&ask(&http));
        assert!(since.elapsed() < Duration::from_secs(*seconds), "{script}: {code} after {:?}", since.elapsed());
        done += u64::from(code == "done");
        if code == "done" { Err(code) } else { Ok(code) }
    });
    assert!(refusals.contains(&refusal.as_str()), "{script}: {refusal}");
    if !check.is_empty() {
        let seen = until(script, || problem(&http, check).ok_or_else(|| format!("{check} is well")));
        assert!(seen.contains(words), "{script}: {seen}");
        assert_eq!(metric(&http, &format!("keyrail_healthy{{check=\"{check}\"}}")), 0.0, "{script}");
    }
    // What reads is served all the same.
    assert_eq!(http.send(Method::GET, "/v1/health/live", &[], &Value::Null).status, 200);
    world.disk.works().unwrap();
    until(script, || if code(&encrypt(&http)) == "done" { Ok(()) } else { Err("encrypt".to_owned()) });
    until(script, || if code(&rotate(&http)) == "done" { Ok(()) } else { Err("rotate".to_owned()) });
    until(script, || problem(&http, "audit").or(problem(&http, "store")).map_or(Ok(()), Err));
    drop(http);
    let exit = server.into_child().stop(LIMIT).unwrap();
    assert!(exit.status.success(), "{script}: {}", exit.stderr);
    let verified = world.place.run("verify --json");
    assert_eq!(verified.code, 0, "{script}: {}{}", verified.text(), verified.stderr);
    let records = verified.json()["audit"]["records"].as_u64().unwrap();
    assert!(records > done, "{script}: {records} records, and {done} were acknowledged");
}

/// A file whose sync failed is closed for good: the next record goes into another one, and somebody is told.
#[test]
fn a_file_whose_sync_failed_is_followed_by_another() {
    for what in ["fail:5", "done:5"] {
        let world = World::new();
        let server = world.serve();
        let http = world.owner(&server);
        assert_eq!(code(&encrypt(&http)), "done");
        let former = journal(&world);
        world.disk.fails(&format!("s {former} {what}")).unwrap();
        assert_eq!(code(&encrypt(&http)), "audit_unavailable", "{what}");
        // The cause stays, and concerns nobody any more.
        for _ in 0..20 {
            assert_eq!(code(&encrypt(&http)), "done", "{what}");
        }
        assert_ne!(journal(&world), former);
        given_up(&http, "os error 5");
        server.into_child().stop(LIMIT).unwrap();
        assert_eq!(world.place.run("verify").code, 0, "{what}");
    }
}

/// Files that are deleted, cut or exchanged under a running server: told, and nothing acknowledged is lost.
#[test]
fn a_file_that_is_taken_away_is_told_and_nothing_is_lost() {
    let cut = |path: &std::path::Path| std::fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    let remove = |path: &std::path::Path| std::fs::remove_file(path).unwrap();
    let damages: [(&str, fn(&std::path::Path)); 4] =
        [("journal", remove), ("journal", cut), ("audit/checkpoint", remove), ("audit/checkpoint", cut)];
    for (file, damage) in damages {
        let world = World::new();
        let server = world.place.serve();
        let http = world.owner(&server);
        let mut done = 0;
        for _ in 0..20 {
            assert_eq!(code(&encrypt(&http)), "done");
            done += 1;
        }
        let dir = world.place.data_dir();
        damage(&if file == "journal" { dir.join("journal").join(journal(&world)) } else { dir.join(file) });
        // The one that meets it is refused, unless the server looked before.
        let met = code(&encrypt(&http));
        assert!(["done", "audit_unavailable"].contains(&met.as_str()), "{file}: {met}");
        done += u64::from(met == "done");
        given_up(&http, "deleted, replaced or cut");
        assert_eq!(code(&encrypt(&http)), "done", "{file}");
        assert_eq!((problem(&http, "audit"), problem(&http, "store")), (None, None), "{file}");
        drop(http);
        server.into_child().kill().unwrap();
        let again = world.place.serve();
        let records = world.owner(&again).get("/v1/audit/records?limit=1000")["records"].as_array().unwrap().clone();
        let encrypted =
            records.iter().filter(|record| record["action"] == "data.encrypt" && record["outcome"] == "done");
        assert_eq!(encrypted.count() as u64, done + 1, "{file}");
        again.into_child().stop(LIMIT).unwrap();
        assert_eq!(world.place.run("verify").code, 0, "{file}");
    }
}

/// The journal file that is written now.
fn journal(world: &World) -> String {
    let names = std::fs::read_dir(world.place.data_dir().join("journal")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("journal-")).max().unwrap()
}

/// Waits until an alarm tells that a file was given up, and the metric with it.
fn given_up(http: &Http, why: &str) {
    until(why, || if metric(http, "keyrail_alarms_total") > 0.0 { Ok(()) } else { Err("no alarm".to_owned()) });
    let records = http.get("/v1/audit/records?limit=1000")["records"].as_array().unwrap().clone();
    let alarm = records.into_iter().find(|record| record["code"] == "log_file_given_up").unwrap();
    assert!(alarm["kind"] == "alarm" && alarm["detail"].to_string().contains(why), "{alarm}");
    assert!(metric(http, "keyrail_log_files_given_up_total") >= 1.0);
}
