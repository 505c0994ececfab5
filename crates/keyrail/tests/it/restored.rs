//! Backups and restores from the command line: killed at any instant, searched for keys, beside an anchor.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use keyrail_testkit::scale;
use serde_json::Value;

use crate::place::Place;

/// How often each of the two is killed at full scale.
const KILLS: usize = 800;

const KEY: &str = "acme/prod/crm/customer-pii";

/// A store with a backup in `backups`, and after it a rotation, a value under the new version, and a revoked token.
struct World {
    place: Place,
    kept: Vec<u8>,
    size: u64,
    token: String,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        place.ok("init");
        place.ok("domain create acme");
        place.ok("app create acme/prod/crm");
        place.ok(&format!("key create {KEY} --label confidential"));
        let kept = place.run_in(&format!("encrypt {KEY}"), b"kept").stdout;
        let made = place.run("token create --role auditor --json").json();
        let backup = place.run(&format!("backup {} --json", place.file("backups").display())).json();
        let id = made["id"].as_str().unwrap();
        place.ok(&format!("token revoke {id}"));
        place.ok(&format!("key rotate {KEY}"));
        let size = backup["log_size"].as_u64().unwrap();
        Self { place, kept, size, token: made["token"].as_str().unwrap().to_owned() }
    }

    /// A command line on a copy of the data directory, killed after `delay` unless it ended before. Tells whether it was.
    fn kill(&self, data_dir: &Path, args: &[&str], delay: Duration) -> bool {
        let mut command = self.place.command(&["--data-dir", data_dir.to_str().unwrap()]);
        let mut child = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < delay {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        !child.wait().unwrap().success()
    }

    fn on(&self, data_dir: &Path, line: &str, stdin: &[u8]) -> crate::place::Ran {
        let mut args = vec!["--data-dir", data_dir.to_str().unwrap()];
        args.extend(line.split(' '));
        self.place.run_with(&args, stdin)
    }

    fn restore(&self) -> Vec<String> {
        let backups = self.place.file("backups").display().to_string();
        ["restore", &backups, "--accept-rollback-to", &self.size.to_string()].map(str::to_owned).to_vec()
    }
}

/// One that was not hit in time took less long than was thought: the first run of all is a slow one.
const SHORTER: f64 = 0.95;

/// Instants that come to lie evenly over the whole time, whenever one stops.
fn instant(takes: Duration, number: usize) -> Duration {
    takes.mul_f64((number as f64 * 0.618_034) % 1.0)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn a_restore_that_is_killed_leaves_the_former_store_or_the_new_one() {
    let world = World::new();
    let line = world.restore();
    let args: Vec<&str> = line.iter().map(String::as_str).collect();
    let (kills, mut killed, mut new) = (scale(KILLS), 0, 0);
    let mut takes = Duration::ZERO;
    for number in 0..=kills {
        let dir = world.place.file(&format!("copy-{number}"));
        copy(&world.place.data_dir(), &dir);
        if number == 0 {
            let begun = Instant::now();
            assert_eq!(world.on(&dir, &line.join(" "), b"").code, 0);
            takes = begun.elapsed();
        } else {
            let hit = world.kill(&dir, &args, instant(takes, number));
            killed += usize::from(hit);
            takes = if hit { takes } else { takes.mul_f64(SHORTER) };
        }
        // Whoever comes next finds one store or the other, and nothing between them.
        let shown = world.on(&dir, &format!("key show {KEY} --json"), b"").json();
        let states: Vec<_> = shown["versions"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect();
        let restored = states == ["deactivated", "destroyed", "active"];
        assert!(restored || states == ["deactivated", "active"], "{number}: {states:?}");
        new += usize::from(restored);
        assert_eq!(world.on(&dir, "verify", b"").code, 0, "{number}");
        // It can be repeated, and comes to the same.
        let again = world.on(&dir, &format!("{} --json", line.join(" ")), b"");
        assert_eq!(again.code, 0, "{number}: {}", again.stderr);
        let report: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(report["revoked_again"].as_array().unwrap().len(), 1, "{number}: {report}");
        assert_eq!(world.on(&dir, &format!("decrypt {KEY}"), &world.kept).stdout, b"kept");
        assert_eq!(world.on(&dir, "verify", b"").code, 0, "{number}");
        let left: Vec<PathBuf> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("restor"))
            .collect();
        assert!(left.is_empty(), "{number}: {left:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
    println!("{killed} of {kills} restores were killed at work; {new} stores were the new one; one takes {takes:?}");
    assert!(killed * 4 > kills && new > 0, "{killed} of {kills} killed, {new} new");
}

#[test]
fn a_backup_that_is_killed_leaves_whole_files_alone() {
    let world = World::new();
    let (data, dir) = (world.place.data_dir(), world.place.file("many"));
    let line = format!("backup {}", dir.display());
    let args: Vec<&str> = line.split(' ').collect();
    let begun = Instant::now();
    world.place.ok(&line);
    let (mut takes, kills) = (begun.elapsed(), scale(KILLS));
    let mut killed = 0;
    for number in 1..=kills {
        let hit = world.kill(&data, &args, instant(takes, number));
        killed += usize::from(hit);
        takes = if hit { takes } else { takes.mul_f64(SHORTER) };
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.filter(|name| name.ends_with(".part")).count() <= 1);
    }
    let checked = world.place.run(&format!("verify --backup {} --json", dir.display())).json();
    let checked = checked["backups"].as_array().unwrap();
    assert!(checked.iter().all(|row| row["whole"] == true), "{checked:?}");
    world.place.ok(&line);
    let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| name.ends_with(".backup")), "what was left is removed");
    world.place.ok("verify");
    println!("{killed} of {kills} backups were killed at work; {} files; one takes {takes:?}", checked.len());
    assert!(killed * 4 > kills, "{killed} of {kills}");
}

/// The anchor remembers another log from then on, and does not call that a rollback.
#[test]
fn a_restored_store_has_another_log_and_an_anchor_says_so() {
    let world = World::new();
    let anchor = world.place.file("anchor");
    world.place.ok(&format!("anchor create {}", anchor.display()));
    let with = |line: &str| world.place.run(&format!("--anchor file:{} {line}", anchor.display()));
    assert_eq!(with("domain create other").code, 0);
    // Without the right size it is told what would be lost, and nothing is done.
    let backups = world.place.file("backups");
    let told = world.place.run(&format!("restore {} --json", backups.display()));
    assert_eq!(told.code, 2);
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&report["restored"], &report["log_size"]), (&Value::Bool(false), &Value::from(world.size)));
    assert_eq!(report["versions_lost"].as_array().unwrap().len(), 1);
    assert!(told.stderr.contains(&format!("--accept-rollback-to {}", world.size)), "{}", told.stderr);
    assert_eq!(world.place.run(&format!("restore {} --accept-rollback-to 1", backups.display())).code, 2);
    assert_eq!(with("domain list").code, 0);

    let traced = world.place.run_traced(
        &[
            "--data-dir",
            world.place.data_dir().to_str().unwrap(),
            &world.restore()[0],
            &world.restore()[1],
            &world.restore()[2],
            &world.restore()[3],
        ],
        b"",
    );
    assert_eq!(traced.code, 0, "{}", traced.stderr);
    let refused = with("domain create another --json");
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stdout.is_empty() || refused.text().contains("anchor_other"), "{}", refused.text());
    assert!(refused.stderr.contains("anchor_other"), "{}", refused.stderr);
    let mut command = world.place.command(&["--data-dir", world.place.data_dir().to_str().unwrap(), "domain", "list"]);
    command.env("KEYRAIL_TOKEN", &world.token);
    assert_eq!(Place::finish(command, b"").code, 3, "the token stays revoked");
    let verified = world.place.run("verify --json").json();
    assert_eq!(verified["store"]["restored"]["former_log_size"], world.size);
}
