//! What comes after a retirement: ciphertext that arrives later, destruction, data that is late.

use keyrail_core::campaign::CampaignState;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::KeyVersionName;
use keyrail_data::ops::asset::{AcceptDamaged, IdentityChoice};
use keyrail_data::ops::campaign::{Reencrypt, Resume};
use keyrail_engine::ops::key::{ReinstateVersion, ShowKey};
use keyrail_engine::ops::retire::{DestroyVersion, RetireVersion, ShowEvidence};
use rusqlite::Connection;

use crate::support::{World, key, start, version};

const TABLE: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT);
    INSERT INTO people (id, email) VALUES (1, 'zoe@example.org'), (2, 'li@example.org'), (3, NULL);";

const DAY: u64 = 86_400;

fn first() -> KeyVersionName {
    "acme/prod/crm/pii@1".parse().unwrap()
}

fn email(app: &Connection) -> String {
    app.query_row("SELECT email FROM people WHERE id = 1", [], |row| row.get(0)).unwrap()
}

async fn ticks(world: &World) {
    for _ in 0..61 {
        world.engine.tick().await.unwrap();
    }
}

/// A protected table whose first version is retired, and a ciphertext of it that somebody still holds.
async fn retired() -> (World, Connection, String) {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(TABLE).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["email"]).await.unwrap();
    world.protect().await;
    let held = email(&app);
    world.rotate().await;
    world.reencrypt().await;
    world.clock.pass(61);
    world.run(RetireVersion { name: first(), acknowledged: vec![] }).await.unwrap();
    (world, app, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_after_retirement_is_found_and_opened_once_it_is_reinstated() {
    let (world, app, held) = retired().await;
    app.execute("UPDATE people SET email = ?1 WHERE id = 1", [&held]).unwrap();
    let evidence = world.run(ShowEvidence { name: first() }).await.unwrap();
    assert_eq!(evidence.assets[0].left, Some(1));
    assert_eq!(world.census().await.versions[0].values, 1);

    let destroy = || DestroyVersion { name: first(), acknowledged: vec![] };
    let blocked = world.run(destroy()).await.unwrap_err();
    assert_eq!(blocked.code(), "destroy_blocked");
    assert!(blocked.to_string().contains("holds 1 values"), "{blocked}");

    world.run(ReinstateVersion { name: first() }).await.unwrap();
    world.reencrypt().await;
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.versions[1].values, census.damaged), (0, 2, 0));
    world.unprotect().await;
    assert_eq!(email(&app), "zoe@example.org");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_under_which_values_turn_up_is_not_destroyed_when_its_wait_is_over() {
    let (world, app, held) = retired().await;
    let destroy = || DestroyVersion { name: first(), acknowledged: vec![] };
    assert!(!world.run(destroy()).await.unwrap().destroyed);
    app.execute("UPDATE people SET email = ?1 WHERE id = 1", [&held]).unwrap();
    world.clock.pass(15 * DAY);
    ticks(&world).await;
    let version = || async { world.run(ShowKey { name: key() }).await.unwrap().versions.swap_remove(0) };
    assert_eq!((version().await.state, version().await.destroy.is_none()), (VersionState::Retired, true));
    assert_eq!(world.engine.metrics().alarms, 1);

    // Without them it goes, and takes its material along.
    app.execute("UPDATE people SET email = NULL WHERE id = 1", []).unwrap();
    world.run(destroy()).await.unwrap();
    world.clock.pass(15 * DAY);
    ticks(&world).await;
    assert_eq!(version().await.state, VersionState::Destroyed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_under_a_destroyed_version_is_damage_and_blocks_nothing_once_it_is_accepted() {
    let (world, app, held) = retired().await;
    world.run(DestroyVersion { name: first(), acknowledged: vec![] }).await.unwrap();
    world.clock.pass(15 * DAY);
    ticks(&world).await;
    let versions = world.run(ShowKey { name: key() }).await.unwrap().versions;
    assert_eq!(versions[0].state, VersionState::Destroyed);
    // A writer that kept the ciphertext stores it when no key opens it any more.
    app.execute("UPDATE people SET email = ?1 WHERE id = 1", [&held]).unwrap();
    let census = world.census().await;
    assert_eq!((census.damaged, census.versions[0].values), (1, 0));
    assert_eq!((census.damaged_listed[0].row.as_str(), census.damaged_listed[0].column.as_str()), ("i1", "email"));

    world.rotate().await;
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    let outcome = world.walk(id).await.unwrap();
    assert_eq!(outcome.campaign.state, CampaignState::Incomplete);
    assert_eq!(email(&app), held, "it stays as it is");
    let reason = "nobody has the key".to_owned();
    world.run(AcceptDamaged { name: "people".parse().unwrap(), row: "i1".to_owned(), reason }).await.unwrap();
    world.run(Resume { id }).await.unwrap();
    world.complete(id).await;
    // The asset is free again, and so are the other versions of its key.
    world.clock.pass(61);
    world.run(RetireVersion { name: version(2), acknowledged: vec![] }).await.unwrap();
    world.rotate().await;
    world.reencrypt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_no_campaign_moved_in_time_is_an_alarm() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(TABLE).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["email"]).await.unwrap();
    world.protect().await;
    world.rotate().await;
    world.clock.pass(30 * DAY - 1);
    ticks(&world).await;
    assert_eq!((world.engine.metrics().campaigns_overdue, world.engine.metrics().alarms), (0, 0));
    world.clock.pass(1);
    ticks(&world).await;
    assert_eq!((world.engine.metrics().campaigns_overdue, world.engine.metrics().alarms), (1, 1));
    world.clock.pass(DAY);
    ticks(&world).await;
    assert_eq!(world.engine.metrics().alarms, 2, "told again each day");
    world.reencrypt().await;
    ticks(&world).await;
    assert_eq!((world.engine.metrics().campaigns_overdue, world.engine.metrics().alarms), (0, 2));
}
