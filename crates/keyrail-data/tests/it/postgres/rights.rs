//! Who may read and write, and how the server is reached.

use keyrail_data::ops::asset::{IdentityChoice, UpdateAsset};
use keyrail_data::ops::campaign::Protect;
use keyrail_data::{AssetError, Stop};
use keyrail_engine::EngineError;
use keyrail_testkit::postgres::{Cluster, Options, Version};

use crate::support::{Home, World, start};

const TABLE: &str = "CREATE TABLE people (id bigint PRIMARY KEY, owner text, v text);
    INSERT INTO people SELECT i, 'role' || i % 2, 'value ' || i FROM generate_series(1, 1200) i;";

async fn world(version: Version) -> World {
    let world = World::on(Home::Postgres(version)).await;
    world.sql(TABLE);
    world
}

/// A role of its own for a test, with a password.
fn role(world: &World, attributes: &str) -> String {
    let name = format!("role_{}", world.pg().name());
    world.pg().cluster().create_user(&name).unwrap();
    world.sql(&format!("ALTER ROLE {name} {attributes}; GRANT SELECT, UPDATE ON people TO {name}"));
    name
}

async fn add_as(world: &World, role: &str) -> Result<keyrail_data::ops::asset::AssetView, EngineError> {
    world.add_at(&world.pg().url_as(role), None, "people", IdentityChoice::PrimaryKey, &["v"]).await
}

fn forget(world: &World, role: &str) {
    world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_is_never_passed_by_in_silence() {
    for version in Version::ALL {
        let world = world(version).await;
        world.sql("ALTER TABLE people ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON people USING (owner = 'role1')");
        let role = role(&world, "NOBYPASSRLS");
        let refused = add_as(&world, &role).await.unwrap_err();
        assert_eq!(refused.code(), "asset_unfit");
        assert!(refused.to_string().contains("row-level security hides rows"), "{refused}");
        assert!(refused.hint().unwrap().contains("BYPASSRLS"));
        world.sql(&format!("ALTER ROLE {role} BYPASSRLS"));
        add_as(&world, &role).await.unwrap();
        // The right is taken away in the middle: nothing is counted or moved that somebody may not see.
        let id = world.run(Protect(start())).await.unwrap().id;
        let world = std::sync::Arc::new(world);
        let (other, sql) = (world.clone(), format!("ALTER ROLE {role} NOBYPASSRLS"));
        let error = world.walk_with(id, Stop::default(), move || drop(other.sql(&sql))).await.unwrap_err();
        assert_eq!(error.code(), "asset_denied", "{error}");
        assert!(error.to_string().contains("row-level security"), "{error}");
        let stopped = world.state_of(id).await;
        assert_eq!((stopped.moved, stopped.rows), (500, 500));
        world.sql(&format!("ALTER ROLE {role} BYPASSRLS"));
        world.run(keyrail_data::ops::campaign::Resume { id }).await.unwrap();
        assert_eq!(world.complete(id).await.campaign.counts.cells_moved, 1_200);
        assert_eq!(world.sql("SELECT relrowsecurity FROM pg_class WHERE relname = 'people'"), "t");
        forget(&world, &role);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_named() {
    let world = world(Version::V15).await;
    let role = role(&world, "NOSUPERUSER");
    let refused = async |revoke: &str| {
        world.sql(&format!("REVOKE {revoke} ON people FROM {role}"));
        add_as(&world, &role).await.unwrap_err()
    };
    let no_update = refused("UPDATE").await;
    assert!(no_update.to_string().contains("may not update column `v`"), "{no_update}");
    assert!(refused("SELECT").await.to_string().contains("may not read"));
    world.sql(&format!("GRANT SELECT, UPDATE (v) ON people TO {role}"));
    add_as(&world, &role).await.unwrap();
    let outcome = world.protect().await;
    let left = outcome.campaign.not_scrubbed.join("\n");
    assert!(left.contains("may neither ANALYZE nor VACUUM"), "{left}");
    forget(&world, &role);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_neither_taken_nor_shown() {
    let world = world(Version::V15).await;
    let url = world.url().replace("postgres://postgres@", "postgres://postgres:Tr0ub4dor@");
    let refused = world.add_at(&url, None, "people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap_err();
    assert_eq!(refused.code(), "asset_url");
    assert!(refused.hint().unwrap().contains("passfile"));
    let wrong = world.pg().url_as("nobody_here");
    let refused = world.add_at(&wrong, None, "people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap_err();
    assert_eq!(refused.code(), "asset_login", "{refused}");
    let absent = world.url().replace(world.pg().name(), "no_database");
    let refused = world.add_at(&absent, None, "people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap_err();
    assert_eq!(refused.code(), "asset_login", "{refused}");
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    let update = UpdateAsset { name: Some("people".parse().unwrap()), url: Some(url), ..UpdateAsset::default() };
    let other = world.run(update).await.unwrap_err();
    for error in [refused, other] {
        assert!(!format!("{error} {error:?}").contains("Tr0ub4dor"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_shows_its_certificate() {
    let mut options = Options::new(Version::V18);
    options.tls = true;
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start_with(&options).unwrap()));
    let world = World::with(Some(cluster.database().unwrap())).await;
    world.sql(TABLE);
    let add = async |more: &str| {
        let url = format!("{}&{more}", world.url());
        world.add_at(&url, None, "people", IdentityChoice::PrimaryKey, &["v"]).await
    };
    let unknown = add("sslmode=verify-full").await.unwrap_err();
    assert_eq!(unknown.code(), "asset_unreachable", "{unknown}");
    assert!(unknown.to_string().contains("UnknownIssuer"), "{unknown}");
    assert_eq!(add("sslmode=disable").await.unwrap_err().code(), "asset_login");
    add(&format!("sslmode=verify-full&sslrootcert={}", cluster.ca_file().display())).await.unwrap();
    world.protect().await;
    drop(world);
    cluster.kill().unwrap();
}

#[test]
fn of_what_is_no_url_little_is_repeated() {
    let error = AssetError::Url { url: "mysql:".to_owned() };
    assert_eq!(error.to_string(), "`mysql:` is not a database that Keyrail knows");
}
