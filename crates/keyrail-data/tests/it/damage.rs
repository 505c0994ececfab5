//! Values that carry one of our versions and do not open: listed, left as they are, never encrypted again.

use keyrail_core::access::Role;
use keyrail_core::campaign::CampaignState;
use keyrail_core::lifecycle::VersionState;
use keyrail_crypto::envelope::Context;
use keyrail_crypto::secret::Plaintext;
use keyrail_data::ops::asset::{AcceptDamaged, IdentityChoice};
use keyrail_data::ops::campaign::{Plan, PlanGoal, Protect, Reencrypt, Resume, Rollback, Unprotect};
use keyrail_engine::ops::data::{Encrypt, EncryptItem};
use keyrail_engine::ops::key::{CompromiseVersion, CreateKey, ShowKey};
use keyrail_engine::ops::retire::{DestroyVersion, RetireVersion};

use crate::support::{World, key, start, version};

async fn world(sql: &str, columns: &[&str]) -> (World, rusqlite::Connection) {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(sql).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, columns).await.unwrap();
    (world, app)
}

fn cell(app: &rusqlite::Connection, sql: &str) -> String {
    app.query_row(&format!("SELECT quote(({sql}))"), [], |row| row.get(0)).unwrap()
}

fn accept(row: &str) -> AcceptDamaged {
    AcceptDamaged { name: "people".parse().unwrap(), row: row.to_owned(), reason: "lost in spring".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_altered_byte_is_damage_and_stays() {
    let (world, app) = world(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, t TEXT, b BLOB); INSERT INTO people VALUES (1, 'one', x'01'), (2, 'two', x'02')",
        &["t", "b"],
    )
    .await;
    world.protect().await;
    // The last character but one of a text and the last byte of a blob belong to the envelope's end; both still parse.
    app.execute_batch(
        "UPDATE people SET t = substr(t, 1, 60) || CASE substr(t, 61, 1) WHEN 'A' THEN 'B' ELSE 'A' END || substr(t, 62) WHERE id = 1;
         UPDATE people SET b = (SELECT b FROM people WHERE id = 1) WHERE id = 2;",
    )
    .unwrap();
    let (text, blob) =
        (cell(&app, "SELECT t FROM people WHERE id = 1"), cell(&app, "SELECT b FROM people WHERE id = 2"));
    let census = world.census().await;
    assert_eq!((census.damaged, census.rows_damaged, census.plaintext), (2, 2, 0));
    let listed: Vec<_> = census.damaged_listed.iter().map(|row| (row.row.as_str(), row.column.as_str())).collect();
    assert_eq!(listed, [("i1", "t"), ("i2", "b")]);
    world.rotate().await;
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    for again in [false, true] {
        if again {
            world.run(Resume { id }).await.unwrap();
        }
        let outcome = world.walk(id).await.unwrap();
        assert_eq!(outcome.campaign.state, CampaignState::Incomplete);
        assert_eq!(outcome.campaign.error_code.as_deref(), Some("damaged_left"));
        assert_eq!(outcome.campaign.counts.damaged, 2, "however often the table was walked");
        assert_eq!(cell(&app, "SELECT t FROM people WHERE id = 1"), text);
        assert_eq!(cell(&app, "SELECT b FROM people WHERE id = 2"), blob);
    }
    let left = world.run(RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap_err();
    assert_eq!(left.code(), "retire_blocked");
    let unfinished = world.run(Unprotect(start())).await.unwrap_err();
    assert_eq!(unfinished.code(), "exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_under_the_active_version_is_seen_too() {
    let table = "CREATE TABLE people (id INTEGER PRIMARY KEY, v); INSERT INTO people VALUES (1, 'one'), (2, 'two')";
    let (world, app) = world(table, &["v"]).await;
    world.protect().await;
    app.execute_batch("UPDATE people SET v = (SELECT v FROM people WHERE id = 1) WHERE id = 2").unwrap();
    let second = || cell(&app, "SELECT v FROM people WHERE id = 2");
    let copied = second();
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    assert_eq!(world.walk(id).await.unwrap().campaign.state, CampaignState::Incomplete);
    assert_eq!(second(), copied);
    world.run(accept("i2")).await.unwrap();
    world.run(Resume { id }).await.unwrap();
    world.complete(id).await;
    let damaged = |census: keyrail_data::ops::asset::CensusView| (census.damaged, census.accepted_damaged);
    app.execute_batch("UPDATE people SET v = replace(v, substr(v, 100, 4), 'AAAA') WHERE id = 2").unwrap();
    assert_eq!(damaged(world.census().await), (1, 0), "other bytes count again");
    app.execute("UPDATE people SET v = ? WHERE id = 2", [copied.trim_matches('\'')]).unwrap();
    assert_eq!(damaged(world.census().await), (0, 1), "the same bytes are the same damage");

    app.execute_batch("UPDATE people SET v = replace(v, substr(v, 100, 4), 'BBBB') WHERE id = 2").unwrap();
    let altered = second();
    let id = world.run(Unprotect(start())).await.unwrap().id;
    assert_eq!(world.walk(id).await.unwrap().campaign.state, CampaignState::Incomplete);
    assert_eq!((cell(&app, "SELECT v FROM people WHERE id = 1"), second()), ("'one'".to_owned(), altered));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_key_of_ours_is_damage_and_no_plaintext() {
    let (world, app) = world(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); INSERT INTO people VALUES (1, 'one'), (2, 'two')",
        &["v"],
    )
    .await;
    let other: keyrail_core::name::KeyName = "acme/prod/crm/other".parse().unwrap();
    world.run(CreateKey { name: other.clone(), label: "confidential".parse().unwrap() }).await.unwrap();
    let item = EncryptItem { plaintext: Plaintext::from(b"theirs".to_vec()), context: Context::empty() };
    let sealed = world.run(Encrypt { key: other, items: vec![Ok(item)] }).await.unwrap().remove(0).unwrap().ciphertext;
    app.execute("UPDATE people SET v = ? WHERE id = 2", [&sealed]).unwrap();
    let started = world.run(Protect(start())).await.unwrap();
    let outcome = world.walk(started.id).await.unwrap();
    assert_eq!((outcome.campaign.state, outcome.campaign.counts.cells_moved), (CampaignState::Incomplete, 1));
    assert_eq!(cell(&app, "SELECT v FROM people WHERE id = 2"), format!("'{sealed}'"));
    world.run(accept("i2")).await.unwrap();
    world.run(Resume { id: started.id }).await.unwrap();
    world.complete(started.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_holds_no_json_is_listed_and_can_be_accepted() {
    let (world, app) = world(
        r#"CREATE TABLE people (id INTEGER PRIMARY KEY, p TEXT); INSERT INTO people VALUES (1, '{"a":"secret","b":"x"}'), (2, '{"a":'), (3, x'00')"#,
        &["p:$.a"],
    )
    .await;
    let plan = world.run(Plan { asset: "people".parse().unwrap(), rate: None, goal: PlanGoal::Active }).await.unwrap();
    assert!(plan.misfits.iter().any(|misfit| misfit.problem.starts_with("2 rows of column `p` hold no JSON")));
    let started = world.run(Protect(start())).await.unwrap();
    let outcome = world.walk(started.id).await.unwrap();
    assert_eq!((outcome.campaign.state, world.census().await.damaged), (CampaignState::Incomplete, 2));
    for row in ["i2", "i3"] {
        world.run(accept(row)).await.unwrap();
    }
    let census = world.census().await;
    assert_eq!((census.damaged, census.accepted_damaged), (0, 2));
    world.run(Resume { id: started.id }).await.unwrap();
    world.complete(started.id).await;
    app.execute_batch("UPDATE people SET p = '[' WHERE id = 2").unwrap();
    assert_eq!(world.census().await.damaged, 1, "other bytes count again");
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting_needs_a_reason_and_something_damaged() {
    let (world, _app) =
        world("CREATE TABLE people (id INTEGER PRIMARY KEY, v); INSERT INTO people VALUES (1, 'one')", &["v"]).await;
    world.protect().await;
    let silent = AcceptDamaged { reason: " ".to_owned(), ..accept("i1") };
    assert_eq!(world.run(silent).await.unwrap_err().code(), "invalid");
    assert_eq!(world.run(accept("i1")).await.unwrap_err().code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_is_refused_to_a_version_that_may_not_come_back() {
    let table = "CREATE TABLE people (id INTEGER PRIMARY KEY, v); INSERT INTO people VALUES (1, 'one')";
    let (world, _app) = world(table, &["v"]).await;
    let protect = world.protect().await.campaign.id;
    assert_eq!(world.run(Rollback { id: protect }).await.unwrap_err().code(), "invalid", "nothing was before");
    world.rotate().await;
    let moved = world.reencrypt().await.campaign.id;
    world.run(CompromiseVersion { name: version(1) }).await.unwrap();
    let refused = world.run(Rollback { id: moved }).await.unwrap_err();
    assert_eq!(refused.code(), "key_state", "compromised");

    world.rotate().await;
    let moved = world.reencrypt().await.campaign.id;
    world.clock.pass(61);
    world.run(RetireVersion { name: version(2), acknowledged: vec![] }).await.unwrap();
    assert_eq!(world.run(Rollback { id: moved }).await.unwrap_err().code(), "key_state", "retired");

    world.run(DestroyVersion { name: version(2), acknowledged: vec![] }).await.unwrap();
    world.clock.pass(15 * 86_400);
    world.engine.tick().await.unwrap();
    let destroyed = world.run(ShowKey { name: key() }).await.unwrap();
    assert_eq!(destroyed.versions[1].state, VersionState::Destroyed);
    assert_eq!(world.run(Rollback { id: moved }).await.unwrap_err().code(), "key_state", "destroyed");

    world.rotate().await;
    world.reencrypt().await;
    let stale = world.run(Rollback { id: moved }).await.unwrap_err();
    assert_eq!(stale.code(), "invalid", "the key has turned since");
    let newest = world.run(keyrail_data::ops::campaign::ListCampaigns).await.unwrap();
    let newest = newest.iter().find(|row| row.target.is_some_and(|target| target.get() == 4)).unwrap().id;
    let back = world.run(Rollback { id: newest }).await.unwrap();
    assert_eq!(world.run(Rollback { id: newest }).await.unwrap_err().code(), "exists", "it runs already");
    world.complete(back.id).await;
    assert_eq!(world.census().await.versions[2].values, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_out_needs_the_right_to_decrypt() {
    let (world, _app) =
        world("CREATE TABLE people (id INTEGER PRIMARY KEY, v); INSERT INTO people VALUES (1, 'one')", &["v"]).await;
    let started = world.run_as(Role::Operator, Protect(start())).await.unwrap();
    world.complete(started.id).await;
    assert_eq!(world.run_as(Role::Operator, Unprotect(start())).await.unwrap_err().code(), "refused");
    let started = world.run_as(Role::Owner, Unprotect(start())).await.unwrap();
    world.complete(started.id).await;
    assert_eq!(key().to_string(), "acme/prod/crm/pii");
}
