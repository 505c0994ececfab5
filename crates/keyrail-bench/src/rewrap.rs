//! Data keys put under another master key version: the background work against a bare loop over the same table.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use keyrail_core::access::Role;
use keyrail_core::name::{AppPath, KeyName, Name};
use keyrail_core::rotation::RotationReason;
use keyrail_crypto::secret::{DataKey, MasterKey, Wraps as _};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::master::RotateMaster;
use keyrail_engine::ops::token::CreateToken;
use keyrail_engine::{Engine, StorePlace, bench};
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

use crate::campaign::{engine_at, execute};

/// How many keys one change makes, and how many one transaction of the bare loop rewraps, as Keyrail does.
const SEEDED_AT_ONCE: u32 = 5_000;
const BARE_PAGE: usize = 250;

/// The name of the ratio.
pub(crate) const NAME: &str = "rewrap_vs_bare";

pub(crate) struct Rewrapped {
    /// Against the bare loop, with all keys.
    pub(crate) ratio: f64,
    /// Keys per second with all keys, against those with the first few.
    pub(crate) linear: f64,
    pub(crate) runs: Vec<Value>,
    /// How long a warm look at a token and a decision take, with all keys in the store.
    pub(crate) check_micros: f64,
    /// A data directory with all keys.
    pub(crate) data_dir: PathBuf,
}

/// Measures with `few` keys, and with `many`.
pub(crate) fn run(dir: &Path, few: u32, many: u32) -> anyhow::Result<Rewrapped> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let data_dir = dir.join("many");
    let (mut runs, mut rates, mut ratio) = (Vec::new(), Vec::new(), f64::NAN);
    let (engine, app) = runtime.block_on(begin(&data_dir))?;
    for (from, to) in [(0, few), (few, many)] {
        let ours = runtime.block_on(turn(&engine, &app, from, to))?;
        let copy = dir.join("bare-keys.sqlite");
        copy_of(&data_dir.join("store.sqlite"), &copy)?;
        let bare = Bare::open(&copy)?.turn()?;
        let (ours, bare) = (f64::from(to) / ours, f64::from(to) / bare);
        ratio = ours / bare;
        eprintln!("{NAME}, {to} keys: {ours:.0} keys/s against {bare:.0} keys/s: {ratio:.2}");
        runs.push(json!({ "name": format!("{NAME}, {to} keys"), "keyrail": { "keys_per_second": ours }, "floor": { "keys_per_second": bare } }));
        rates.push(ours);
    }
    let check_micros = runtime.block_on(check(&engine, &app))?;
    runtime.block_on(engine.close())?;
    let linear = rates.last().zip(rates.first()).map_or(f64::NAN, |(last, first)| last / first);
    Ok(Rewrapped { ratio, linear, runs, check_micros, data_dir })
}

async fn begin(data_dir: &Path) -> anyhow::Result<(Engine, AppPath)> {
    let engine = engine_at(data_dir, &StorePlace::DataDir).await?;
    execute(&engine, CreateDomain { name: "acme".parse()? }).await?;
    let app: AppPath = "acme/prod/crm".parse()?;
    execute(&engine, CreateApp { path: app.clone() }).await?;
    Ok((engine, app))
}

/// Makes the keys that are missing, rotates the master key, and rewraps all of them; in seconds.
async fn turn(engine: &Engine, app: &AppPath, from: u32, to: u32) -> anyhow::Result<f64> {
    let label: Name = "internal".parse()?;
    let open = engine.unsealed()?;
    let begun = Instant::now();
    bench::seed_keys(&open, (app, &label), from..to, SEEDED_AT_ONCE).await?;
    eprintln!("{} keys made in {:.1} s", to - from, begun.elapsed().as_secs_f64());
    let path = app.environment.clone();
    execute(engine, RotateMaster { path, reason: RotationReason::Demand }).await?;
    let begun = Instant::now();
    bench::rewrap(&open).await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// How long it takes, warm, to look at a token and to decide, in microseconds.
async fn check(engine: &Engine, app: &AppPath) -> anyhow::Result<f64> {
    let create = CreateToken { role: Role::App, app: Some(app.clone()), ttl_seconds: 3_600 };
    let token = execute(engine, create).await?;
    let key: KeyName = format!("{app}/k1").parse()?;
    let begun = Instant::now();
    bench::check(&engine.unsealed()?, &token.text, &key, CHECKS).await?;
    let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS);
    eprintln!("a token and a decision, warm: {micros:.2} µs");
    Ok(micros)
}

/// How many looks are timed together.
const CHECKS: u32 = 200_000;

/// The database of a running store, as it is now.
fn copy_of(database: &Path, copy: &Path) -> anyhow::Result<()> {
    for end in ["", "-wal", "-shm"] {
        let _absent = std::fs::remove_file(format!("{}{end}", copy.display()));
    }
    Connection::open(database)?.execute("VACUUM INTO ?", [copy.display().to_string()])?;
    Ok(())
}

/// The same table without Keyrail around it.
struct Bare {
    connection: Connection,
    from: MasterKey,
    to: MasterKey,
}

type Wrapped = ([u8; 16], u32, Vec<u8>, i64, i64);

impl Bare {
    /// Puts every key under a master key that this process knows.
    fn open(database: &Path) -> anyhow::Result<Self> {
        let mut connection = Connection::open(database)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.pragma_update(None, "foreign_keys", "OFF")?;
        let (from, to) = (MasterKey::generate()?, MasterKey::generate()?);
        let kids: Vec<[u8; 16]> = {
            let mut read = connection.prepare("SELECT kid FROM data_key_version")?;
            read.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let transaction = connection.transaction()?;
        {
            let mut update = transaction.prepare(
                "UPDATE data_key_version SET wrapped = ?, wrapped_by = ?, wrap_generation = 1 WHERE kid = ?",
            )?;
            for kid in kids {
                let context = WrapContext { table: "data_key_version", id: &kid, version: 1, generation: 1 };
                let wrapped = from.wrap(&DataKey::generate()?, &context)?;
                update.execute(params![wrapped.as_bytes(), [1_u8; 16], kid])?;
            }
        }
        transaction.commit()?;
        connection.pragma_update(None, "wal_checkpoint", "TRUNCATE")?;
        Ok(Self { connection, from, to })
    }

    /// All keys, from one master key to the other; in seconds.
    fn turn(mut self) -> anyhow::Result<f64> {
        let begun = Instant::now();
        loop {
            let page: Vec<Wrapped> = {
                let mut read = self.connection.prepare_cached(
                    "SELECT kid, version, wrapped, wrap_generation, generation FROM data_key_version
                     WHERE wrapped_by = ? ORDER BY kid LIMIT ?",
                )?;
                let rows = read.query_map(params![[1_u8; 16], BARE_PAGE as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })?;
                rows.collect::<Result<_, _>>()?
            };
            if page.is_empty() {
                return Ok(begun.elapsed().as_secs_f64());
            }
            let mut moved = Vec::with_capacity(page.len());
            for (kid, version, wrapped, wraps, generation) in page {
                let context = |wraps: i64| WrapContext {
                    table: "data_key_version",
                    id: &kid,
                    version,
                    generation: wraps.unsigned_abs(),
                };
                let key: DataKey = self.from.unwrap_key(&WrappedKey::from_bytes(&wrapped)?, &context(wraps))?;
                let wrapped = self.to.wrap(&key, &context(wraps + 1))?.as_bytes().to_vec();
                moved.push((kid, wrapped, wraps, generation));
            }
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut update = transaction.prepare_cached(
                    "UPDATE data_key_version SET wrapped = ?, wrapped_by = ?, wrap_generation = ?, generation = ?
                     WHERE kid = ? AND generation = ?",
                )?;
                for (kid, wrapped, wraps, generation) in moved {
                    let done =
                        update.execute(params![wrapped, [2_u8; 16], wraps + 1, generation + 1, kid, generation])?;
                    anyhow::ensure!(done == 1, "a row was changed by somebody else");
                }
            }
            transaction.commit().context("a page")?;
        }
    }
}
