//! Power cuts: a disk that syncs loses nothing that was acknowledged, and one that lies is told by the start.

use keyrail_testkit::Child;

use super::*;

const ENCRYPTIONS: usize = 30;

/// Works, then loses the power. Gives how many records were acknowledged at least.
fn work_and_lose_power(world: &World, lie: &str, args: &[&str]) -> u64 {
    let server = world.serve_with(args);
    let http = world.owner(&server);
    assert_eq!(code(&encrypt(&http)), "done");
    world.disk.fails(lie).unwrap();
    for _ in 0..ENCRYPTIONS {
        assert_eq!(code(&encrypt(&http)), "done", "{lie}");
    }
    let acknowledged = metric(&http, "keyrail_audit_records") as u64;
    // What nobody remembers yet nobody can miss: the store remembers what is published when it is changed.
    let heads = [world.place.data_dir().join("audit/checkpoint"), world.place.file("anchor")];
    for head in heads.iter().filter(|head| head.exists()) {
        until("it is remembered", || {
            let note = std::fs::read_to_string(head).unwrap();
            let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
            if size >= acknowledged { Ok(()) } else { Err(note) }
        });
    }
    for _ in 0..2 {
        assert_eq!(code(&rotate(&http)), "done", "{lie}");
    }
    drop(http);
    server.into_child().kill().unwrap();
    world.disk.lose_power().unwrap();
    acknowledged
}

/// The control: with syncs that are none, this test and the next one would be the same.
#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let world = World::new();
    let acknowledged = work_and_lose_power(&world, "", &[]);
    let server = world.serve();
    let http = world.owner(&server);
    assert!(metric(&http, "keyrail_audit_records") as u64 >= acknowledged);
    assert_eq!(http.get(KEY)["versions"].as_array().unwrap().len(), 3);
    assert_eq!(code(&encrypt(&http)), "done");
    drop(http);
    server.into_child().stop(LIMIT).unwrap();
    assert_eq!(world.place.run("verify").code, 0);
}

/// A sync that lied: the start says what is missing, changes nothing, and serves nobody.
#[test]
fn a_disk_that_lied_is_told_by_the_start() {
    for (lie, anchored, told) in [
        ("s /journal/ lie\ns /audit lie", false, &["log_older", "state_unrecorded"][..]),
        ("s store.sqlite lie", false, &["state_older"]),
        ("s / lie", true, &["anchor_ahead"]),
    ] {
        let world = World::new();
        let anchor = world.place.file("anchor");
        let spec = format!("file:{}", anchor.display());
        if anchored {
            world.place.ok(&format!("anchor create {}", anchor.display()));
        }
        let args: &[&str] = if anchored { &["--anchor", &spec] } else { &[] };
        let acknowledged = work_and_lose_power(&world, lie, args);
        let dir = world.place.data_dir();
        let serve = ["--json", "serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()];
        let refused = Child::start(world.place.command(&[&serve[..], args].concat())).unwrap();
        let refused = refused.wait(LIMIT).unwrap_or_else(|error| panic!("{lie}: {error}"));
        assert_eq!(refused.status.code(), Some(5), "{lie}: {}{}", refused.stdout, refused.stderr);
        assert!(told.iter().any(|code| refused.stderr.contains(code)), "{lie}: {}", refused.stderr);
        assert!(refused.stderr.contains(&acknowledged.to_string()) || !anchored, "{lie}: {}", refused.stderr);
    }
}
