//! Every kind of store for a test: made empty, opened, and attacked with plain SQL.

use std::sync::{Arc, OnceLock};

use keyrail_crypto::secret::StoreKey;
use keyrail_store::{
    Durability, OpenMode, PgStore, PostgresOptions, PostgresUrl, RowSealer, Select, SqliteStore, State, Store,
    StoreError, Table, Value,
};
use keyrail_testkit::postgres::{Database, Version, shared};

/// Makes tests of functions that take a [`TestStore`]: one for each kind of store.
macro_rules! on_every_store {
    ($($test:ident),+ $(,)?) => {
        $crate::stores::on_store!(sqlite, $crate::stores::TestStore::sqlite(), $($test),+);
        $crate::stores::on_store!(
            postgres_15, $crate::stores::TestStore::postgres(keyrail_testkit::postgres::Version::V15), $($test),+
        );
        $crate::stores::on_store!(
            postgres_18, $crate::stores::TestStore::postgres(keyrail_testkit::postgres::Version::V18), $($test),+
        );
    };
}
macro_rules! on_store {
    ($kind:ident, $store:expr, $($test:ident),+) => {
        mod $kind {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($store).await;
                }
            )+
        }
    };
}
pub(crate) use {on_every_store, on_store};

/// An empty store of a test, with a key of its own.
pub(crate) struct TestStore {
    place: Place,
    key: StoreKey,
}

enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(Database<'static>),
}

impl TestStore {
    pub(crate) fn sqlite() -> Self {
        Self::at(Place::Sqlite(tempfile::tempdir().unwrap()))
    }

    /// A copy of a database that was made once.
    pub(crate) fn postgres(version: Version) -> Self {
        static TEMPLATES: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
        let template = TEMPLATES[usize::from(version == Version::V18)].get_or_init(|| {
            let database = shared(version).database().unwrap();
            let options = options(&database.url(), OpenMode::Create);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { drop(PgStore::open(options).await.unwrap()) });
            })
            .join()
            .unwrap();
            let name = database.name().to_owned();
            shared(version)
                .wait_for(&format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '{name}')"))
                .unwrap();
            std::mem::forget(database);
            name
        });
        Self::at(Place::Postgres(shared(version).database_like(template).unwrap()))
    }

    /// A further store of the same kind.
    pub(crate) fn another(&self) -> Self {
        match &self.place {
            Place::Sqlite(_) => Self::sqlite(),
            Place::Postgres(database) => Self::postgres(database.cluster().version()),
        }
    }

    fn at(place: Place) -> Self {
        Self { place, key: StoreKey::generate().unwrap() }
    }

    pub(crate) async fn open(&self, mode: OpenMode) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match &self.place {
            Place::Sqlite(dir) => Arc::new(SqliteStore::open(&dir.path().join("s"), mode)?),
            Place::Postgres(database) => Arc::new(PgStore::open(options(&database.url(), mode)).await?),
        })
    }

    pub(crate) fn sealed(&self, store: Arc<dyn Store>) -> State {
        State::new(store, RowSealer::new(&self.key).unwrap())
    }

    pub(crate) async fn state(&self) -> State {
        self.sealed(self.open(OpenMode::Create).await.unwrap())
    }

    pub(crate) async fn attacker(&self) -> Attacker {
        match &self.place {
            Place::Sqlite(dir) => {
                let connection = rusqlite::Connection::open(dir.path().join("s")).unwrap();
                let rules = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF";
                connection.execute_batch(rules).unwrap();
                Attacker::Sqlite(connection)
            }
            Place::Postgres(database) => {
                let client = client(database).await;
                let rules =
                    "SET search_path = keyrail; SET synchronous_commit = off; SET session_replication_role = replica";
                client.batch_execute(rules).await.unwrap();
                Attacker::Postgres(client)
            }
        }
    }
}

pub(crate) fn options(url: &str, mode: OpenMode) -> PostgresOptions {
    let url: PostgresUrl = url.parse().unwrap();
    PostgresOptions { url, mode, demand: Durability::LocalOnly }
}

/// A plain connection of the superuser.
pub(crate) async fn client(database: &Database<'_>) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(database.cluster().port()).user("postgres").dbname(database.name());
    config.password(database.cluster().password().unwrap());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Somebody who writes to the database with plain SQL, past all rules that he can switch off.
pub(crate) enum Attacker {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
}

impl Attacker {
    /// Runs a statement; the rows that it touched, or nothing if the database refuses it.
    pub(crate) async fn execute(&self, sql: &str) -> Option<u64> {
        match self {
            Self::Sqlite(connection) => connection.execute(sql, []).ok().map(|rows| rows as u64),
            Self::Postgres(client) => client.execute(sql, &[]).await.ok(),
        }
    }

    /// A value in the words of the database.
    pub(crate) fn literal(&self, value: &Value) -> String {
        match (value, self) {
            (Value::Null, _) => "NULL".to_owned(),
            (Value::Integer(number), _) => number.to_string(),
            (Value::Text(text), _) => format!("'{}'", text.replace('\'', "''")),
            (Value::Blob(bytes), Self::Sqlite(_)) => format!("x'{}'", hex::encode(bytes)),
            (Value::Blob(bytes), Self::Postgres(_)) => format!("'\\x{}'::bytea", hex::encode(bytes)),
        }
    }

    /// Puts these rows in place of all that the table has.
    pub(crate) async fn put(&self, table: &Table, rows: &[Vec<Value>]) {
        self.execute(&format!("DELETE FROM \"{}\"", table.name)).await.unwrap();
        let columns: Vec<_> = table.columns.iter().chain(&["seal"]).map(|column| format!("\"{column}\"")).collect();
        for row in rows {
            let values: Vec<_> = row.iter().map(|value| self.literal(value)).collect();
            let (columns, values) = (columns.join(", "), values.join(", "));
            let sql = format!("INSERT INTO \"{}\" ({columns}) VALUES ({values})", table.name);
            self.execute(&sql).await.unwrap_or_else(|| panic!("{sql}"));
        }
    }
}

/// All rows of a table, as the database has them.
pub(crate) async fn rows(store: &dyn Store, table: &'static Table) -> Vec<Vec<Value>> {
    let select = Select { table, conditions: Vec::new(), order: table.key, after: None, limit: 1_000 };
    store.select(select).await.unwrap()
}
