//! What holds whatever database the application has.

use keyrail_core::campaign::CampaignState;
use keyrail_core::lifecycle::VersionState;
use keyrail_data::Stop;
use keyrail_data::ops::asset::{AcceptDamaged, IdentityChoice};
use keyrail_data::ops::campaign::{Plan, PlanGoal, Protect, Reencrypt, Resume, Rollback, Unprotect};
use keyrail_engine::ops::retire::RetireVersion;
use keyrail_testkit::postgres::Version;

use crate::support::{Home, World, start, version};

/// The same test for every home.
macro_rules! on_every_home {
    ($($name:ident,)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Home::Sqlite).await })+
        }
        mod postgres_15 {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Home::Postgres(super::Version::V15)).await })+
        }
        mod postgres_18 {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Home::Postgres(super::Version::V18)).await })+
        }
    };
}

on_every_home! {
    a_table_is_protected_turned_and_given_back,
    a_campaign_is_turned_around,
    a_paused_campaign_goes_on_where_it_was,
    writers_of_the_same_rows_lose_nothing,
    damaged_values_are_listed_and_stay,
    a_dry_run_changes_nothing,
    a_value_is_bound_to_its_row_and_column,
    columns_that_do_not_fit_are_refused,
    rows_are_walked_in_order_whatever_their_key,
}

const ROWS: u64 = 1_700;

async fn people(home: Home) -> World {
    let world = World::on(home).await;
    world.sql(&format!(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, email text, photo {}, profile text);
         INSERT INTO people VALUES
           (1, 'Zoë', 'zoe@example.org', {}, '{{\"phone\": \"+31 6\", \"tags\":[1,2], \"n\":7.50 }}'),
           (2, NULL, '', {}, '{{\"phone\":null}}'),
           (3, 'kr1.not-ours', 'أحمد', NULL, NULL),
           (-9223372036854775808, '李雷 🦊', '''; DROP TABLE people', {}, '{{\"phone\":\"a\\u0062c\"}}'),
           (5, NULL, NULL, NULL, NULL)",
        world.bytes_type(),
        world.bytes("00ff01"),
        world.bytes(""),
        world.bytes(&"00".repeat(5_000)),
    ));
    world
}

fn all(world: &World) -> String {
    world.sql("SELECT id, name, email, photo, profile FROM people ORDER BY id")
}

/// A table of many rows with one value each.
async fn many(home: Home) -> World {
    let world = World::on(home).await;
    world.sql(&format!(
        "CREATE TABLE people (id bigint PRIMARY KEY, v text, w bigint);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO people SELECT i, 'value ' || i, i FROM n"
    ));
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    world
}

async fn a_table_is_protected_turned_and_given_back(home: Home) {
    let world = people(home).await;
    let before = all(&world);
    let columns = ["name", "email", "photo", "profile:$.phone", "profile:$.n"];
    world.add("people", IdentityChoice::PrimaryKey, &columns).await.unwrap();
    let outcome = world.protect().await;
    assert_eq!(outcome.campaign.counts.cells_moved, 13);
    let census = world.census().await;
    assert_eq!((census.plaintext, census.damaged, census.null, census.rows_empty), (0, 0, 12, 1));
    let protected = all(&world);
    for planted in ["zoe@example.org", "李雷", "kr1.not-ours", "+31 6", "7.50"] {
        assert!(!protected.contains(planted), "{planted}");
    }
    assert!(protected.contains("\"tags\":[1,2]"));
    world.rotate().await;
    let blocked = world.run(RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap_err();
    assert_eq!(blocked.code(), "retire_blocked");
    world.reencrypt().await;
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.versions[1].values), (0, 13));
    world.clock.pass(61);
    let retired = world.run(RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap();
    assert_eq!(retired.key.versions[0].state, VersionState::Retired);
    world.unprotect().await;
    assert_eq!(all(&world), before);
}

async fn a_campaign_is_turned_around(home: Home) {
    let world = people(home).await;
    world.add("people", IdentityChoice::PrimaryKey, &["name", "email"]).await.unwrap();
    world.protect().await;
    world.rotate().await;
    let moved = world.reencrypt().await;
    let back = world.run(Rollback { id: moved.campaign.id }).await.unwrap();
    world.complete(back.id).await;
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.versions[1].values), (7, 0));
    assert_eq!(census.versions[0].state, VersionState::Active);
}

async fn a_paused_campaign_goes_on_where_it_was(home: Home) {
    let world = many(home).await;
    let id = world.run(Protect(start())).await.unwrap().id;
    for rows in [500, 1_000] {
        let stop = Stop::default();
        let handle = stop.clone();
        let outcome = world.walk_with(id, stop, move || handle.pause()).await.unwrap();
        let counts = outcome.campaign.counts;
        assert_eq!((outcome.campaign.state, counts.rows, counts.cells_moved), (CampaignState::Paused, rows, rows));
        assert!(outcome.campaign.cursor.is_some());
        let protected = world.sql("SELECT count(*), max(id) FROM people WHERE v LIKE 'kr1.%'");
        assert_eq!(protected, format!("{rows}|{rows}"));
        world.run(Resume { id }).await.unwrap();
    }
    let outcome = world.complete(id).await;
    assert_eq!(outcome.campaign.counts.cells_moved, ROWS);
    assert_eq!(world.census().await.versions[0].values, ROWS);
}

async fn writers_of_the_same_rows_lose_nothing(home: Home) {
    let world = many(home).await;
    let id = world.run(Protect(start())).await.unwrap().id;
    // After the first page: a row behind the campaign and one before it are written, one is deleted, one comes.
    let sql = "UPDATE people SET v = 'new behind' WHERE id = 7; UPDATE people SET v = 'new ahead' WHERE id = 900;
               DELETE FROM people WHERE id = 901; INSERT INTO people VALUES (0, 'came', 0)";
    let world = std::sync::Arc::new(world);
    let writer = world.clone();
    world.walk_with(id, Stop::default(), move || drop(writer.sql(sql))).await.unwrap();
    let census = world.census().await;
    assert_eq!((census.plaintext, census.damaged, census.versions[0].values), (0, 0, ROWS));
    world.unprotect().await;
    let rows = world.sql("SELECT id, v FROM people WHERE id IN (0, 7, 900, 901, 902) ORDER BY id");
    assert_eq!(rows, "0|came\n7|new behind\n900|new ahead\n902|value 902");
}

async fn damaged_values_are_listed_and_stay(home: Home) {
    let world = many(home).await;
    world.protect().await;
    world.sql("UPDATE people SET v = (SELECT v FROM people WHERE id = 1) WHERE id = 2");
    let copied = world.sql("SELECT v FROM people WHERE id = 2");
    let census = world.census().await;
    assert_eq!((census.damaged, census.damaged_listed[0].row.as_str()), (1, "i2"));
    world.rotate().await;
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    assert_eq!(world.walk(id).await.unwrap().campaign.state, CampaignState::Incomplete);
    assert_eq!(world.sql("SELECT v FROM people WHERE id = 2"), copied);
    let accept =
        AcceptDamaged { name: "people".parse().unwrap(), row: "i2".to_owned(), reason: "lost in spring".to_owned() };
    world.run(accept).await.unwrap();
    world.run(Resume { id }).await.unwrap();
    world.complete(id).await;
    assert_eq!(world.sql("SELECT v FROM people WHERE id = 2"), copied);
}

async fn a_dry_run_changes_nothing(home: Home) {
    let world = many(home).await;
    let all = || world.sql("SELECT id, v FROM people ORDER BY id");
    for goal in [PlanGoal::Active, PlanGoal::Plaintext] {
        let before = all();
        let plan = world.run(Plan { asset: "people".parse().unwrap(), rate: None, goal }).await.unwrap();
        assert_eq!((plan.rows, plan.values), (ROWS, ROWS), "{:?}", plan.misfits);
        assert!(
            plan.bytes > 0 && plan.misfits.iter().all(|misfit| misfit.problem.contains("VACUUM")),
            "{:?}",
            plan.misfits
        );
        assert_eq!(all(), before);
        world.protect().await;
    }
}

async fn a_value_is_bound_to_its_row_and_column(home: Home) {
    let world = people(home).await;
    let asset = world.add("people", IdentityChoice::None, &["name", "email"]).await.unwrap();
    assert!(asset.warnings.iter().any(|misfit| misfit.problem.contains("not bound to their rows")));
    world.protect().await;
    world.sql("UPDATE people SET name = (SELECT name FROM people WHERE id = 1) WHERE id = 3");
    assert_eq!(world.census().await.damaged, 0, "the asset declares that rows are not told apart");
    world.sql("UPDATE people SET name = email WHERE id = 3");
    assert_eq!(world.census().await.damaged, 1, "columns are still told apart");
    let id = world.run(Unprotect(start())).await.unwrap().id;
    assert_eq!(world.walk(id).await.unwrap().campaign.state, CampaignState::Incomplete);
}

async fn columns_that_do_not_fit_are_refused(home: Home) {
    for (sql, column, want) in [
        ("CREATE TABLE people (id bigint PRIMARY KEY, v text UNIQUE)", "v", "is unique by"),
        (
            "CREATE TABLE people (id bigint PRIMARY KEY, v text); CREATE UNIQUE INDEX i ON people (lower(v))",
            "v",
            "makes unique",
        ),
        ("CREATE TABLE people (id text PRIMARY KEY, v text)", "id", "tells the rows apart"),
        (
            "CREATE TABLE other (a text PRIMARY KEY); CREATE TABLE people (id bigint PRIMARY KEY, v text REFERENCES other (a))",
            "v",
            "refers to",
        ),
        (
            "CREATE TABLE people (id bigint PRIMARY KEY, v text, w text GENERATED ALWAYS AS (lower(v)) STORED)",
            "v",
            "computed from",
        ),
        (
            "CREATE TABLE people (id bigint PRIMARY KEY, v text, w text GENERATED ALWAYS AS (lower(v)) STORED)",
            "w",
            "computed by",
        ),
        ("CREATE TABLE people (v text)", "v", "primary key"),
        ("CREATE TABLE t (id bigint PRIMARY KEY, v text); CREATE VIEW people AS SELECT * FROM t", "v", "view"),
        (
            "CREATE TABLE people (id bigint PRIMARY KEY, v text CHECK (length(v) < 10)); INSERT INTO people VALUES (1, 'short')",
            "v",
            "refuse",
        ),
    ] {
        let world = World::on(home).await;
        world.sql(sql);
        let refused = world.add("people", IdentityChoice::PrimaryKey, &[column]).await.unwrap_err();
        assert_eq!(refused.code(), "asset_unfit", "{sql}: {refused}");
        assert!(refused.to_string().contains(want), "{sql}: {refused}");
        assert!(!refused.hint().unwrap_or_default().is_empty(), "{sql}");
    }
}

async fn rows_are_walked_in_order_whatever_their_key(home: Home) {
    for (key, make) in [
        ("id text PRIMARY KEY", "printf('%s é %s', i % 7, i)"),
        ("id double precision PRIMARY KEY", "i / 7.0"),
        ("id smallint PRIMARY KEY", "i"),
    ] {
        let make = if home == Home::Sqlite { make.to_owned() } else { make.replace("printf", "format") };
        let world = World::on(home).await;
        world.sql(&format!(
            "CREATE TABLE people ({key}, v text);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
             INSERT INTO people SELECT {make}, 'value ' || i FROM n"
        ));
        let before = world.sql("SELECT id, v FROM people ORDER BY id");
        world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        assert_eq!(world.protect().await.campaign.counts.cells_moved, ROWS, "{key}");
        world.rotate().await;
        assert_eq!(world.reencrypt().await.campaign.counts.cells_moved, ROWS, "{key}");
        assert_eq!(world.census().await.versions[1].values, ROWS, "{key}");
        world.unprotect().await;
        assert_eq!(world.sql("SELECT id, v FROM people ORDER BY id"), before, "{key}");
    }
}
