//! A campaign against the same reads, open + seal + open, and compare-and-swap updates without Keyrail around them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use keyrail_core::rotation::RotationReason;
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_crypto::envelope::{self, Context, KeyRef, Kid};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;
use keyrail_data::ops::asset::{AddAsset, ColumnChoice, IdentityChoice};
use keyrail_data::ops::campaign::{Protect, Reencrypt, Start};
use keyrail_data::{Run, Stop};
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::key::{CreateKey, RotateKey};
use keyrail_engine::{Access, AsyncLoss, Caller, Credential, Engine, EngineOptions, Operation, StorePlace};
use keyrail_testkit::postgres::Cluster;
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

use crate::requests::median;

/// Rows of the table; each has two values.
const ROWS: u32 = 40_000;

/// Rows of one page, as a campaign has them.
const PAGE_ROWS: usize = 500;

fn table_sql() -> String {
    format!(
        "CREATE TABLE people (id bigint PRIMARY KEY, email text, note text);
         INSERT INTO people SELECT i, 'person' || i || '@example.org', 'a note of some length about person ' || i || ', who was here' FROM generate_series(1, {ROWS}) AS i"
    )
}

pub(crate) struct Moved {
    pub(crate) ratio: f64,
    pub(crate) runs: Vec<Value>,
}

/// Stands still, so that nothing comes due while it is measured.
struct FixedClock(Timestamp);

impl FixedClock {
    #[expect(clippy::disallowed_methods, reason = "a server serves the same store afterwards, by the machine's clock")]
    fn new() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(Timestamp::from_millis(since.as_millis() as i64))
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn observe(&self) -> Observation {
        Observation { boot: BootId([1; 16]), wall: self.now(), uptime_millis: 1 }
    }
}

fn table(path: &Path) -> anyhow::Result<()> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, note TEXT)",
    )?;
    connection.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO people SELECT i, 'person' || i || '@example.org', 'a note of some length about person ' || i || ', who was here' FROM n"
    ))?;
    Ok(())
}

/// A table in SQLite.
pub(crate) fn run(dir: &Path, rounds: usize) -> anyhow::Result<Moved> {
    let database = dir.join("ours.sqlite");
    table(&database)?;
    let url = format!("sqlite:{}", database.display());
    measure("campaign_vs_bare", (&dir.join("campaign"), &StorePlace::DataDir), &url, &Bare::new(dir)?, rounds)
}

/// A table in PostgreSQL, and the store in another database of the same server.
pub(crate) fn run_postgres(dir: &Path, cluster: &Cluster, rounds: usize) -> anyhow::Result<Moved> {
    for (name, rows) in [("store", false), ("ours", true), ("bare", true)] {
        cluster.create_database(name)?;
        if rows {
            cluster.sql(name, &table_sql())?;
        }
    }
    let place = StorePlace::postgres(&cluster.url("store"), AsyncLoss::Accepted)?;
    let bare = BarePostgres::new(&cluster.url("bare"), &cluster.password()?)?;
    measure("campaign_on_postgres_vs_bare", (&dir.join("campaign-pg"), &place), &cluster.url("ours"), &bare, rounds)
}

/// What a campaign is measured against.
trait Floor {
    /// From one key to the other; in seconds.
    fn turn(&self, round: usize) -> anyhow::Result<f64>;
}

fn measure(
    name: &str,
    (data_dir, place): (&Path, &StorePlace),
    url: &str,
    theirs: &impl Floor,
    rounds: usize,
) -> anyhow::Result<Moved> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ours = runtime.block_on(Ours::new(data_dir, place, url))?;
    let (mut ratios, mut runs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let bare = f64::from(ROWS) / theirs.turn(round)?;
        let keyrail = f64::from(ROWS) / runtime.block_on(ours.turn())?;
        eprintln!("{name}: {keyrail:.0} rows/s against {bare:.0} rows/s: {:.2}", keyrail / bare);
        let (us, they) = (json!({ "rows_per_second": keyrail }), json!({ "rows_per_second": bare }));
        runs.push(json!({ "name": name, "keyrail": us, "floor": they }));
        ratios.push(keyrail / bare);
    }
    runtime.block_on(ours.engine.close())?;
    Ok(Moved { ratio: median(&mut ratios), runs })
}

/// A new store in a data directory, unsealed.
pub(crate) async fn engine_at(data_dir: &Path, place: &StorePlace) -> anyhow::Result<Engine> {
    Engine::init_with(data_dir.to_owned(), None, None, place, &FixedClock::new()).await?;
    let options = EngineOptions {
        data_dir: data_dir.to_owned(),
        access: Access::Write,
        clock: Arc::new(FixedClock::new()),
        assets: Some(keyrail_data::assets),
    };
    let engine = Engine::open(options)?;
    engine.unseal().await?;
    Ok(engine)
}

/// Runs an operation as the local operator.
pub(crate) async fn execute<Op: Operation>(engine: &Engine, op: Op) -> anyhow::Result<Op::Answer> {
    Ok(engine.execute(&Caller::new(Credential::LocalOperator)?, op).await?)
}

struct Ours {
    engine: Engine,
}

impl Ours {
    async fn new(data_dir: &Path, place: &StorePlace, url: &str) -> anyhow::Result<Self> {
        let ours = Self { engine: engine_at(data_dir, place).await? };
        ours.execute(CreateDomain { name: "acme".parse()? }).await?;
        ours.execute(CreateApp { path: "acme/prod/crm".parse()? }).await?;
        ours.execute(CreateKey { name: "acme/prod/crm/pii".parse()?, label: "internal".parse()? }).await?;
        let column = |name: &str| ColumnChoice { column: name.to_owned(), json_path: None };
        ours.execute(AddAsset {
            name: "people".parse()?,
            url: url.to_owned(),
            schema: None,
            table: "people".to_owned(),
            identity: IdentityChoice::PrimaryKey,
            columns: vec![column("email"), column("note")],
            key: "acme/prod/crm/pii".parse()?,
        })
        .await?;
        let started = ours.execute(Protect(ours.start()?)).await?;
        ours.walk(started.id).await?;
        Ok(ours)
    }

    fn start(&self) -> anyhow::Result<Start> {
        Ok(Start { asset: "people".parse()?, rate: None })
    }

    async fn execute<Op: Operation>(&self, op: Op) -> anyhow::Result<Op::Answer> {
        execute(&self.engine, op).await
    }

    async fn walk(&self, id: keyrail_core::id::CampaignId) -> anyhow::Result<()> {
        let run = Run { open: self.engine.unsealed()?, id, stop: Stop::default(), progress: Box::new(|_| {}) };
        let outcome = run.run().await?;
        anyhow::ensure!(outcome.campaign.finished_at.is_some(), "the campaign is not complete");
        Ok(())
    }

    /// A rotation, then the whole campaign with its census; in seconds.
    async fn turn(&self) -> anyhow::Result<f64> {
        self.execute(RotateKey { name: "acme/prod/crm/pii".parse()?, reason: RotationReason::Demand }).await?;
        let begun = Instant::now();
        let started = self.execute(Reencrypt(self.start()?)).await?;
        self.walk(started.id).await?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

struct Bare {
    connection: std::cell::RefCell<Connection>,
    keys: Keys,
}

impl Floor for Bare {
    fn turn(&self, round: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.walk(Some(round), round + 1)?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

impl Bare {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let database = dir.join("bare.sqlite");
        table(&database)?;
        let connection = Connection::open(&database)?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        let bare = Self { connection: connection.into(), keys: Keys::new()? };
        bare.walk(None, 0)?;
        Ok(bare)
    }

    fn walk(&self, from: Option<usize>, to: usize) -> anyhow::Result<()> {
        let mut connection = self.connection.borrow_mut();
        let mut after = 0_i64;
        loop {
            let page: Vec<(i64, String, String)> = {
                let mut read =
                    connection.prepare_cached("SELECT id, email, note FROM people WHERE id > ? ORDER BY id LIMIT ?")?;
                let rows = read
                    .query_map(params![after, PAGE_ROWS as i64], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                rows.collect::<Result<_, _>>()?
            };
            let Some((last, ..)) = page.last() else { return Ok(()) };
            after = *last;
            let mut moved = Vec::with_capacity(page.len());
            for (id, email, note) in page {
                let next =
                    (self.keys.cell(id, "email", &email, from, to)?, self.keys.cell(id, "note", &note, from, to)?);
                moved.push((id, email, note, next));
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut update = transaction.prepare_cached(
                    "UPDATE people SET email = ?, note = ? WHERE id = ? AND email IS ? AND note IS ?",
                )?;
                for (id, email, note, (new_email, new_note)) in moved {
                    update.execute(params![new_email, new_note, id, email, note])?;
                }
            }
            transaction.commit()?;
        }
    }
}

/// Two keys that take turns.
struct Keys(Vec<(Kid, DataKey)>);

impl Keys {
    fn new() -> anyhow::Result<Self> {
        let keys = (0..2_u8).map(|number| Ok((Kid::from_bytes([number; 16]), DataKey::generate()?)));
        Ok(Self(keys.collect::<anyhow::Result<_>>()?))
    }

    fn key(&self, number: usize) -> anyhow::Result<KeyRef<'_>> {
        let (kid, key) = self.0.get(number % 2).context("no key")?;
        Ok(KeyRef { kid, key_id: &[9; 16], key, suite: Suite::A256Gcm })
    }

    fn cell(&self, id: i64, column: &str, old: &str, from: Option<usize>, to: usize) -> anyhow::Result<String> {
        let context = Context::from_pairs([("asset", "people"), ("column", column), ("row", &id.to_string())])
            .map_err(|_| anyhow!("no context"))?;
        let opened;
        let plain = match from {
            None => old.as_bytes(),
            Some(from) => {
                opened = envelope::open_text(&self.key(from)?, &context, old)?;
                opened.as_bytes()
            }
        };
        let sealed = envelope::seal_text(&self.key(to)?, &context, plain)?;
        let again = envelope::open_text(&self.key(to)?, &context, &sealed)?;
        anyhow::ensure!(again.as_bytes() == plain, "a value does not open again");
        Ok(sealed)
    }
}

/// The table in PostgreSQL: pages by key, and for each one statement with all its rows, as fast as it gets.
struct BarePostgres {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
    keys: Keys,
}

impl Floor for BarePostgres {
    fn turn(&self, round: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.runtime.block_on(self.walk(Some(round), round + 1))?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

impl BarePostgres {
    fn new(url: &str, password: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // The driver knows of no password files.
        let (url, _) = url.split_once('?').unwrap_or((url, ""));
        let mut config: tokio_postgres::Config = url.parse()?;
        config.password(password);
        let (client, connection) = runtime.block_on(config.connect(tokio_postgres::NoTls))?;
        runtime.spawn(connection);
        let bare = Self { runtime, client, keys: Keys::new()? };
        bare.runtime.block_on(bare.walk(None, 0))?;
        Ok(bare)
    }

    async fn walk(&self, from: Option<usize>, to: usize) -> anyhow::Result<()> {
        let read = "SELECT id, email, note FROM people WHERE id > $1 ORDER BY id LIMIT $2";
        let write = "UPDATE people t SET email = u.e1, note = u.n1
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) AS u(id, e0, n0, e1, n1)
             WHERE t.id = u.id AND t.email = u.e0 AND t.note = u.n0";
        let (read, write) = (self.client.prepare(read).await?, self.client.prepare(write).await?);
        let mut after = 0_i64;
        loop {
            let page = self.client.query(&read, &[&after, &(PAGE_ROWS as i64)]).await?;
            if page.is_empty() {
                return Ok(());
            }
            let mut ids: Vec<i64> = Vec::with_capacity(page.len());
            let mut cells: [Vec<String>; 4] = Default::default();
            for row in &page {
                let (id, email, note): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
                let (new_email, new_note) =
                    (self.keys.cell(id, "email", &email, from, to)?, self.keys.cell(id, "note", &note, from, to)?);
                ids.push(id);
                for (column, value) in cells.iter_mut().zip([email, note, new_email, new_note]) {
                    column.push(value);
                }
                after = id;
            }
            let [email, note, new_email, new_note] = &cells;
            let done = self.client.execute(&write, &[&ids, email, note, new_email, new_note]).await?;
            anyhow::ensure!(done as usize == ids.len(), "a row was changed by somebody else");
        }
    }
}
