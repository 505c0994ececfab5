//! The main job: protect, rotate, move, retire, and the way out.

use keyrail_core::access::Action;
use keyrail_core::campaign::CampaignState;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::record::Record;
use keyrail_core::rotation::RotationReason;
use keyrail_core::usage::UsagePlace;
use keyrail_data::ops::asset::IdentityChoice;
use keyrail_data::ops::campaign::{ListCampaigns, Plan, PlanGoal, Protect, Reencrypt, Rollback, Unprotect};
use keyrail_engine::ops::key::RotateKey;
use keyrail_engine::ops::retire::{RetireVersion, ShowEvidence};

use crate::support::{World, dump, key, start, version};

const TABLE: &str =
    "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, email TEXT, photo BLOB, age, profile TEXT);
    INSERT INTO people VALUES
      (1, 'Zoë', 'zoe@example.org', x'00ff01', 41, '{\"phone\": \"+31 6\", \"tags\":[1,2], \"n\":7.50 }'),
      (2, NULL, '', x'', 3.25, '{\"phone\":null}'),
      (3, 'kr1.not-ours', 'أحمد', NULL, -9223372036854775808, NULL),
      (4, '李雷 🦊', CAST(x'ff00fe' AS TEXT), zeroblob(5000), 1e300, '{\"phone\":\"a\\u0062c\"}'),
      (5, NULL, NULL, NULL, NULL, NULL);";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_protected_turned_and_given_back_bit_for_bit() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    app.execute_batch(TABLE).unwrap();
    let before = dump(&app, "people");
    world
        .add("people", IdentityChoice::PrimaryKey, &["name", "email", "photo", "age", "profile:$.phone", "profile:$.n"])
        .await
        .unwrap();

    let plan = world.run(Plan { asset: "people".parse().unwrap(), rate: None, goal: PlanGoal::Active }).await.unwrap();
    assert_eq!((plan.rows, plan.values), (5, 17));
    let protect = world.run(Protect(start())).await.unwrap();
    let outcome = world.complete(protect.id).await;
    assert_eq!(outcome.campaign.counts.cells_moved, 17);
    let census = world.census().await;
    assert_eq!((census.plaintext, census.damaged, census.null, census.rows_empty), (0, 0, 13, 1));
    assert_eq!(census.versions[0].values, 17);
    let files: Vec<u8> = [
        std::fs::read(world.database()).unwrap(),
        std::fs::read(world.database().with_extension("sqlite-wal")).unwrap_or_default(),
    ]
    .concat();
    for planted in ["zoe@example.org", "李雷", "kr1.not-ours"] {
        assert!(!files.windows(planted.len()).any(|window| window == planted.as_bytes()), "{planted}");
    }

    world.run(RotateKey { name: key(), reason: RotationReason::Demand }).await.unwrap();
    let blocked = world
        .run(RetireVersion { name: "acme/prod/crm/pii@1".parse().unwrap(), acknowledged: vec![] })
        .await
        .unwrap_err();
    assert_eq!(blocked.code(), "retire_blocked");
    let moving = world.run(Reencrypt(start())).await.unwrap();
    world.complete(moving.id).await;
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.versions[1].values), (0, 17));
    world.clock.pass(61);
    let retired =
        world.run(RetireVersion { name: "acme/prod/crm/pii@1".parse().unwrap(), acknowledged: vec![] }).await.unwrap();
    assert_eq!(retired.key.versions[0].state, VersionState::Retired);
    assert_eq!(retired.evidence.assets[0].left, Some(0));

    let out = world.run(Unprotect(start())).await.unwrap();
    world.complete(out.id).await;
    assert_eq!(dump(&app, "people"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_is_turned_around() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(TABLE).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["name", "email"]).await.unwrap();
    let protect = world.run(Protect(start())).await.unwrap();
    world.complete(protect.id).await;
    world.run(RotateKey { name: key(), reason: RotationReason::Demand }).await.unwrap();
    let moving = world.run(Reencrypt(start())).await.unwrap();
    world.complete(moving.id).await;
    let back = world.run(Rollback { id: moving.id }).await.unwrap();
    assert_eq!(back.target.unwrap().get(), 1);
    world.complete(back.id).await;
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.versions[1].values), (7, 0));
    assert_eq!(census.versions[0].state, VersionState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_goes_to_the_version_that_was_active_before_whatever_its_number() {
    let world = World::new().await;
    world.connect().execute_batch(TABLE).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["name", "email"]).await.unwrap();
    world.protect().await;
    let moved = async || {
        world.clock.pass(1);
        world.rotate().await;
        world.reencrypt().await.campaign.id
    };
    let back = async |id| {
        world.clock.pass(1);
        let back = world.run(Rollback { id }).await.unwrap();
        world.complete(back.id).await;
        (back.id, back.target.unwrap().get())
    };
    let (first, target) = back(moved().await).await;
    assert_eq!(target, 1);
    // Version 3 took the place of version 1; version 2 was given up before.
    let (_, target) = back(moved().await).await;
    assert_eq!(target, 1);
    let versions = world.census().await.versions;
    assert_eq!(versions.iter().map(|row| row.values).collect::<Vec<_>>(), [7, 0, 0]);
    // A rollback is rolled back to what it left.
    let newest = world.run(ListCampaigns).await.unwrap().remove(0);
    assert_ne!(newest.id, first);
    assert_eq!(back(newest.id).await.1, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_pages_name_the_versions_that_were_opened() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(TABLE).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["name", "email"]).await.unwrap();
    world.protect().await;
    world.rotate().await;
    app.execute_batch("UPDATE people SET name = 'new' WHERE id = 1").unwrap();
    world.reencrypt().await;
    world.unprotect().await;
    let open = world.engine.unsealed().unwrap();
    let log = open.log();
    let records = log.read(0, 1_000).unwrap();
    let records = records.iter().map(|entry| serde_json::from_slice::<Record>(&entry.body).unwrap());
    let pages: Vec<_> = records.filter(|record| record.asset.is_some() && !record.versions.is_empty()).collect();
    let used = |record: &Record| {
        let rows = record.versions.iter().map(|used| (used.version.get(), used.count, used.opened));
        (record.action, rows.collect::<Vec<_>>())
    };
    let want = [
        (Action::AssetProtect, vec![(1, 7, false)]),
        (Action::CampaignStart, vec![(2, 7, false), (1, 6, true)]),
        (Action::AssetUnprotect, vec![(2, 7, true)]),
    ];
    assert_eq!(pages.iter().map(used).collect::<Vec<_>>(), want);

    // It counts as use of that version inside the asset, and asks nobody to answer for it.
    world.clock.pass(61);
    let evidence = world.run(ShowEvidence { name: version(1) }).await.unwrap();
    assert!(evidence.outside.is_empty() && evidence.obstacles.is_empty(), "{evidence:?}");
    let usage = open.state().usage_of(&pages[1].versions[1].kid).await.unwrap();
    let usage: Vec<_> = usage.iter().map(|row| (row.key.action, row.key.place, row.count.count)).collect();
    let inside = UsagePlace::Asset;
    assert_eq!(usage.len(), 2, "{usage:?}");
    assert!(usage.contains(&(Action::AssetProtect, inside, 7)) && usage.contains(&(Action::DataDecrypt, inside, 6)));
    world.run(RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_value_is_listed_left_alone_and_keeps_the_campaign_from_completing() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(TABLE).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["name", "email"]).await.unwrap();
    let protect = world.run(Protect(start())).await.unwrap();
    world.complete(protect.id).await;
    // A value moved to another row carries our version and does not open there.
    app.execute_batch("UPDATE people SET name = (SELECT name FROM people WHERE id = 1) WHERE id = 4").unwrap();
    let moved: String = app.query_row("SELECT name FROM people WHERE id = 4", [], |row| row.get(0)).unwrap();
    world.run(RotateKey { name: key(), reason: RotationReason::Demand }).await.unwrap();
    let moving = world.run(Reencrypt(start())).await.unwrap();
    let outcome = world.walk(moving.id).await.unwrap();
    assert_eq!(outcome.campaign.state, CampaignState::Incomplete);
    assert_eq!(
        app.query_row("SELECT name FROM people WHERE id = 4", [], |row| row.get::<_, String>(0)).unwrap(),
        moved
    );
    let census = world.census().await;
    assert_eq!((census.damaged, census.damaged_listed[0].row.as_str()), (1, "i4"));

    let accept = keyrail_data::ops::asset::AcceptDamaged {
        name: "people".parse().unwrap(),
        row: "i4".to_owned(),
        reason: "known loss".to_owned(),
    };
    world.run(accept).await.unwrap();
    world.run(keyrail_data::ops::campaign::Resume { id: moving.id }).await.unwrap();
    world.complete(moving.id).await;
    world.clock.pass(61);
    world.run(RetireVersion { name: "acme/prod/crm/pii@1".parse().unwrap(), acknowledged: vec![] }).await.unwrap();
    // Other bytes in that cell count again.
    app.execute_batch("UPDATE people SET name = (SELECT email FROM people WHERE id = 1) WHERE id = 4").unwrap();
    assert_eq!(world.census().await.damaged, 1);
}
