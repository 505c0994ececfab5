//! What protecting leaves behind on a server, and that it says so.

use std::path::Path;

use keyrail_data::ops::asset::IdentityChoice;
use keyrail_testkit::postgres::{Cluster, Options, Version};

use crate::support::World;

/// Values that stand in no statement: the server makes them, 1,000 of them the same.
const TABLE: &str = "CREATE TABLE people (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = false);
    INSERT INTO people SELECT i, CASE WHEN i % 2 = 0 THEN md5('often') || md5('often') ELSE md5('once ' || i) || md5('often') END
    FROM generate_series(1, 2000) i; ANALYZE people";

fn holds(path: &Path, mark: &str) -> bool {
    std::fs::read(path).unwrap().windows(mark.len()).any(|window| window == mark.as_bytes())
}

async fn world(options: &Options) -> (&'static Cluster, World) {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start_with(options).unwrap()));
    let world = World::with(Some(cluster.database().unwrap())).await;
    world.sql(TABLE);
    (cluster, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn former_values_leave_the_statistics_and_with_vacuum_full_the_table() {
    for version in Version::ALL {
        let (cluster, world) = world(&Options::new(version)).await;
        let mark = world.sql("SELECT md5('often') || md5('often')");
        let known = |mark: &str| {
            world.sql(&format!("SELECT count(*) FROM pg_stats WHERE tablename = 'people' AND attname = 'v' AND (most_common_vals::text LIKE '%{mark}%' OR histogram_bounds::text LIKE '%{mark}%')"))
        };
        let file = || cluster.data_dir().join(world.sql("CHECKPOINT; SELECT pg_relation_filepath('people')"));
        assert_eq!((known(&mark).as_str(), holds(&file(), &mark)), ("1", true), "the search finds what was planted");
        world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        let left = world.protect().await.campaign.not_scrubbed;
        assert_eq!(known(&mark), "0");
        for want in ["run VACUUM FULL", "VACUUM FULL pg_statistic", "write-ahead log"] {
            assert_eq!(left.iter().filter(|left| left.contains(want)).count(), 1, "{want}: {left:?}");
        }
        assert!(holds(&file(), &mark), "VACUUM overwrites nothing, as the campaign says");
        world.sql("VACUUM FULL people");
        world.sql("VACUUM FULL pg_statistic");
        assert!(!holds(&file(), &mark));
        let statistics = cluster.data_dir().join(world.sql("CHECKPOINT; SELECT pg_relation_filepath('pg_statistic')"));
        assert!(!holds(&statistics, &mark));
        // Dead rows are gone, and their places are free.
        assert_eq!(world.sql("SELECT count(*) FROM people WHERE v LIKE 'kr1.%'"), "2000");
        drop(world);
        cluster.kill().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_logs_statements_logs_no_values() {
    let options = Options::new(Version::V15).set("log_statement", "all").set("log_min_duration_statement", "0");
    let (cluster, world) = world(&options).await;
    let mark = world.sql("SELECT md5('often')");
    assert!(!cluster.log().contains(&mark));
    let asset = world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    assert!(!asset.warnings.iter().any(|misfit| misfit.problem.contains("logs statements")), "a superuser may say no");
    world.protect().await;
    world.unprotect().await;
    let log = cluster.log();
    assert!(log.contains("UPDATE") && log.contains("unnest"), "the log has the statements");
    // The samples that the table is tried with are no values.
    assert!(!log.contains(&mark) && !log.contains("kr1.2GCEVa"));

    // A role that may not say so is told.
    cluster.create_user("app").unwrap();
    world.sql("ALTER TABLE people OWNER TO app; DROP TABLE IF EXISTS other; CREATE TABLE other (id int PRIMARY KEY, v text); ALTER TABLE other OWNER TO app");
    let add = keyrail_data::ops::asset::AddAsset {
        name: "other".parse().unwrap(),
        url: world.pg().url_as("app"),
        schema: None,
        table: "other".to_owned(),
        identity: IdentityChoice::PrimaryKey,
        columns: vec![keyrail_data::ops::asset::ColumnChoice { column: "v".to_owned(), json_path: None }],
        key: crate::support::key(),
    };
    let asset = world.run(add).await.unwrap();
    assert!(asset.warnings.iter().any(|misfit| misfit.problem.contains("logs statements")), "{:?}", asset.warnings);
    drop(world);
    cluster.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_to_unprotect_writes_no_plaintext() {
    use keyrail_data::ops::campaign::{Plan, PlanGoal};
    for version in Version::ALL {
        let (cluster, world) = world(&Options::new(version)).await;
        let mark = world.sql("SELECT md5('often') || md5('often')");
        world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        world.protect().await;
        // A page of either that is written for another reason would have former values in it.
        world.sql("VACUUM FULL people");
        world.sql("VACUUM FULL pg_statistic");
        world.sql("CHECKPOINT; SELECT pg_switch_wal()");
        let plan = Plan { asset: "people".parse().unwrap(), rate: None, goal: PlanGoal::Plaintext };
        let plan = world.run(plan).await.unwrap();
        assert!(plan.bytes > 0 && plan.values == 2_000);
        let file = cluster.data_dir().join(world.sql("CHECKPOINT; SELECT pg_relation_filepath('people')"));
        assert!(!holds(&file, &mark));
        // Beyond its end a segment holds what it was written with before it was used again.
        let segment = world.sql("SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_lsn())");
        let (segment, end) = segment.split_once('|').unwrap();
        let log = std::fs::read(cluster.data_dir().join("pg_wal").join(segment)).unwrap();
        let log = &log[..end.parse().unwrap()];
        assert!(log.len() > 50_000, "the page was written: {}", log.len());
        assert!(!log.windows(mark.len()).any(|window| window == mark.as_bytes()));
        drop(world);
        cluster.kill().unwrap();
    }
}
