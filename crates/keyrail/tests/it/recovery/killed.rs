//! A move to another root, killed at each of its steps: the root that is written down opens the store, and so does the
//! other one while both are there; what was begun is ended or named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use keyrail_testkit::scale;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, OpenFlags};

use super::{KEY, Recoverable, recoverable};

/// How often it is killed at full scale.
const KILLS: usize = 300;

/// How often it is killed at most, until each step was hit.
const KILLS_MAX: usize = 400;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How far it came.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Before,
    /// The new slot is there, and the old root is written down.
    Added,
    /// The new root is written down, and the old slot is there.
    Written,
    Moved,
}

const STEPS: [Step; 4] = [Step::Before, Step::Added, Step::Written, Step::Moved];

struct Moving {
    store: Recoverable,
    random: SmallRng,
    takes: Duration,
    count: usize,
}

impl Moving {
    fn written_down(&self) -> String {
        let text = std::fs::read_to_string(self.store.place.data_dir().join("root-of-trust")).unwrap();
        text.trim_end().trim_start_matches("keyfile:").to_owned()
    }

    fn has_pending(&self) -> bool {
        let path = self.store.place.data_dir().join("store.sqlite");
        let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        store
            .query_row("SELECT count(*) FROM root_slot WHERE role = 'pending'", [], |row| row.get::<_, i64>(0))
            .unwrap()
            > 0
    }

    fn step(&self, to: &Path) -> Step {
        match (self.has_pending(), Path::new(&self.written_down()) == to) {
            (false, false) => Step::Before,
            (true, false) => Step::Added,
            (true, true) => Step::Written,
            (false, true) => Step::Moved,
        }
    }

    fn start(&mut self) -> (std::process::Child, PathBuf) {
        self.count += 1;
        let to = self.store.place.file(&format!("{}.key", self.count));
        let (dir, spec) = (self.store.place.data_dir(), format!("keyfile:{}", to.display()));
        let args = ["--data-dir", dir.to_str().unwrap(), "root", "migrate", "--to", &spec];
        let child = self.store.place.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        (child, to)
    }

    /// Kills one, as soon as `at` is seen or after some random time; tells how far it came.
    fn kill(&mut self, at: Step) -> Step {
        let from = self.written_down();
        let (mut child, to) = self.start();
        let (begun, wait) = (Instant::now(), self.takes.mul_f64(self.random.random_range(0.0..1.2)));
        let reached = |moving: &Self| match at {
            Step::Added => moving.has_pending(),
            Step::Written => Path::new(&moving.written_down()) == to,
            Step::Before | Step::Moved => begun.elapsed() >= wait,
        };
        while !reached(self) && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < LIMIT, "it takes too long");
        }
        child.kill().unwrap();
        let told = child.wait_with_output().unwrap();
        let step = self.step(&to);
        assert!(told.stdout.is_empty() || step == Step::Moved, "{step:?}: it said that it was done");
        self.require_opened(&from, &to, step);
        step
    }

    fn status_with(&self, root: &str) -> i32 {
        std::fs::write(self.store.place.data_dir().join("root-of-trust"), format!("keyfile:{root}\n")).unwrap();
        self.store.place.run("root status").code
    }

    fn require_opened(&mut self, from: &str, to: &Path, step: Step) {
        let (place, new) = (&self.store.place, to.to_str().unwrap());
        let written = self.written_down();
        // Looking changes nothing, with either root.
        let opens = [from, new].map(|root| self.status_with(root) == 0);
        let expected = match step {
            Step::Before => [true, false],
            Step::Added | Step::Written => [true, true],
            Step::Moved => [false, true],
        };
        assert_eq!(opens, expected, "{step:?}");
        assert!(self.status_with(&written) == 0, "{step:?}: the root that is written down");
        if step == Step::Added {
            let told = place.run("root status --json").text();
            assert!(told.contains("a move to this root was interrupted"), "{told}");
        }
        if step == Step::Written {
            // The next one that may write ends it.
            place.ok(&format!("key show {KEY}"));
            assert!(self.has_pending(), "looking ends nothing");
            place.ok("token create --role auditor");
            assert_eq!(self.step(to), Step::Moved);
            assert_ne!(self.status_with(from), 0, "the old root opens nothing any more");
            assert_eq!(self.status_with(new), 0);
            let log = place.run("audit show --limit 5 --json").text();
            assert!(log.contains("\"principal\":\"system\",\"action\":\"root.settle\""), "{log}");
        }
        if matches!(step, Step::Before | Step::Added) {
            place.ok(&format!("root migrate --to keyfile:{new}"));
        }
        assert_eq!(self.step(to), Step::Moved);
        assert_eq!(self.store.slots().len(), 2);
    }
}

#[test]
fn a_move_that_is_killed_leaves_a_store_that_opens() {
    let mut moving =
        Moving { store: recoverable(), random: SmallRng::seed_from_u64(4), takes: Duration::ZERO, count: 0 };
    let begun = Instant::now();
    assert!(moving.start().0.wait().unwrap().success());
    moving.takes = begun.elapsed();
    let mut hits: BTreeMap<Step, usize> = STEPS.into_iter().map(|step| (step, 0)).collect();
    let (mut kills, least) = (0, scale(KILLS));
    for at in STEPS.into_iter().cycle() {
        if kills >= least && hits.values().all(|count| *count > 0) {
            break;
        }
        assert!(kills < KILLS_MAX, "too few of {kills} kills hit: {hits:?}");
        kills += 1;
        *hits.get_mut(&moving.kill(at)).unwrap() += 1;
    }
    println!("{kills} kills, of which hit {hits:?}");
    moving.store.opens();
    moving.store.place.ok("audit verify");
    moving.store.place.ok(&format!("root rehearse --root {}", moving.store.spec(&[3, 4, 5])));
}
