//! Another root key, while the store is in use: as a matter of course, and after the former one was exposed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::{KEY, Recoverable, recoverable, refused};
use crate::client::Http;

/// How long the rotations may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How many rotations shares may miss.
const LINKS_MAX: usize = 8;

/// Every wrapped key that lies directly under the root key, as the store has it.
fn beneath(store: &Recoverable) -> Vec<Vec<u8>> {
    let path = store.place.data_dir().join("store.sqlite");
    let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql =
        "SELECT wrapped FROM root_secret UNION ALL SELECT wrapped FROM master_key_version WHERE wrapped IS NOT NULL";
    let mut statement = rows.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn recovery_slot(store: &Recoverable) -> Value {
    store.slots().into_iter().find(|slot| slot["role"] == "recovery").unwrap()
}

#[test]
fn a_rotated_root_key_is_opened_by_every_root() {
    let store = recoverable();
    let before = beneath(&store);
    let rotated = store.place.run("root rotate --json").json();
    assert_eq!((&rotated["masters"], rotated["slots"].as_array().unwrap().len()), (&json!(1), 2));
    let after = beneath(&store);
    assert!(
        after.len() == before.len() && after.iter().all(|wrapped| !before.contains(wrapped)),
        "all of it is wrapped anew"
    );
    store.opens();
    // The shares stayed away: they open the store through the former root key, and status says so.
    let slot = recovery_slot(&store);
    assert_eq!(slot["rotations_missed"], 1);
    let warning = slot["warning"].as_str().unwrap();
    // Copies of the slot are not taken away with it.
    assert!(
        warning.contains("through a former root key") && warning.contains("rotate the root key once more"),
        "{slot}"
    );
    store.place.ok(&format!("root rehearse --root {}", store.spec(&[1, 2, 3])));
    store.place.ok("root rotate");
    assert_eq!(recovery_slot(&store)["rotations_missed"], 2);
    // What is made after it is under the new root key, too.
    store.place.ok("app create acme/test/crm");
    store.place.ok("master rotate acme/prod");
    store.place.ok(&format!("key rotate {KEY}"));
    store.opens();
    // With its shares at hand a slot needs no former root key; they are the same shares.
    refused(&store.place.run("root rotate --renew keyfile:nowhere"), "--renew is for recovery shares");
    refused(
        &store.place.run(&format!("root rotate --renew {}", store.spec(&[1, 2]))),
        "there are 2 shares, and it takes 3",
    );
    store.place.ok(&format!("root rotate --renew {}", store.spec(&[2, 4, 5])));
    let slot = recovery_slot(&store);
    assert!(slot.get("rotations_missed").is_none() && slot.get("warning").is_none(), "{slot}");
    assert!(slot["rehearsed_at"].is_string());
    store.place.ok("root rotate");
    let log = store.place.run("audit show --limit 100 --json").text();
    assert_eq!(log.matches("\"action\":\"root.rotate\",").count(), 5, "{log}");
    // The primary root is lost: the shares open the store, and it moves.
    store.lose_the_root();
    store.place.ok(&format!(
        "root migrate --to keyfile:{} --root {}",
        store.place.file("new.key").display(),
        store.spec(&[1, 4, 5])
    ));
    store.opens();
    store.place.ok("root rotate");
    store.opens();
    store.place.ok("audit verify");
}

#[test]
fn shares_miss_so_many_rotations_and_no_more() {
    let store = recoverable();
    for _ in 0..LINKS_MAX {
        store.place.ok("root rotate");
    }
    let full = store.place.run("root rotate");
    assert!(
        full.code != 0 && full.stderr.contains("missed 8 rotations") && full.stderr.contains("--renew"),
        "{}",
        full.stderr
    );
    store.opens();
    store.place.ok(&format!("root rotate --renew {}", store.spec(&[1, 2, 3])));
    store.place.ok("root rotate");
    store.place.ok(&format!("root rehearse --root {}", store.spec(&[3, 4, 5])));
}

/// Keys are made, used and rotated all the time while the root key is rotated; no request fails, and nothing is under a
/// former root key.
#[test]
fn requests_go_on_while_the_root_key_is_rotated() {
    let store = recoverable();
    let server = store.place.serve();
    let url = server.url().to_owned();
    let stop = AtomicBool::new(false);
    let [used, made] = [0, 0].map(AtomicUsize::new);
    let post = |http: &Http, path: &str, body: &Value| {
        let sent = http.send(Method::POST, path, &[], body);
        // A change that met another one so often that it was given up may be asked for again.
        assert!(sent.status < 300 || sent.code() == "contended", "{path}: {}", sent.text);
    };
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let http = Http::new(&url, Some(&store.token));
            while !stop.load(Ordering::Relaxed) {
                http.post(&format!("/v1/keys/{KEY}/encrypt"), &json!({ "items": [{ "plaintext": "aGk=" }] }));
                used.fetch_add(1, Ordering::Relaxed);
            }
        });
        let maker = scope.spawn(|| {
            let http = Http::new(&url, Some(&store.token));
            while !stop.load(Ordering::Relaxed) {
                let number = made.load(Ordering::Relaxed);
                // Each has a master key of its own, which is wrapped under the root key.
                post(&http, "/v1/apps", &json!({ "path": format!("acme/e{number}/crm") }));
                post(&http, "/v1/keys", &json!({ "name": format!("acme/e{number}/crm/k"), "label": "internal" }));
                post(&http, &format!("/v1/masters/acme/e{number}/rotate"), &Value::Null);
                post(
                    &http,
                    &format!("/v1/keys/acme/e{number}/crm/k/encrypt"),
                    &json!({ "items": [{ "plaintext": "aGk=" }] }),
                );
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
        let owner = Http::new(&url, Some(&store.token));
        let (began, mut failed) = (Instant::now(), None);
        'rotations: for number in 1..=LINKS_MAX {
            let rotated = owner.send(Method::POST, "/v1/system/root/rotate", &[], &json!({}));
            if rotated.status != 200 {
                failed = Some(rotated.text);
                break;
            }
            // Work goes on between any two rotations.
            while [&used, &made].iter().any(|count| count.load(Ordering::Relaxed) < number) {
                if began.elapsed() > LIMIT || user.is_finished() || maker.is_finished() {
                    failed = Some("no work is done".to_owned());
                    break 'rotations;
                }
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
        user.join().unwrap();
        maker.join().unwrap();
        assert_eq!(failed, None);
    });
    server.into_child().stop(crate::place::READY).unwrap();
    store.opens();
    for key in store.place.run("key list --limit 1000 --json").json()["keys"].as_array().unwrap() {
        let ran = store.place.run_in(&format!("encrypt {}", key["name"].as_str().unwrap()), b"x");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    store.place.ok("audit verify");
}

fn states(store: &Recoverable, key: &str) -> Vec<String> {
    let shown = store.place.run(&format!("key show {key} --json")).json();
    shown["versions"].as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_exposed_root_key_is_answered_and_everything_under_it_is_new() {
    let store = recoverable();
    store.place.ok(&format!("key rotate {KEY}"));
    store.place.ok("key create acme/prod/crm/second --label internal");
    store.place.ok("key suspend acme/prod/crm/second@1");
    store.place.ok("master rotate acme/prod");
    let old = store.place.file("old.sqlite");
    store.place.ok("audit verify");
    std::fs::copy(store.place.data_dir().join("store.sqlite"), &old).unwrap();
    let second = store.place.file("second");
    let line =
        format!("root exposed --reason lost-laptop --recovery shamir:2/3 --shares-dir {} --json", second.display());
    let answered = store.place.run(&line).json();
    assert_eq!((&answered["masters"], &answered["keys"], &answered["versions"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(answered["versions_left"], 0, "{answered}");
    let to_move: Vec<&Value> = answered["to_move"].as_array().unwrap().iter().map(|row| &row["key"]).collect();
    assert_eq!(to_move, [&json!(KEY)]);
    let remaining = answered["remaining"].to_string();
    assert!(remaining.contains("backups and copies of the store from before record"), "{remaining}");
    assert!(!remaining.contains("no recovery root"), "{remaining}");
    assert!(answered["recovery"]["shares"][0].get("share").is_none() && second.join("share-3.txt").exists());
    // Every version that was open is exposed, and another one encrypts. What was encrypted still opens, to be moved.
    assert_eq!(states(&store, KEY), ["compromised", "compromised", "active"]);
    assert_eq!(states(&store, "acme/prod/crm/second"), ["suspended"]);
    store.opens();
    let masters = store.place.run("master show acme/prod --json").json();
    let masters: Vec<_> = masters["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["state"].as_str().unwrap().to_owned(), row["wraps"].clone()))
        .collect();
    assert_eq!(
        masters.iter().map(|(state, _)| state.as_str()).collect::<Vec<_>>(),
        ["compromised", "compromised", "active"]
    );
    assert_eq!(masters.iter().map(|(_, wraps)| wraps.clone()).collect::<Vec<_>>(), [json!(0), json!(0), json!(4)]);
    // The former shares are void, and told so by name; the new ones open the store.
    let void = store.place.run(&format!("root rehearse --root {}", store.spec(&[1, 2, 3])));
    refused(&void, "share 1 (number 1): its set of shares is void since the root key was exposed");
    let mixed = format!("shamir:{},{}", store.share(2).display(), second.join("share-1.txt").display());
    refused(
        &store.place.run(&format!("root rehearse --root {mixed}")),
        "share 2 (number 1): its set of shares is void",
    );
    store.place.ok(&format!("root rehearse --root shares-dir:{}", second.display()));
    let slots = store.slots();
    let void: Vec<_> = slots.iter().filter(|slot| slot["role"] == "void").collect();
    assert_eq!(void.len(), 1, "{slots:?}");
    assert_eq!(answered["void_sets"], json!([void[0]["shares"]["set"]]));
    let log = store.place.run("audit show --limit 100 --json").text();
    assert!(log.contains("\"action\":\"root.exposed\"") && log.contains("lost-laptop"), "{log}");
    assert_eq!(log.matches("\"action\":\"key.compromise\"").count(), 2, "{log}");
    // The former root key is nowhere in the store: what the void shares make opens none of its slots.
    store.lose_the_root();
    let sealed = store.place.run(&format!(
        "root migrate --to keyfile:{} --root {}",
        store.place.file("n.key").display(),
        store.spec(&[1, 2, 3])
    ));
    refused(&sealed, "void since the root key was exposed");
    store.place.ok(&format!(
        "root migrate --to keyfile:{} --root shares-dir:{}",
        store.place.file("n.key").display(),
        second.display()
    ));
    store.opens();
    store.place.ok(&format!("root remove {}", void[0]["id"].as_str().unwrap()));
    assert_eq!(store.slots().len(), 2);
    store.place.ok("audit verify");
}

/// Nobody asked for what was closed to be opened. Whoever opens it later gets an exposed version, and a new one to encrypt.
#[test]
fn what_was_closed_stays_closed_when_the_root_key_is_exposed() {
    let store = recoverable();
    let (suspended, retired) = ("acme/prod/crm/suspended", "acme/prod/crm/retired");
    for line in [
        "label set internal --write-window 0s",
        &format!("key create {suspended} --label internal"),
        &format!("key suspend {suspended}@1"),
        &format!("key create {retired} --label internal"),
        &format!("key rotate {retired}"),
        &format!("key retire {retired}@1"),
        &format!("key destroy {retired}@1"),
    ] {
        store.place.ok(line);
    }
    let shown = |key: &str| store.place.run(&format!("key show {key} --json")).json();
    assert!(shown(retired)["versions"][0]["destroy"].is_object());
    let answered = store.place.run("root exposed --json").json();
    assert!(answered["versions_left"] == 0 && answered["remaining"].to_string().contains("stay closed"), "{answered}");
    assert_eq!(shown(suspended)["status"], "disabled");
    assert_eq!(states(&store, suspended), ["suspended"]);
    assert_eq!(states(&store, retired), ["retired", "compromised", "active"]);
    assert!(shown(retired)["versions"][0]["destroy"].is_object(), "its destruction was called off");
    store.place.ok(&format!("key resume {suspended}@1"));
    assert_eq!(
        (&shown(suspended)["status"], states(&store, suspended).join(" ")),
        (&json!("enabled"), "compromised active".to_owned())
    );
    store.place.ok(&format!("key reinstate {retired}@1"));
    assert_eq!(states(&store, retired), ["compromised", "compromised", "active"]);
    // What is new since was never exposed.
    store.place.ok("master rotate acme/prod");
    for (line, state) in [("suspend", "suspended"), ("resume", "active")] {
        store.place.ok(&format!("key {line} {suspended}@2"));
        assert_eq!(states(&store, suspended), ["compromised", state]);
    }
    store.place.ok("audit verify");
}

/// Without shares to hand out the store has one root, and says so. A second exposure is answered like the first.
#[test]
fn an_exposure_is_answered_as_often_as_there_is_one() {
    let store = recoverable();
    let long = store.place.run(&format!("root exposed --reason {}", "x".repeat(201)));
    refused(&long, "a reason is one line of at most 200 characters");
    for number in 1..=3 {
        let answered = store.place.run("root exposed --json").json();
        assert_eq!(answered["masters"], 1);
        assert!(answered["remaining"].to_string().contains("there is no recovery root now"), "{answered}");
        assert_eq!(states(&store, KEY).len(), number + 1);
        store.place.ok("root deal --recovery shamir:2/2");
        store.opens();
    }
    assert_eq!(store.slots().iter().filter(|slot| slot["role"] == "void").count(), 3);
    // They take no room from those that open it.
    for _ in 0..6 {
        store.place.ok("root deal --recovery shamir:2/2");
    }
    refused(&store.place.run("root deal --recovery shamir:2/2"), "there are 8 ways to open the store");
}

/// Nothing is rotated while the store is between two roots, or with a root that does not open it.
#[test]
fn a_root_key_is_rotated_with_the_root_that_is_written_down() {
    let store = recoverable();
    let spec = store.place.data_dir().join("root-of-trust");
    let other = store.place.file("other.key");
    let here = std::fs::read_to_string(&spec).unwrap();
    let server = store.place.serve();
    let owner = Http::new(server.url(), Some(&store.token));
    let rotate = || owner.send(Method::POST, "/v1/system/root/rotate", &[], &json!({}));
    std::fs::write(&spec, format!("keyfile:{}\n", other.display())).unwrap();
    let away = rotate();
    assert_eq!((away.status, away.code().as_str()), (503, "root_failed"), "{}", away.text);
    std::fs::write(&spec, here).unwrap();
    assert_eq!(rotate().status, 200);
    server.into_child().stop(crate::place::READY).unwrap();
    store.opens();
}
