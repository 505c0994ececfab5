//! Who gets in, over what, and as whom.

use keyrail_store::{OpenMode, Store, StoreError};
use keyrail_testkit::postgres::{Cluster, Options, Version, shared};

use super::{numbers, open, store_number};

/// The roles of the page for operators, as they are written there.
fn roles() -> String {
    let page = include_str!("../../../../../docs/operate/postgresql.md");
    let blocks = page.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_of_the_operators_page_are_enough_and_no_more() {
    for version in Version::ALL {
        let cluster = Cluster::start(version).unwrap();
        cluster.create_database("keyrail").unwrap();
        cluster.sql("keyrail", &roles()).unwrap();
        for user in ["keyrail_owner", "keyrail_app", "keyrail_auditor"] {
            let password = format!("{user}-secret");
            cluster.sql("postgres", &format!("ALTER ROLE {user} LOGIN PASSWORD '{password}'")).unwrap();
            cluster.add_password(user, &password).unwrap();
        }
        let url = |user: &str| cluster.url_as(user, "keyrail");
        // Nothing is there yet, and the one that serves may not make it.
        let error = open(&url("keyrail_app"), OpenMode::Create).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
        drop(open(&url("keyrail_owner"), OpenMode::Create).await.unwrap());

        let store = open(&url("keyrail_app"), OpenMode::Write).await.unwrap();
        store_number(&store, 1).await.unwrap();
        store.health().await.unwrap();
        assert_eq!(store.integrity().await.unwrap(), Vec::<String>::new());
        let auditor = open(&url("keyrail_auditor"), OpenMode::Read).await.unwrap();
        assert_eq!(numbers(&auditor).await.unwrap(), 1);
        let writer = open(&url("keyrail_auditor"), OpenMode::Write).await.unwrap();
        let error = store_number(&writer, 2).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied(_)), "{error:?}");

        let as_user = |user: &str, sql: &str| cluster.sql("keyrail", &format!("SET ROLE {user}; {sql}"));
        for sql in [
            "DROP TABLE keyrail.token",
            "ALTER TABLE keyrail.token DISABLE TRIGGER ALL",
            "CREATE TABLE keyrail.more (n int)",
            "TRUNCATE keyrail.token",
            "CREATE TRIGGER t BEFORE UPDATE ON keyrail.token EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE TABLE public.more (n int)",
        ] {
            for user in ["keyrail_app", "keyrail_auditor"] {
                let error = as_user(user, sql).unwrap_err();
                assert!(
                    format!("{error:#}").contains("permission denied")
                        || format!("{error:#}").contains("must be owner"),
                    "{user} {sql}: {error:#}"
                );
            }
        }
        assert!(as_user("keyrail_auditor", "DELETE FROM keyrail.usage").is_err());
        drop(store);
        cluster.sql("keyrail", "UPDATE keyrail.meta SET schema_version = 99").unwrap();
        let error = open(&url("keyrail_app"), OpenMode::Write).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::UnknownSchema { found: 99, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_is_believed_by_its_certificate_and_name() {
    for version in Version::ALL {
        let mut options = Options::new(version);
        options.tls = true;
        let cluster = Cluster::start_with(&options).unwrap();
        let (url, ca) = (cluster.url("postgres"), cluster.ca_file().display().to_string());
        let dir = cluster.socket_dir().display();
        let client = format!("&sslcert={dir}/client.crt&sslkey={dir}/client.key");
        for setting in [format!("sslrootcert={ca}"), format!("sslmode=verify-full&sslrootcert={ca}{client}")] {
            let store = open(&format!("{url}&{setting}"), OpenMode::Create).await.unwrap();
            store.health().await.unwrap();
        }
        let other = Cluster::start_with(&options).unwrap();
        let wrong_name = url.replace("127.0.0.1", "127.0.0.2");
        cluster.sql("postgres", "ALTER SYSTEM SET listen_addresses = '127.0.0.1, 127.0.0.2'").unwrap();
        cluster.restart().unwrap();
        for (url, what) in [
            (format!("{url}&sslrootcert={}", other.ca_file().display()), "another authority"),
            (format!("{wrong_name}&sslrootcert={ca}"), "another name"),
            (format!("{url}&sslmode=verify-full"), "the public authorities"),
        ] {
            let error = open(&url, OpenMode::Read).await.map(drop).unwrap_err();
            let StoreError::Unreachable(source) = error else { panic!("{what}: {error:?}") };
            assert!(source.to_string().contains("TLS"), "{what}: {source}");
        }
        let error = open(&format!("{url}&sslmode=disable"), OpenMode::Read).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let cluster = shared(Version::V15);
    let database = cluster.database().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "*:*:*:postgres:not-the-password\n").unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/{}?passfile=", cluster.port(), database.name());
    let wrong = open(&format!("{url}{}", file.path().display()), OpenMode::Create).await.map(drop).unwrap_err();
    std::fs::write(file.path(), "").unwrap();
    let none = open(&format!("{url}{}", file.path().display()), OpenMode::Create).await.map(drop).unwrap_err();
    for error in [&wrong, &none] {
        let told = format!("{error} {error:?} {:?}", std::error::Error::source(error).map(ToString::to_string));
        assert!(!told.contains("not-the-password"), "{told}");
    }
    assert!(matches!(wrong, StoreError::Denied(_)), "{wrong:?}");
}

/// A unix socket, several hosts of which one is down or only follows, and a database that is not there.
#[tokio::test]
async fn the_first_host_that_is_fit_is_taken() {
    let primary = Cluster::start(Version::V15).unwrap();
    let standby = primary.standby("second").unwrap();
    let passfile = primary.passfile().display().to_string();
    let down = keyrail_testkit::free_port().unwrap();
    let hosts = format!("127.0.0.1:{down},127.0.0.1:{},127.0.0.1:{}", standby.port(), primary.port());
    let store =
        open(&format!("postgres://postgres@{hosts}/postgres?passfile={passfile}"), OpenMode::Create).await.unwrap();
    store_number(&store, 1).await.unwrap();
    standby.wait_for("(SELECT count(*) FROM keyrail.usage) = 1").unwrap();
    for mode in [OpenMode::Write, OpenMode::Read] {
        let error = open(&standby.url("postgres"), mode).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::UnfitServer { setting: "pg_is_in_recovery", .. }), "{error:?}");
    }
    // Who only reads sees what was last written, and not what a standby has of it.
    standby.sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    store_number(&store, 2).await.unwrap();
    let reading = format!("postgres://postgres@{hosts}/postgres?passfile={passfile}");
    assert_eq!(numbers(&open(&reading, OpenMode::Read).await.unwrap()).await.unwrap(), 2);
    let socket = primary.socket_dir().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/postgres?passfile={passfile}", primary.port());
    assert_eq!(numbers(&open(&url, OpenMode::Read).await.unwrap()).await.unwrap(), 2);
    let error = open(&primary.url("absent"), OpenMode::Create).await.map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Database(_)), "{error:?}");
    let error = open(&primary.url("template1"), OpenMode::Write).await.map(drop).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
}
