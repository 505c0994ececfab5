//! A store in PostgreSQL, from `init` to `verify`, also with a server that is killed meanwhile.

use std::time::{Duration, Instant};

use keyrail_testkit::postgres::{Cluster, Version, shared};

use crate::place::Place;

const KEY: &str = "acme/prod/crm/customer-pii";

#[test]
fn a_store_in_postgresql_does_what_one_in_a_file_does() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let place = Place::new();
        let init = format!("init --json --store {}", database.url());
        // Without a standby it is not begun unless somebody says that this will do.
        let refused = place.run(&init);
        assert_eq!(refused.code, 6, "{}", refused.stderr);
        assert!(refused.stderr.contains("--accept-async-loss"), "{}", refused.stderr);
        assert_eq!(place.run("key list").code, 4, "there is no store");
        assert!(!place.data_dir().join("store-url").exists(), "nothing is begun");

        let made = place.run(&format!("{init} --accept-async-loss")).json();
        assert_eq!(place.run(&format!("{init} --accept-async-loss")).code, 2);
        assert!(!place.data_dir().join("store.sqlite").exists());
        let elsewhere = Place::new();
        assert_eq!(elsewhere.run(&format!("{init} --accept-async-loss")).code, 2, "one store in one database");
        assert!(!elsewhere.data_dir().join("store-url").exists());
        place.ok("domain create acme");
        place.ok("app create acme/prod/crm");
        place.ok(&format!("key create {KEY} --label confidential"));

        let server = place.serve();
        let token = made["token"].as_str().unwrap();
        let remote = |line: &str, stdin: &[u8]| {
            let mut args = vec!["--server", server.url()];
            args.extend(line.split(' '));
            let mut command = place.command(&args);
            command.env("KEYRAIL_TOKEN", token);
            let ran = Place::finish(command, stdin);
            assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
            ran
        };
        let sealed = remote(&format!("encrypt {KEY}"), b"kept");
        remote(&format!("key rotate {KEY}"), b"");
        server.into_child().stop(Duration::from_secs(60)).unwrap();

        assert_eq!(place.run_in(&format!("decrypt {KEY}"), &sealed.stdout).stdout, b"kept");
        let shown = place.run(&format!("key show {KEY} --json")).json();
        assert_eq!(shown["versions"][1]["state"], "active");
        place.ok("verify");
        place.ok("audit verify");
        let moved = another_machine(&place);
        require_exported(&place, made["public_key"].as_str().unwrap());

        // What finds the store is all that a machine has: with a copy of it another one goes on.
        std::fs::remove_dir_all(place.data_dir()).unwrap();
        assert_eq!(moved.run_in(&format!("decrypt {KEY}"), &sealed.stdout).stdout, b"kept");
        moved.ok(&format!("key rotate {KEY}"));
        let records = moved.run("audit show --limit 1000 --json").json();
        let records = records["records"].as_array().unwrap();
        let newest = |action: &str| records.iter().position(|record| record["action"] == action);
        assert!(newest("key.rotate") < newest("data.decrypt") && newest("data.decrypt") < newest("system.init"));
        let place = moved;
        place.ok("verify");

        database.sql("UPDATE keyrail.token SET role = 'auditor'").unwrap();
        let found = place.run("verify --json");
        assert_eq!(found.code, 5, "{}", found.stderr);
        assert!(found.text().contains("\"token\""), "{}", found.text());
    }
}

/// A place with what finds the store of another one, and nothing else of it.
pub(crate) fn another_machine(place: &Place) -> Place {
    let other = Place::new();
    std::fs::create_dir(other.data_dir()).unwrap();
    let left: Vec<_> = std::fs::read_dir(place.data_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for name in &left {
        let known = ["store-url", "root-of-trust", "root.key", "log-public-key", "lock"];
        assert!(known.iter().any(|known| name == known), "{name:?} is lost with the machine");
        std::fs::copy(place.data_dir().join(name), other.data_dir().join(name)).unwrap();
    }
    let root = format!("keyfile:{}\n", other.data_dir().join("root.key").display());
    std::fs::write(other.data_dir().join("root-of-trust"), root).unwrap();
    other
}

/// The files of the log, without the database, and without a root of trust.
fn require_exported(place: &Place, public_key: &str) {
    let (to, auditor) = (place.file("exported"), Place::new());
    let dir = to.to_str().unwrap();
    let done = place.run(&format!("audit export {dir} --json")).json();
    let verified = auditor.run(&format!("audit verify --json --audit-dir {dir} --public-key {public_key}")).json();
    assert_eq!(verified["records"], done["records"]);
    assert!(done["records"].as_u64().unwrap() > 5, "{done}");
}

/// The server of the database is killed and comes back: refusals within a bounded time, and all that was answered is
/// there.
#[test]
fn a_server_goes_on_when_its_database_is_back() {
    let cluster = Cluster::start(Version::V18).unwrap();
    let place = Place::new();
    let made = place.run(&format!("init --json --store {} --accept-async-loss", cluster.url("postgres"))).json();
    let token = made["token"].as_str().unwrap();
    let server = place.serve();
    let remote = |line: &str| {
        let mut args = vec!["--server", server.url()];
        args.extend(line.split(' '));
        let mut command = place.command(&args);
        command.env("KEYRAIL_TOKEN", token);
        Place::finish(command, b"")
    };
    assert_eq!(remote("domain create one").code, 0);
    cluster.kill().unwrap();
    let began = Instant::now();
    let refused = remote("domain create two");
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    cluster.restart().unwrap();
    let done = remote("domain create two");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let listed = remote("domain list --json").text();
    assert!(listed.contains("\"one\"") && listed.contains("\"two\""), "{listed}");
    server.into_child().stop(Duration::from_secs(60)).unwrap();
    place.ok("verify");
}
