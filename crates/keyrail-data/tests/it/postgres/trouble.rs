//! Campaigns that locks, changes of the table, and a server that goes away come in the way of.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use keyrail_core::campaign::CampaignState;
use keyrail_core::id::CampaignId;
use keyrail_data::Stop;
use keyrail_data::ops::asset::IdentityChoice;
use keyrail_data::ops::campaign::{Protect, Resume};
use keyrail_engine::EngineError;
use keyrail_testkit::postgres::{Cluster, Stop as Halt, Version};
use sqlx::Row as _;

use crate::client::Client;
use crate::support::{Home, World, start};

const ROWS: u64 = 1_700;

const TABLE: &str = "CREATE TABLE people (id bigint PRIMARY KEY, v text, w text);
    INSERT INTO people SELECT i, 'value ' || i, 'w' FROM generate_series(1, 1700) i";

async fn prepared(world: World) -> (Arc<World>, CampaignId) {
    world.sql(TABLE);
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    let id = world.run(Protect(start())).await.unwrap().id;
    (Arc::new(world), id)
}

async fn protecting(version: Version) -> (Arc<World>, CampaignId) {
    prepared(World::on(Home::Postgres(version)).await).await
}

/// The same on a server of its own.
async fn alone(version: Version) -> (&'static Cluster, Arc<World>, CampaignId) {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(version).unwrap()));
    let (world, id) = prepared(World::with(Some(cluster.database().unwrap())).await).await;
    (cluster, world, id)
}

fn client(world: &World) -> Client {
    Client::new(world.pg().cluster(), world.pg().name())
}

async fn finish(world: &World, id: CampaignId) {
    world.run(Resume { id }).await.unwrap();
    world.complete(id).await;
    all_protected(world).await;
}

async fn all_protected(world: &World) {
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.plaintext, census.damaged), (ROWS, 0, 0));
}

/// Waits until a session waits for a lock.
fn until_somebody_waits(app: &mut Client) {
    let begun = std::time::Instant::now();
    while app.rows("SELECT 1 FROM pg_locks WHERE NOT granted", None, None).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_row_is_waited_for_with_nothing_locked() {
    for version in Version::ALL {
        let (world, id) = protecting(version).await;
        let other = world.clone();
        let (sender, receiver) = mpsc::channel();
        let outcome = world.walk_with(id, Stop::default(), move || {
            let mut app = client(&other);
            app.run("BEGIN; UPDATE people SET w = 'mine' WHERE id = 900").unwrap();
            // It goes on once the campaign waits: a row that the campaign had locked would make a deadlock of the two.
            let application = std::thread::spawn(move || {
                until_somebody_waits(&mut app);
                app.run("UPDATE people SET w = 'mine' WHERE id IN (501, 600)").unwrap();
                app.run("COMMIT").unwrap();
            });
            sender.send(application).unwrap();
        });
        let outcome = outcome.await.unwrap();
        receiver.recv().unwrap().join().unwrap();
        assert_eq!(outcome.campaign.state, CampaignState::Completed);
        all_protected(&world).await;
        assert_eq!(world.sql("SELECT count(*) FROM people WHERE w = 'mine'"), "3");
        assert!(!world.pg().cluster().log().contains("deadlock detected"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_stays_stops_the_campaign_which_is_resumed() {
    for lock in ["UPDATE people SET w = 'mine' WHERE id = 900", "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"] {
        let (world, id) = protecting(Version::V18).await;
        let (other, (sender, receiver)) = (world.clone(), mpsc::channel());
        let walked = world.walk_with(id, Stop::default(), move || {
            let mut app = client(&other);
            app.run(&format!("BEGIN; {lock}")).unwrap();
            sender.send(app).unwrap();
        });
        let error = walked.await.unwrap_err();
        assert_eq!(error.code(), "asset_busy", "{lock}: {error}");
        assert_eq!(world.state_of(id).await.state, CampaignState::Stopped);
        let mut app = receiver.recv().unwrap();
        std::thread::spawn(move || app.run("ROLLBACK").unwrap()).join().unwrap();
        finish(&world, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_table_that_do_not_matter_are_followed() {
    for sql in [
        "CREATE INDEX i ON people (w)",
        "ALTER TABLE people ADD COLUMN x int DEFAULT 7",
        "ALTER TABLE people ALTER w TYPE varchar(9)",
        "ALTER TABLE people DROP COLUMN w",
        "VACUUM FULL people",
        "ANALYZE people",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.w := 'seen'; RETURN NEW; END$$; CREATE TRIGGER g BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()",
        "ALTER TABLE people ALTER v TYPE varchar(900)",
        "CREATE TABLE copy (LIKE people INCLUDING ALL); INSERT INTO copy SELECT * FROM people; ALTER TABLE people RENAME TO old; ALTER TABLE copy RENAME TO people",
    ] {
        let (world, id) = protecting(Version::V15).await;
        let other = world.clone();
        let outcome = world.walk_with(id, Stop::default(), move || drop(other.sql(sql))).await.expect(sql);
        assert_eq!(outcome.campaign.state, CampaignState::Completed, "{sql}");
        assert_eq!(outcome.campaign.counts.cells_moved, ROWS, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_fit_any_more_stops_the_campaign() {
    let function = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS";
    let lower = format!(
        "{function} $$BEGIN NEW.v := lower(NEW.v); RETURN NEW; END$$; CREATE TRIGGER g BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()"
    );
    let after = format!(
        "{function} $$BEGIN UPDATE people SET v = lower(NEW.v) WHERE id = NEW.id AND v <> lower(NEW.v); RETURN NULL; END$$; CREATE TRIGGER g AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()"
    );
    let raise = format!(
        "{function} $$BEGIN IF NEW.id = 777 THEN RAISE 'the secret is %', OLD.v; END IF; RETURN NEW; END$$; CREATE TRIGGER g BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()"
    );
    let keep = format!(
        "{function} $$BEGIN IF NEW.id = 777 THEN RETURN NULL; END IF; RETURN NEW; END$$; CREATE TRIGGER g BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()"
    );
    let drop_trigger = "DROP TRIGGER g ON people";
    for (sql, mend, want) in [
        ("ALTER TABLE people RENAME v TO value", "ALTER TABLE people RENAME value TO v", "asset_changed"),
        ("ALTER TABLE people RENAME TO persons", "ALTER TABLE persons RENAME TO people", "asset_changed"),
        ("ALTER TABLE people DROP CONSTRAINT people_pkey", "ALTER TABLE people ADD PRIMARY KEY (id)", "asset_changed"),
        (&lower, drop_trigger, "asset_altered"),
        (&after, drop_trigger, "asset_altered"),
        (&keep, drop_trigger, "asset_altered"),
        (&raise, drop_trigger, "asset_constraint"),
        (
            "ALTER TABLE people ADD CHECK (id <> 777 OR v NOT LIKE 'kr1.%')",
            "ALTER TABLE people DROP CONSTRAINT people_check",
            "asset_constraint",
        ),
    ] {
        let (world, id) = protecting(Version::V18).await;
        let (other, sql) = (world.clone(), sql.to_owned());
        let said = sql.clone();
        let error = world.walk_with(id, Stop::default(), move || drop(other.sql(&sql))).await.expect_err(&said);
        assert_eq!(error.code(), want, "{said}: {error}");
        if want == "asset_constraint" {
            assert!(error.to_string().contains("row i777"), "{error}");
            assert!(!format!("{error} {error:?}").contains("value 777"), "{error:?}");
        }
        let stopped = world.state_of(id).await;
        assert_eq!((stopped.state, stopped.moved), (CampaignState::Stopped, 500), "{said}");
        world.sql(mend);
        finish(&world, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_is_waited_for() {
    for version in Version::ALL {
        let (cluster, world, id) = alone(version).await;
        let outcome = world.walk_with(id, Stop::default(), move || {
            cluster.kill().unwrap();
            std::thread::spawn(move || cluster.restart().unwrap());
        });
        assert_eq!(outcome.await.unwrap().campaign.state, CampaignState::Completed);
        all_protected(&world).await;
        drop(world);
        cluster.kill().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_stops_the_campaign_which_is_resumed() {
    let (cluster, world, id) = alone(Version::V15).await;
    let gone = move || cluster.stop(Halt::Fast).unwrap();
    let error = world.walk_with(id, Stop::default(), gone).await.unwrap_err();
    assert_eq!(error.code(), "asset_unreachable", "{error}");
    assert_eq!(world.state_of(id).await.state, CampaignState::Stopped);
    cluster.restart().unwrap();
    finish(&world, id).await;
    drop(world);
    cluster.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_whose_process_died_goes_on() {
    let (world, id) = protecting(Version::V18).await;
    let killed = world.walk_with(id, Stop::default(), || std::panic::resume_unwind(Box::new(()))).await;
    assert!(matches!(killed.unwrap_err(), EngineError::Bug { .. }));
    assert_eq!(world.sql("SELECT count(*) FROM people WHERE v LIKE 'kr1.%'"), "500");
    world.complete(id).await;
    all_protected(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_an_administrator_ends_are_made_anew() {
    let (world, id) = protecting(Version::V15).await;
    let other = world.clone();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'keyrail' AND datname = current_database()";
    let outcome = world.walk_with(id, Stop::default(), move || assert_eq!(other.sql(end), "1")).await.unwrap();
    assert_eq!((outcome.campaign.state, outcome.campaign.counts.cells_moved), (CampaignState::Completed, ROWS));
    let mut app = {
        let world = world.clone();
        tokio::task::spawn_blocking(move || client(&world)).await.unwrap()
    };
    let idle = std::thread::spawn(move || {
        let open = app.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keyrail' AND datname = current_database()",
            None,
            None,
        );
        open[0].get::<i64, _>(0)
    });
    assert_eq!(idle.join().unwrap(), 0, "no session is left open");
}
