//! A server starts in every version, keeps what it acknowledged, can be halted and followed, and leaves nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyrail_testkit::Child;
use keyrail_testkit::postgres::{Cluster, Options, Stop, Version, shared};

fn answer(cluster: &Cluster, sql: &str) -> String {
    cluster.sql("postgres", sql).unwrap()
}

#[test]
fn a_server_runs_in_each_version_and_its_files_go_with_it() {
    for (version, number) in Version::ALL.into_iter().zip(["15", "18"]) {
        let cluster = Cluster::start(version).unwrap();
        assert!(answer(&cluster, "SHOW server_version").starts_with(number));
        assert_eq!(answer(&cluster, "SHOW fsync; SHOW password_encryption"), "on\nscram-sha-256");
        // Text is sorted by a language, so that an order of bytes is never an accident.
        assert_eq!(answer(&cluster, "SELECT 'a' < 'B'"), "t");
        let files = cluster.data_dir();
        let pid = std::fs::read_to_string(files.join("postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap().to_owned();
        assert!(Path::new("/proc").join(&pid).exists());
        drop(cluster);
        assert!(!files.exists());
        assert!(!Path::new("/proc").join(&pid).exists());
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_both_kinds_of_stop() {
    for version in Version::ALL {
        let cluster = Cluster::start(version).unwrap();
        answer(&cluster, "CREATE TABLE kept (n int)");
        let ends: [fn(&Cluster) -> anyhow::Result<()>; 3] =
            [Cluster::kill, |it| it.stop(Stop::Immediate), |it| it.stop(Stop::Fast)];
        for end in ends {
            answer(&cluster, "INSERT INTO kept VALUES (1)");
            end(&cluster).unwrap();
            let error = cluster.sql("postgres", "SELECT 1").unwrap_err();
            assert!(error.to_string().contains("refused"), "{error}");
            cluster.restart().unwrap();
        }
        assert_eq!(answer(&cluster, "SELECT count(*) FROM kept"), "3");
    }
}

#[test]
fn a_halted_server_answers_nobody_until_it_goes_on() {
    let cluster = Cluster::start(Version::V18).unwrap();
    cluster.pause().unwrap();
    let mut psql = Command::new(Version::V15.programs().unwrap().join("psql"));
    psql.arg(cluster.url("postgres")).args(["-X", "-c", "SELECT 1"]);
    let client = Child::start(psql).unwrap();
    assert!(client.wait_line(Duration::from_millis(500), |line| line.contains("row").then_some(())).is_err());
    cluster.resume().unwrap();
    let exit = client.wait(Duration::from_secs(30)).unwrap();
    assert!(exit.stdout.contains("(1 row)"), "{exit:?}");
}

#[test]
fn databases_of_a_shared_server_are_apart_and_copied_from_a_template() {
    let cluster = shared(Version::V15);
    let template = cluster.database().unwrap();
    template.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").unwrap();
    let (one, two) = (cluster.database_like(template.name()).unwrap(), cluster.database_like(template.name()).unwrap());
    one.sql("DELETE FROM t").unwrap();
    assert_eq!(one.sql("SELECT count(*) FROM t").unwrap(), "0");
    assert_eq!(two.sql("SELECT count(*) FROM t").unwrap(), "1");
    let name = one.name().to_owned();
    drop(one);
    assert_eq!(answer(cluster, &format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")), "0");
}

#[test]
fn a_commit_waits_for_its_standby_which_can_take_over() {
    for version in Version::ALL {
        let primary = Cluster::start(version).unwrap();
        answer(&primary, "CREATE TABLE kept (n int)");
        let standby = primary.standby("second").unwrap();
        primary.wait_on_standbys("second").unwrap();
        primary.wait_for("EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')").unwrap();
        answer(&primary, "INSERT INTO kept VALUES (1)");
        standby.pause().unwrap();
        let mut psql = Command::new(Version::V15.programs().unwrap().join("psql"));
        psql.arg(primary.url("postgres")).args(["-X", "-c", "INSERT INTO kept VALUES (2)"]);
        let client = Child::start(psql).unwrap();
        assert!(client.wait_line(Duration::from_millis(500), |line| line.contains("INSERT").then_some(())).is_err());
        client.kill().unwrap();
        standby.resume().unwrap();
        primary.kill().unwrap();
        assert_eq!(answer(&standby, "SELECT pg_is_in_recovery()"), "t");
        standby.promote().unwrap();
        answer(&standby, "INSERT INTO kept VALUES (3)");
        assert!(answer(&standby, "SELECT count(*) FROM kept WHERE n <> 2") == "2");
    }
}

#[test]
fn a_server_with_tls_takes_nothing_else() {
    for version in Version::ALL {
        let mut options = Options::new(version);
        options.tls = true;
        let cluster = Cluster::start_with(&options).unwrap();
        assert_eq!(answer(&cluster, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
        for (mode, works) in [("disable", false), ("verify-full", true)] {
            let mut psql = Command::new(Version::V15.programs().unwrap().join("psql"));
            let url = format!("{}&sslmode={mode}&sslrootcert={}", cluster.url("postgres"), cluster.ca_file().display());
            psql.args(["-X", "-c", "SELECT 1"]).arg(url);
            let exit = Child::start(psql).unwrap().wait(Duration::from_secs(30)).unwrap();
            assert_eq!(exit.status.success(), works, "{mode}: {exit:?}");
        }
    }
}
