//! A rotation of the root key and the answer to its exposure, killed at any moment: every root opens the store, nothing is
//! lost, and what was begun goes on.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use keyrail_testkit::scale;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{Recoverable, recoverable};
use crate::client::Http;

/// How often each of the two is killed at full scale.
const KILLS: usize = 200;

/// How often at most, until each step was hit.
const KILLS_MAX: usize = 400;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How many keys there are besides, so that replacing them takes a while.
const KEYS: usize = 20;

/// How many rotations shares may miss.
const LINKS_MAX: i64 = 8;

/// How far it came.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Before,
    /// The new root key is in use, and some key under the former one is not replaced.
    Declared,
    Done,
}

struct Killing {
    store: Recoverable,
    random: SmallRng,
    takes: Duration,
    /// How many changes of the root key the store has seen.
    changed: usize,
}

impl Killing {
    fn new(seed: u64) -> Self {
        Self { store: recoverable(), random: SmallRng::seed_from_u64(seed), takes: Duration::ZERO, changed: 0 }
    }

    fn ask<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        let path = self.store.place.data_dir().join("store.sqlite");
        let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        rows.busy_timeout(LIMIT).unwrap();
        rows.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn primary(&self) -> Vec<u8> {
        self.ask("SELECT id FROM root_slot WHERE role IS NULL")
    }

    /// How many data key versions are under an exposed master key version.
    fn left(&self) -> i64 {
        self.ask(
            "SELECT count(*) FROM data_key_version v JOIN master_key_version m ON v.wrapped_by = m.id
             WHERE m.state = 'compromised'",
        )
    }

    /// Kills a command: as soon as the new root key is in the store, or after some random time. Tells how far it came.
    fn kill(&mut self, line: &str, at: Step) -> Step {
        let former = self.primary();
        let dir = self.store.place.data_dir();
        let args: Vec<_> = ["--data-dir", dir.to_str().unwrap()].into_iter().chain(line.split(' ')).collect();
        let mut command = self.store.place.command(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (begun, wait) = (Instant::now(), self.takes.mul_f64(self.random.random_range(0.0..1.2)));
        let reached = || match at {
            Step::Declared => self.primary() != former,
            Step::Done => self.primary() != former && self.left() == 0,
            Step::Before => begun.elapsed() >= wait,
        };
        while !reached() && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < LIMIT, "it takes too long");
        }
        child.kill().unwrap();
        let told = child.wait_with_output().unwrap();
        let step = match (self.primary() != former, self.left()) {
            (false, _) => Step::Before,
            (true, 0) => Step::Done,
            (true, _) => Step::Declared,
        };
        assert!(told.stdout.is_empty() || step != Step::Before, "it said that it was done");
        self.changed += usize::from(step != Step::Before);
        step
    }

    /// The root that is written down opens the store, all of it is whole, and the log has the last change of the root key once.
    fn require_whole(&self, action: &str) {
        self.store.place.ok("root status");
        self.store.opens();
        let log = self.store.place.run("audit show --limit 200 --json").text();
        // It names the slot that it made.
        let logged = log.matches(&hex::encode(self.primary())).count();
        assert_eq!((logged, log.contains(&format!("\"action\":\"{action}\""))), (1, true), "{log}");
        self.store.place.ok("audit verify");
    }

    fn repeat(mut self, steps: &[Step], mut kill: impl FnMut(&mut Self, Step, usize) -> Step) -> Self {
        let mut hits: BTreeMap<Step, usize> = steps.iter().map(|step| (*step, 0)).collect();
        let (mut kills, least) = (0, scale(KILLS));
        for at in steps.iter().copied().cycle() {
            if kills >= least && hits.values().all(|count| *count > 0) {
                break;
            }
            assert!(kills < KILLS_MAX, "too few of {kills} kills hit: {hits:?}");
            kills += 1;
            *hits.get_mut(&kill(&mut self, at, kills)).unwrap() += 1;
        }
        println!("{kills} kills, of which hit {hits:?}");
        self
    }
}

#[test]
fn a_rotation_that_is_killed_leaves_a_store_that_every_root_opens() {
    let mut killing = Killing::new(5);
    let begun = Instant::now();
    killing.store.place.ok("root rotate");
    (killing.takes, killing.changed) = (begun.elapsed(), 1);
    let mut missed = 1;
    let killing = killing.repeat(&[Step::Before, Step::Done], |killing, at, number| {
        // Every second one with shares at hand; which ones changes.
        let shares = killing.store.spec(&[1 + number % 3, 4, 5]);
        let renews = number % 2 == 0 || missed >= LINKS_MAX;
        let line = if renews { format!("root rotate --renew {shares}") } else { "root rotate".to_owned() };
        // At best as soon as it is in the store: its record may not be in the log yet.
        let step = killing.kill(&line, at);
        if step == Step::Done {
            missed = if renews { 0 } else { missed + 1 };
        }
        killing.require_whole("root.rotate");
        let slots = killing.store.slots();
        let recovery = slots.iter().find(|slot| slot["role"] == "recovery").unwrap();
        assert_eq!((slots.len(), recovery["rotations_missed"].as_i64().unwrap_or(0)), (2, missed), "{slots:?}");
        killing.store.place.ok(&format!("root rehearse --root {shares}"));
        step
    });
    killing.store.lose_the_root();
    let to = killing.store.place.file("new.key");
    killing.store.place.ok(&format!(
        "root migrate --to keyfile:{} --root {}",
        to.display(),
        killing.store.spec(&[1, 2, 3])
    ));
    killing.store.opens();
}

#[test]
fn an_answer_to_an_exposure_that_is_killed_goes_on() {
    let mut killing = Killing::new(6);
    for number in 0..KEYS {
        killing.store.place.ok(&format!("key create acme/prod/crm/k{number} --label internal"));
    }
    let begun = Instant::now();
    killing.store.place.ok("root exposed --recovery shamir:2/2");
    (killing.takes, killing.changed) = (begun.elapsed(), 1);
    let killing = killing.repeat(&[Step::Before, Step::Declared, Step::Done], |killing, at, _| {
        let step = killing.kill("root exposed --recovery shamir:2/2", at);
        killing.require_whole("root.exposed");
        if step == Step::Declared {
            // A server goes on with it by itself.
            let server = killing.store.place.serve();
            let until = Instant::now() + LIMIT;
            while killing.left() > 0 {
                assert!(Instant::now() < until, "{} versions are left", killing.left());
                std::thread::park_timeout(Duration::from_millis(50));
            }
            let owner = Http::new(server.url(), Some(&killing.store.token));
            assert_eq!(owner.send(Method::GET, "/v1/system/root", &[], &Value::Null).status, 200);
            server.into_child().stop(crate::place::READY).unwrap();
        }
        // Of each key one version is not exposed, and that is the active one.
        let others: i64 =
            killing.ask("SELECT count(*) FROM data_key_version WHERE state NOT IN ('compromised', 'active')");
        let active: i64 = killing.ask("SELECT count(*) FROM data_key_version WHERE state = 'active'");
        assert_eq!((others, usize::try_from(active).unwrap()), (0, KEYS + 1));
        if step != Step::Before {
            let versions: i64 =
                killing.ask("SELECT min(n) FROM (SELECT count(*) n FROM data_key_version GROUP BY key)");
            assert_eq!(usize::try_from(versions).unwrap(), killing.changed + 1);
        }
        step
    });
    killing.require_whole("root.exposed");
}
