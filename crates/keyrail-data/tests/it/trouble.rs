//! Campaigns that are paused, disturbed and resumed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyrail_core::access::{Action, Role};
use keyrail_core::campaign::{Campaign, CampaignState};
use keyrail_core::id::CampaignId;
use keyrail_core::record::{Record, RecordDecision};
use keyrail_data::ops::asset::{CensusAsset, IdentityChoice, UpdateAsset};
use keyrail_data::ops::campaign::{Pause, Plan, PlanGoal, Protect, Resume, Start, Unprotect};
use keyrail_data::{Run, Stop};
use keyrail_engine::{Caller, Credential, EngineError};
use parking_lot::Mutex;

use crate::support::{World, connect, start};

const ROWS: u64 = 1_700;

async fn world() -> World {
    let world = World::new().await;
    let sql = format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE people (id INTEGER PRIMARY KEY, v, w);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO people SELECT i, 'value ' || i, i FROM n"
    );
    world.connect().execute_batch(&sql).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    world
}

/// The same, with a campaign that has not begun to walk.
async fn protecting() -> (World, CampaignId) {
    let world = world().await;
    let id = world.run(Protect(start())).await.unwrap().id;
    (world, id)
}

fn local_operator() -> Caller<'static> {
    Caller::new(Credential::LocalOperator).unwrap()
}

fn on(path: PathBuf, sql: &'static str) -> impl FnOnce() + Send + 'static {
    move || connect(&path).execute_batch(sql).unwrap()
}

/// Resumes a campaign that stopped, and sees it complete with every value moved once.
async fn finish(world: &World, id: CampaignId) {
    world.run(Resume { id }).await.unwrap();
    let outcome = world.complete(id).await;
    assert_eq!(outcome.campaign.counts.cells_moved, ROWS);
    assert_eq!(world.census().await.versions[0].values, ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_campaign_goes_on_where_it_was() {
    let (world, id) = protecting().await;
    let (stop, asked) = (Stop::default(), Stop::default());
    let handle = stop.clone();
    let outcome = world.walk_with(id, stop, move || handle.pause()).await.unwrap();
    assert_eq!((outcome.campaign.state, outcome.campaign.counts.rows), (CampaignState::Paused, 500));
    assert!(outcome.campaign.cursor.is_some(), "its place is in the store");
    assert_eq!(world.run(Pause { id }).await.unwrap_err().code(), "campaign_state");
    world.run(Resume { id }).await.unwrap();
    // The next page is the second one.
    let handle = asked.clone();
    let outcome = world.walk_with(id, asked, move || handle.pause()).await.unwrap();
    assert_eq!((outcome.campaign.counts.rows, outcome.campaign.counts.cells_moved), (1_000, 1_000));
    finish(&world, id).await;
    assert_eq!(world.run(Resume { id }).await.unwrap_err().code(), "campaign_state", "it is complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_hears_of_a_pause_by_somebody_else() {
    let (world, id) = protecting().await;
    let engine = world.engine.unsealed().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let outcome = world
        .walk_with(id, Stop::default(), move || {
            let caller = local_operator();
            runtime.block_on(engine.execute(&caller, Pause { id })).unwrap();
        })
        .await
        .unwrap();
    assert_eq!(
        (outcome.campaign.state, world.state_of(id).await.state),
        (CampaignState::Paused, CampaignState::Paused)
    );
    finish(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_was_taken_back_leaves_no_trace() {
    let (world, id) = protecting().await;
    let (engine, runtime) = (world.engine.unsealed().unwrap(), tokio::runtime::Handle::current());
    let outcome = world
        .walk_with(id, Stop::default(), move || {
            let caller = local_operator();
            runtime.block_on(engine.execute(&caller, Pause { id })).unwrap();
            runtime.block_on(engine.execute(&caller, Resume { id })).unwrap();
        })
        .await
        .unwrap();
    let counts = outcome.campaign.counts;
    assert_eq!((outcome.campaign.state, counts.cells_moved), (CampaignState::Completed, ROWS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let world = world().await;
    let asset = "people".parse().unwrap();
    for bad in [0, 10_000_001] {
        let start = Start { asset: keyrail_core::name::Name::clone(&asset), rate: Some(bad) };
        assert_eq!(world.run(Protect(start)).await.unwrap_err().code(), "invalid");
    }
    let id = world.run(Protect(Start { asset, rate: Some(1_000) })).await.unwrap().id;
    let begun = Instant::now();
    world.complete(id).await;
    // 1500 rows are due before the last page.
    assert!(begun.elapsed() >= Duration::from_millis(1_500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_schema_that_do_not_matter_are_followed() {
    for sql in [
        "CREATE INDEX i ON people (w)",
        "ALTER TABLE people ADD COLUMN x",
        "VACUUM",
        "CREATE TABLE other (a)",
        "ANALYZE",
    ] {
        let (world, id) = protecting().await;
        let outcome = world.walk_with(id, Stop::default(), on(world.database(), sql)).await.unwrap();
        assert_eq!(
            (outcome.campaign.state, outcome.campaign.counts.cells_moved),
            (CampaignState::Completed, ROWS),
            "{sql}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_does_not_fit_any_more_stops_the_campaign() {
    let rename = "ALTER TABLE people RENAME COLUMN v TO value";
    let back = "ALTER TABLE people RENAME COLUMN value TO v";
    for (sql, mend) in [
        (rename, Some(back)),
        (rename, None),
        ("ALTER TABLE people RENAME TO persons", Some("ALTER TABLE persons RENAME TO people")),
        (
            "CREATE TRIGGER g AFTER UPDATE ON people WHEN NEW.v <> lower(NEW.v) BEGIN UPDATE people SET v = lower(NEW.v) WHERE id = NEW.id; END",
            Some("DROP TRIGGER g"),
        ),
        ("CREATE TRIGGER g BEFORE UPDATE ON people BEGIN SELECT RAISE(ABORT, 'not now'); END", Some("DROP TRIGGER g")),
    ] {
        let (world, id) = protecting().await;
        let error = world.walk_with(id, Stop::default(), on(world.database(), sql)).await.unwrap_err();
        let want = match sql {
            sql if sql.contains("RAISE") => "asset_constraint",
            sql if sql.contains("TRIGGER") => "asset_altered",
            _ => "asset_changed",
        };
        assert_eq!(error.code(), want, "{sql}");
        assert!(!error.hint().unwrap_or_default().is_empty());
        let stopped = world.state_of(id).await;
        assert_eq!((stopped.state, stopped.error.as_deref(), stopped.moved), (CampaignState::Stopped, Some(want), 500));
        match mend {
            Some(mend) => world.connect().execute_batch(mend).unwrap(),
            None => {
                let columns = vec![("v".to_owned(), "value".to_owned())];
                let update = UpdateAsset { name: Some("people".parse().unwrap()), columns, ..UpdateAsset::default() };
                world.run(update).await.unwrap();
            }
        }
        finish(&world, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_stops_the_campaign_which_is_resumed() {
    let (world, id) = protecting().await;
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = world.database();
    let error = world
        .walk_with(id, Stop::default(), move || {
            let app = connect(&path);
            app.execute_batch("BEGIN IMMEDIATE").unwrap();
            sender.send(app).unwrap();
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), "asset_busy");
    assert!(error.to_string().contains("locked"), "{error}");
    assert_eq!(world.state_of(id).await.state, CampaignState::Stopped);
    receiver.recv().unwrap().execute_batch("ROLLBACK").unwrap();
    finish(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_whose_key_cannot_be_read_stops_and_says_why() {
    let (world, id) = protecting().await;
    let store = connect(&world.dir.path().join("D").join("store.sqlite"));
    let seal: Vec<u8> = store.query_row("SELECT seal FROM data_key_version", [], |row| row.get(0)).unwrap();
    store.execute("UPDATE data_key_version SET seal = zeroblob(length(seal))", []).unwrap();
    let error = world.walk(id).await.unwrap_err();
    assert_eq!(error.code(), "store_damaged");
    store.execute("UPDATE data_key_version SET seal = ?1", [&seal]).unwrap();
    let stopped = world.state_of(id).await;
    assert_eq!((stopped.state, stopped.error.as_deref()), (CampaignState::Stopped, Some("store_damaged")));
    finish(&world, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_campaign_is_resumed_by_who_may_steer_it() {
    let (world, id) = protecting().await;
    let before = world.state_of(id).await;
    assert_eq!(world.run_as(Role::Auditor, Resume { id }).await.unwrap_err().code(), "refused");
    let resumed = world.run_as(Role::Operator, Resume { id }).await.unwrap();
    assert_eq!((resumed.state, resumed.updated_at), (CampaignState::Running, before.updated_at), "it simply goes on");
    world.complete(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unprotecting_is_resumed_by_who_may_take_plaintext_back() {
    let world = world().await;
    world.protect().await;
    let id = world.run(Unprotect(start())).await.unwrap().id;
    assert_eq!(world.run_as(Role::Operator, Resume { id }).await.unwrap_err().code(), "refused", "running");
    let stop = Stop::default();
    let handle = stop.clone();
    world.walk_with(id, stop, move || handle.pause()).await.unwrap();
    for role in [Role::Operator, Role::Auditor] {
        assert_eq!(world.run_as(role, Resume { id }).await.unwrap_err().code(), "refused", "{role}");
    }
    let paused = world.state_of(id).await;
    assert_eq!((paused.state, paused.rows, paused.resumed_by), (CampaignState::Paused, 500, None));
    let resumed = world.run_as(Role::Owner, Resume { id }).await.unwrap();
    let by = resumed.resumed_by.unwrap();
    assert!(by.starts_with("token:") && by != resumed.started_by, "{by}");
    world.complete(id).await;

    // Refusals are those of the right that was missing; pages name who let them be written.
    let open = world.engine.unsealed().unwrap();
    let records = open.log().read(0, 1_000).unwrap();
    let records = records.iter().map(|entry| serde_json::from_slice::<Record>(&entry.body).unwrap());
    let records: Vec<_> = records.collect();
    let refused = records.iter().filter(|record| record.decision == RecordDecision::Refuse);
    let operators = refused.clone().filter(|record| record.reason.contains("puts plaintext back")).count();
    assert_eq!((operators, refused.count()), (2, 3));
    let pages = records.iter().filter(|record| record.action == Action::AssetUnprotect && !record.versions.is_empty());
    let pages: Vec<_> = pages.map(|record| (record.principal.as_str(), record.versions[0].count)).collect();
    let started = resumed.started_by.as_str();
    assert_eq!(pages, [(started, 500), (by.as_str(), 500), (by.as_str(), 500), (by.as_str(), 200)]);
    // What puts nothing back is an operator's.
    let id = world.run(Protect(start())).await.unwrap().id;
    world.run(Pause { id }).await.unwrap();
    world.run_as(Role::Operator, Resume { id }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_put_plaintext_back_may_not_plan_it() {
    let world = world().await;
    world.protect().await;
    let plan = |goal| Plan { asset: "people".parse().unwrap(), rate: None, goal };
    for role in [Role::Operator, Role::Auditor] {
        assert_eq!(world.run_as(role, plan(PlanGoal::Plaintext)).await.unwrap_err().code(), "refused", "{role}");
    }
    assert!(world.run_as(Role::Operator, plan(PlanGoal::Active)).await.unwrap().target.is_some());
    assert_eq!(world.run_as(Role::Owner, plan(PlanGoal::Plaintext)).await.unwrap().target, None);
    let open = world.engine.unsealed().unwrap();
    let records = open.log().read(0, 1_000).unwrap();
    let records = records.iter().map(|entry| serde_json::from_slice::<Record>(&entry.body).unwrap());
    let refused: Vec<_> = records.filter(|record| record.decision == RecordDecision::Refuse).collect();
    let reasons: Vec<_> = refused.iter().map(|record| record.reason.contains("putting plaintext back")).collect();
    assert_eq!(reasons, [true, false], "whoever may take no census is told that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_another_one_stops_the_campaign() {
    for replaced in [false, true] {
        let world = world().await;
        world.connect().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
        let id = world.run(Protect(start())).await.unwrap().id;
        let (path, away) = (world.database(), world.dir.path().join("away.sqlite"));
        let (from, to) = (path.clone(), away.clone());
        let event = move || {
            std::fs::rename(&from, &to).unwrap();
            if replaced {
                std::fs::copy(&to, &from).unwrap();
            }
        };
        let error = world.walk_with(id, Stop::default(), event).await.unwrap_err();
        assert_eq!(error.code(), "asset_changed");
        if !replaced {
            assert!(error.to_string().contains("gone"), "{error}");
            world.run(Resume { id }).await.unwrap();
            let absent = world.walk(id).await.unwrap_err();
            assert!(matches!(absent, EngineError::Asset { code: "asset_file_absent", .. }), "{absent:?}");
            std::fs::rename(&away, &path).unwrap();
        }
        finish(&world, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_turns_meanwhile_is_followed() {
    let (world, id) = protecting().await;
    let (engine, runtime) = (world.engine.unsealed().unwrap(), tokio::runtime::Handle::current());
    let outcome = world
        .walk_with(id, Stop::default(), move || {
            let caller = local_operator();
            let rotate = keyrail_engine::ops::key::RotateKey {
                name: crate::support::key(),
                reason: keyrail_core::rotation::RotationReason::Demand,
            };
            runtime.block_on(engine.execute(&caller, rotate)).unwrap();
        })
        .await
        .unwrap();
    assert_eq!(outcome.campaign.state, CampaignState::Completed);
    let census = world.census().await;
    assert_eq!((census.versions[0].values, census.versions[1].values), (0, ROWS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_of_a_sealed_store_ends_and_goes_on_after_the_next_unseal() {
    for unsealed_meanwhile in [false, true] {
        let (world, id) = protecting().await;
        let (engine, runtime) = (world.engine.clone(), tokio::runtime::Handle::current());
        let event = move || {
            let caller = local_operator();
            runtime.block_on(engine.seal_for(&caller)).unwrap();
            if unsealed_meanwhile {
                runtime.block_on(engine.unseal()).unwrap();
            }
        };
        let error = world.walk_with(id, Stop::default(), event).await.unwrap_err();
        assert_eq!(error.code(), "sealed");
        world.engine.unseal().await.unwrap();
        let stored = world.state_of(id).await;
        assert_eq!((stored.state, stored.error), (CampaignState::Running, None), "nobody stopped it");
        // One page is done, and nothing of it was counted in the store: the values say how much is left.
        let outcome = world.complete(id).await;
        assert_eq!(outcome.campaign.counts.cells_moved, ROWS - 500);
        assert_eq!(world.census().await.versions[0].values, ROWS);
        world.engine.close().await.unwrap();
        world.engine.unseal().await.unwrap();
    }
}

/// A census that is under way when the store is sealed ends: its keys are to be gone from memory.
#[tokio::test(flavor = "multi_thread")]
async fn the_census_of_a_campaign_ends_when_the_store_is_sealed() {
    let (world, id) = protecting().await;
    let (engine, runtime) = (world.engine.clone(), tokio::runtime::Handle::current());
    // After the last page nothing but the census is left.
    let progress = Box::new(move |campaign: &Campaign| {
        if campaign.counts.rows == ROWS {
            let caller = local_operator();
            runtime.block_on(engine.seal_for(&caller)).unwrap();
        }
    });
    let run = Run { open: world.engine.unsealed().unwrap(), id, stop: Stop::default(), progress };
    assert_eq!(run.run().await.unwrap_err().code(), "sealed");
    world.engine.unseal().await.unwrap();
    let stored = world.state_of(id).await;
    assert_eq!((stored.state, stored.error), (CampaignState::Running, None), "nobody stopped it");
    world.complete(id).await;
}

/// So does a census that somebody asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_census_of_a_sealed_store_is_refused_as_sealed() {
    let world = world().await;
    let open = world.engine.unsealed().unwrap();
    let caller = local_operator();
    world.engine.seal_for(&caller).await.unwrap();
    // It was let in before the store was sealed, and counts now.
    let census = CensusAsset { name: "people".parse().unwrap() };
    assert_eq!(open.execute(&caller, census).await.unwrap_err().code(), "sealed");
}

/// A campaign that waits because of its rate does nothing more once the store is sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_keeps_its_rate_ends_when_the_store_is_sealed() {
    let world = world().await;
    let id = world.run(Protect(Start { rate: Some(1), ..start() })).await.unwrap().id;
    let (engine, runtime) = (world.engine.clone(), tokio::runtime::Handle::current());
    let sealing = Mutex::new(None);
    let (sender, receiver) = std::sync::mpsc::channel();
    let progress = Box::new(move |campaign: &Campaign| {
        // Sealed while the campaign waits for its next second.
        let (engine, sender) = (engine.clone(), sender.clone());
        let seal = async move {
            let caller = local_operator();
            sender.send(engine.seal_for(&caller).await.map_err(|error| error.code())).unwrap();
        };
        sealing.lock().get_or_insert_with(|| runtime.spawn(seal));
        assert_eq!(campaign.counts.rows, 1, "it went on");
    });
    let run = Run { open: world.engine.unsealed().unwrap(), id, stop: Stop::default(), progress };
    assert_eq!(run.run().await.unwrap_err().code(), "sealed");
    assert_eq!(receiver.recv().unwrap(), Ok(()));
    world.engine.unseal().await.unwrap();
    assert_eq!(world.state_of(id).await.state, CampaignState::Running);
    let held: i64 =
        world.connect().query_row("SELECT count(*) FROM people WHERE v LIKE 'kr1.%'", [], |row| row.get(0)).unwrap();
    assert_eq!(held, 1, "one page of one row");
}
