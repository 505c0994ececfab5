//! A store with a key, and a table of an application.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_core::access::Role;
use keyrail_core::campaign::CampaignState;
use keyrail_core::id::CampaignId;
use keyrail_core::name::{KeyName, KeyVersionName};
use keyrail_core::rotation::RotationReason;
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_data::ops::asset::{AddAsset, AssetView, CensusAsset, CensusView, ColumnChoice, IdentityChoice};
use keyrail_data::ops::campaign::{CampaignView, Protect, Reencrypt, ShowCampaign, Start, Unprotect};
use keyrail_data::{Outcome, Run, Stop};
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::key::{CreateKey, RotateKey};
use keyrail_engine::ops::token::CreateToken;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, EngineOptions, Operation};
use keyrail_testkit::postgres::{Database, Version, shared};
use parking_lot::Mutex;
use rusqlite::Connection;

pub(crate) struct TestClock(Mutex<u64>);

impl TestClock {
    pub(crate) fn pass(&self, seconds: u64) {
        *self.0.lock() += seconds * 1_000;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_512_600_000).plus_seconds(*self.0.lock() / 1_000)
    }

    fn observe(&self) -> Observation {
        Observation { boot: BootId([7; 16]), wall: self.now(), uptime_millis: *self.0.lock() }
    }
}

/// Which database the application keeps its data in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Home {
    Sqlite,
    Postgres(Version),
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    /// The application's database, if it is one of PostgreSQL.
    postgres: Option<Database<'static>>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: Arc<TestClock>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(Home::Sqlite).await
    }

    pub(crate) async fn on(home: Home) -> Self {
        Self::with(match home {
            Home::Sqlite => None,
            Home::Postgres(version) => Some(shared(version).database().unwrap()),
        })
        .await
    }

    pub(crate) async fn with(postgres: Option<Database<'static>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(Mutex::new(0)));
        let data_dir = dir.path().join("D");
        Engine::init(data_dir.clone(), None, clock.as_ref()).await.unwrap();
        let options = || {
            let (data_dir, clock) = (data_dir.clone(), clock.clone());
            EngineOptions { data_dir, access: Access::Write, clock, assets: Some(keyrail_data::assets) }
        };
        // A program that another test starts holds the lock until it is itself.
        let began = std::time::Instant::now();
        let mut opened = Engine::open(options());
        while matches!(opened, Err(keyrail_engine::EngineError::InUse)) && began.elapsed().as_secs() < 10 {
            tokio::task::yield_now().await;
            opened = Engine::open(options());
        }
        let engine = Arc::new(opened.unwrap());
        engine.unseal().await.unwrap();
        let world = Self { dir, postgres, engine, clock };
        world.run(CreateDomain { name: "acme".parse().unwrap() }).await.unwrap();
        world.run(CreateApp { path: "acme/prod/crm".parse().unwrap() }).await.unwrap();
        world
            .run(CreateKey { name: "acme/prod/crm/pii".parse().unwrap(), label: "confidential".parse().unwrap() })
            .await
            .unwrap();
        world
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("app.sqlite")
    }

    /// Where the application's database is.
    pub(crate) fn url(&self) -> String {
        match &self.postgres {
            Some(database) => database.url(),
            None => format!("sqlite:{}", self.database().display()),
        }
    }

    pub(crate) fn home(&self) -> Home {
        self.postgres.as_ref().map_or(Home::Sqlite, |database| Home::Postgres(database.cluster().version()))
    }

    /// The application's database, where it is one of PostgreSQL.
    pub(crate) fn pg(&self) -> &Database<'static> {
        self.postgres.as_ref().unwrap()
    }

    /// Runs SQL as the application and gives what it answers: a line per row, with | between the values.
    pub(crate) fn sql(&self, sql: &str) -> String {
        match &self.postgres {
            Some(database) => database.sql(sql).unwrap(),
            None => lines(&self.connect(), sql),
        }
    }

    /// Bytes as this database writes them.
    pub(crate) fn bytes(&self, hex: &str) -> String {
        if self.postgres.is_some() { format!("'\\x{hex}'") } else { format!("x'{hex}'") }
    }

    /// The type of a column of bytes.
    pub(crate) const fn bytes_type(&self) -> &'static str {
        if self.postgres.is_some() { "bytea" } else { "blob" }
    }

    pub(crate) fn connect(&self) -> Connection {
        connect(&self.database())
    }

    pub(crate) async fn run<Op: Operation>(&self, op: Op) -> Result<Op::Answer, EngineError> {
        self.engine.execute(&Caller::new(Credential::LocalOperator).unwrap(), op).await
    }

    pub(crate) async fn add(
        &self,
        table: &str,
        identity: IdentityChoice,
        columns: &[&str],
    ) -> Result<AssetView, EngineError> {
        self.add_at(&self.url(), None, table, identity, columns).await
    }

    pub(crate) async fn add_at(
        &self,
        url: &str,
        schema: Option<&str>,
        table: &str,
        identity: IdentityChoice,
        columns: &[&str],
    ) -> Result<AssetView, EngineError> {
        let column = |text: &&str| {
            let (column, path) = text.split_once(':').map_or((*text, None), |(column, path)| (column, Some(path)));
            ColumnChoice { column: column.to_owned(), json_path: path.map(str::to_owned) }
        };
        self.run(AddAsset {
            name: "people".parse().unwrap(),
            url: url.to_owned(),
            schema: schema.map(str::to_owned),
            table: table.to_owned(),
            identity,
            columns: columns.iter().map(column).collect(),
            key: "acme/prod/crm/pii".parse().unwrap(),
        })
        .await
    }

    /// Runs as the holder of a token of this role.
    pub(crate) async fn run_as<Op: Operation>(&self, role: Role, op: Op) -> Result<Op::Answer, EngineError> {
        let token = self.run(CreateToken { role, app: None, ttl_seconds: 600 }).await.unwrap();
        self.engine.execute(&Caller::new(Credential::Token(&token.text)).unwrap(), op).await
    }

    pub(crate) async fn rotate(&self) {
        self.run(RotateKey { name: key(), reason: RotationReason::Demand }).await.unwrap();
    }

    /// Protects the asset `people`, all of it.
    pub(crate) async fn protect(&self) -> Outcome {
        let started = self.run(Protect(start())).await.unwrap();
        self.complete(started.id).await
    }

    /// Puts the asset `people` under the active version, all of it.
    pub(crate) async fn reencrypt(&self) -> Outcome {
        let started = self.run(Reencrypt(start())).await.unwrap();
        self.complete(started.id).await
    }

    pub(crate) async fn unprotect(&self) -> Outcome {
        let started = self.run(Unprotect(start())).await.unwrap();
        self.complete(started.id).await
    }

    pub(crate) async fn state_of(&self, id: CampaignId) -> CampaignView {
        self.run(ShowCampaign { id }).await.unwrap()
    }

    /// Runs a campaign with something happening after its first page.
    pub(crate) async fn walk_with(
        &self,
        id: CampaignId,
        stop: Stop,
        event: impl FnOnce() + Send + 'static,
    ) -> Result<Outcome, EngineError> {
        let event = Mutex::new(Some(event));
        let progress = Box::new(move |_: &_| {
            if let Some(event) = event.lock().take() {
                event();
            }
        });
        Run { open: self.engine.unsealed().unwrap(), id, stop, progress }.run().await
    }

    pub(crate) async fn census(&self) -> CensusView {
        self.run(CensusAsset { name: "people".parse().unwrap() }).await.unwrap()
    }

    pub(crate) async fn walk(&self, id: CampaignId) -> Result<Outcome, EngineError> {
        let run = Run { open: self.engine.unsealed().unwrap(), id, stop: Stop::default(), progress: Box::new(|_| {}) };
        run.run().await
    }

    pub(crate) async fn complete(&self, id: CampaignId) -> Outcome {
        let outcome = self.walk(id).await.unwrap();
        assert_eq!(outcome.campaign.state, CampaignState::Completed, "{:?}", outcome.census);
        outcome
    }
}

pub(crate) fn start() -> Start {
    Start { asset: "people".parse().unwrap(), rate: None }
}

pub(crate) fn key() -> KeyName {
    "acme/prod/crm/pii".parse().unwrap()
}

pub(crate) fn version(number: u32) -> KeyVersionName {
    format!("{}@{number}", key()).parse().unwrap()
}

pub(crate) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    connection
}

/// What a batch of statements answers.
fn lines(connection: &Connection, sql: &str) -> String {
    let (mut lines, mut batch) = (Vec::new(), rusqlite::Batch::new(connection, sql));
    while let Some(mut statement) = rusqlite::fallible_iterator::FallibleIterator::next(&mut batch).unwrap() {
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let text = |at| match row.get::<_, rusqlite::types::Value>(at).unwrap() {
                rusqlite::types::Value::Null => String::new(),
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Real(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                rusqlite::types::Value::Blob(bytes) => format!("\\x{}", hex::encode(bytes)),
            };
            lines.push((0..columns).map(text).collect::<Vec<_>>().join("|"));
        }
    }
    lines.join("\n")
}

/// Every value of a table as SQLite prints it, class included.
pub(crate) fn dump(connection: &Connection, table: &str) -> Vec<String> {
    let columns: Vec<String> = connection
        .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let list: Vec<_> = columns.iter().map(|name| format!("typeof(\"{name}\") || ':' || CASE typeof(\"{name}\") WHEN 'text' THEN hex(\"{name}\") ELSE quote(\"{name}\") END")).collect();
    let sql = format!("SELECT {} FROM \"{table}\" ORDER BY 1", list.join(" || '|' || "));
    let mut statement = connection.prepare(&sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}
