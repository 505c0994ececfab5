//! What a session takes from its surroundings, and what it lets out.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use keyrail_core::asset::IdentityKind;
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_data::adapter::{self, AssetAdapter, AssetSpec, CellSpec, ColumnUpdate, RowUpdate};
use keyrail_data::value::Sql;
use keyrail_testkit::postgres::{Version, shared};
use keyrail_testkit::softhsm::in_child;
use parking_lot::Mutex;

fn spec(url: String) -> AssetSpec {
    AssetSpec {
        asset: AssetId::from_bytes([1; 16]),
        url,
        schema: None,
        table: "t".to_owned(),
        identity: IdentityKind::PrimaryKey,
        identity_columns: vec!["id".to_owned()],
        cells: vec![CellSpec { id: ColumnId::from_bytes([2; 16]), column: "v".to_owned(), json_path: None }],
    }
}

/// Writes something new into every row.
fn write(asset: &mut dyn AssetAdapter, new: &str) {
    let page = asset.page(None, 10).unwrap();
    let updates: Vec<_> = page
        .rows
        .into_iter()
        .map(|row| {
            let change = ColumnUpdate { column: 0, old: row.values[0].clone(), new: Sql::Text(new.into()) };
            RowUpdate { key: row.key, guard: row.guard, name: "a row".to_owned(), changes: vec![change] }
        })
        .collect();
    assert!(asset.write(&updates, &mut |_| Ok(())).unwrap().iter().all(|written| *written));
}

#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Triggers of an application warn with values of its rows; whatever is logged, those are not.
#[test]
fn what_a_trigger_says_is_not_logged() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let sql = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'plain-4711'), (2, 'plain-4712');
                   CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                     RAISE WARNING 'it was %', OLD.v; RAISE NOTICE 'it was %', OLD.v; RAISE DEBUG 'it was %', OLD.v; RETURN NEW; END$$;
                   CREATE TRIGGER say BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION say()";
        database.sql(sql).unwrap();
        let logged = Logged::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut asset = adapter::open(&spec(database.url())).unwrap();
            asset.inspect().unwrap();
            write(asset.as_mut(), "sealed");
            tracing::trace!("what is logged at all");
        });
        let logged = String::from_utf8(logged.0.lock().clone()).unwrap();
        assert!(logged.contains("what is logged at all"));
        assert!(!logged.contains("plain-471"), "{logged}");
        assert_eq!(database.sql("SELECT DISTINCT v FROM t").unwrap(), "sealed");
    }
}

/// What was committed must stay after a crash, whatever the application can do without; what waits for more than that
/// goes on waiting.
#[test]
fn commits_are_durable_where_those_of_the_application_are_not() {
    for (set, want) in [("off", "on"), ("remote_apply", "remote_apply"), ("local", "local")] {
        let database = shared(Version::V18).database().unwrap();
        let sql = format!(
            "ALTER DATABASE \"{}\" SET synchronous_commit = {set};
             CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'); CREATE TABLE said (setting text);
             CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               INSERT INTO said VALUES (current_setting('synchronous_commit')); RETURN NEW; END$$;
             CREATE TRIGGER say BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION say()",
            database.name()
        );
        database.sql(&sql).unwrap();
        write(adapter::open(&spec(database.url())).unwrap().as_mut(), "new");
        assert_eq!(database.sql("SELECT DISTINCT setting FROM said").unwrap(), want, "{set}");
    }
}

/// A server of an operator's own that asks for the password, in the clear.
fn asks_for_the_password(server: &TcpListener) -> Vec<u8> {
    let message = |stream: &mut TcpStream, skip: usize| {
        let mut head = vec![0; skip + 4];
        stream.read_exact(&mut head).unwrap();
        let len = u32::from_be_bytes(head[skip..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(len).unwrap() - 4];
        stream.read_exact(&mut body).unwrap();
        body
    };
    let (mut stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    // First it asks for TLS.
    message(&mut stream, 0);
    stream.write_all(b"N").unwrap();
    message(&mut stream, 0);
    stream.write_all(b"R\0\0\0\x08\0\0\0\x03").unwrap();
    message(&mut stream, 1)
}

/// The passwords of the service itself, in its environment and its password file, are not for any host that is named.
#[test]
fn no_password_goes_to_a_host_that_no_file_names() {
    let home = tempfile::tempdir().unwrap();
    let passfile = home.path().join(".pgpass");
    std::fs::write(&passfile, "*:*:*:*:service-password\ndb.example:*:*:*:service-password\n").unwrap();
    std::fs::set_permissions(&passfile, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let name = "postgres::session::no_password_goes_to_a_host_that_no_file_names";
    let equip = |command: &mut std::process::Command| {
        command.env("PGPASSWORD", "service-password").env("HOME", home.path()).env_remove("PGPASSFILE");
    };
    if !in_child(name, equip).unwrap() {
        return;
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let told = std::thread::spawn(move || asks_for_the_password(&server));
    let error = adapter::open(&spec(format!("postgres://keyrail_app@127.0.0.1:{port}/keyrail"))).map(drop).unwrap_err();
    assert_eq!(told.join().unwrap(), b"\0", "{error}");
}
