//! A campaign against the same reads, open + seal + open, and compare-and-swap updates without Keyrail around them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

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
use keyrail_engine::{Access, Caller, Credential, Engine, EngineOptions, Operation};
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

use crate::requests::median;

/// Rows of the table; each has two values.
const ROWS: u32 = 40_000;

/// Rows of one page, as a campaign has them.
const PAGE_ROWS: usize = 500;

pub(crate) struct Moved {
    pub(crate) ratio: f64,
    pub(crate) runs: Vec<Value>,
}

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_512_600_000)
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

pub(crate) fn run(dir: &Path, rounds: usize) -> anyhow::Result<Moved> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ours = runtime.block_on(Ours::new(dir))?;
    let theirs = Bare::new(dir)?;
    let (mut ratios, mut runs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let bare = theirs.turn(round)?;
        let keyrail = runtime.block_on(ours.turn())?;
        let ratio = bare / keyrail;
        eprintln!(
            "campaign_vs_bare: {:.0} rows/s against {:.0} rows/s: {ratio:.2}",
            f64::from(ROWS) / keyrail,
            f64::from(ROWS) / bare
        );
        runs.push(json!({ "name": "campaign_vs_bare", "keyrail": { "rows_per_second": f64::from(ROWS) / keyrail }, "floor": { "rows_per_second": f64::from(ROWS) / bare } }));
        ratios.push(ratio);
    }
    runtime.block_on(ours.engine.close())?;
    Ok(Moved { ratio: median(&mut ratios), runs })
}

struct Ours {
    engine: Engine,
}

impl Ours {
    async fn new(dir: &Path) -> anyhow::Result<Self> {
        let (data_dir, database) = (dir.join("campaign"), dir.join("ours.sqlite"));
        table(&database)?;
        Engine::init(data_dir.clone(), None, &FixedClock).await?;
        let options = EngineOptions {
            data_dir,
            access: Access::Write,
            clock: Arc::new(FixedClock),
            assets: Some(keyrail_data::assets),
        };
        let engine = Engine::open(options)?;
        engine.unseal().await?;
        let ours = Self { engine };
        ours.execute(CreateDomain { name: "acme".parse()? }).await?;
        ours.execute(CreateApp { path: "acme/prod/crm".parse()? }).await?;
        ours.execute(CreateKey { name: "acme/prod/crm/pii".parse()?, label: "internal".parse()? }).await?;
        let column = |name: &str| ColumnChoice { column: name.to_owned(), json_path: None };
        ours.execute(AddAsset {
            name: "people".parse()?,
            url: format!("sqlite:{}", database.display()),
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
        Ok(self.engine.execute(&Caller::new(Credential::LocalOperator)?, op).await?)
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
    keys: Vec<(Kid, DataKey)>,
}

impl Bare {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let database = dir.join("bare.sqlite");
        table(&database)?;
        let keys = (0..2_u8)
            .map(|number| Ok((Kid::from_bytes([number; 16]), DataKey::generate()?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let connection = Connection::open(&database)?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        let bare = Self { connection: connection.into(), keys };
        bare.walk(None, 0)?;
        Ok(bare)
    }

    fn key(&self, number: usize) -> anyhow::Result<KeyRef<'_>> {
        let (kid, key) = self.keys.get(number % 2).context("no key")?;
        Ok(KeyRef { kid, key_id: &[9; 16], key, suite: Suite::A256Gcm })
    }

    /// From one key to the other; in seconds.
    fn turn(&self, round: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.walk(Some(round), round + 1)?;
        Ok(begun.elapsed().as_secs_f64())
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
                let next = (self.cell(id, "email", &email, from, to)?, self.cell(id, "note", &note, from, to)?);
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
