//! A campaign while others write and read: every row ends as what was written last, and no read fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyrail_core::id::{AssetId, ColumnId};
use keyrail_core::rotation::RotationReason;
use keyrail_crypto::envelope::Context;
use keyrail_crypto::secret::Plaintext;
use keyrail_data::ops::asset::IdentityChoice;
use keyrail_data::ops::campaign::{Protect, Reencrypt, Start};
use keyrail_data::value::{Binding, Class, RowIdentity, Sql};
use keyrail_data::{Run, Stop};
use keyrail_engine::ops::data::{CiphertextItem, Decrypt, Encrypt, EncryptItem};
use keyrail_engine::ops::key::RotateKey;
use keyrail_testkit::postgres::Version;
use keyrail_testkit::{Ledger, scale, seeded};
use rand::RngExt;
use sqlx::Row as _;
use tokio::runtime::Handle;

use crate::client::Client;
use crate::support::{Home, World, connect};

/// Rows at full scale, and the compare-and-swap losses that must be seen.
const ROWS: usize = 200_000;
const ROWS_POSTGRES: usize = 1_000_000;
const LOSSES_MIN: usize = 1_000;

/// How old a transaction of a campaign may get on a loaded machine, in seconds.
const TRANSACTION_SECONDS_MAX: f64 = 5.0;

/// How far around the campaign's place the writers write, in rows.
const NEAR: u64 = 700;

/// The application's connection.
enum App {
    Sqlite(rusqlite::Connection),
    Postgres(Client),
}

impl App {
    fn new(world: &World) -> Self {
        match world.home() {
            Home::Sqlite => Self::Sqlite(connect(&world.database())),
            Home::Postgres(_) => Self::Postgres(Client::new(world.pg().cluster(), world.pg().name())),
        }
    }

    fn put(&mut self, id: u64, sealed: &str) {
        let id = i64::try_from(id).unwrap();
        match self {
            Self::Sqlite(app) => {
                app.execute("UPDATE people SET email = ?2 WHERE id = ?1", rusqlite::params![id, sealed]).unwrap();
            }
            Self::Postgres(app) => {
                app.rows("UPDATE people SET email = $2 WHERE id = $1", Some(id), Some(sealed));
            }
        }
    }

    fn get(&mut self, id: u64) -> String {
        let id = i64::try_from(id).unwrap();
        match self {
            Self::Sqlite(app) => {
                app.query_row("SELECT email FROM people WHERE id = ?", [id], |row| row.get(0)).unwrap()
            }
            Self::Postgres(app) => app.rows("SELECT email FROM people WHERE id = $1", Some(id), None)[0].get(0),
        }
    }

    fn all(&mut self) -> HashMap<u64, String> {
        let pair = |id: i64, email: String| (u64::try_from(id).unwrap(), email);
        match self {
            Self::Sqlite(app) => {
                let mut statement = app.prepare("SELECT id, email FROM people").unwrap();
                let cells = statement.query_map([], |row| Ok(pair(row.get(0)?, row.get(1)?))).unwrap();
                cells.map(Result::unwrap).collect()
            }
            Self::Postgres(app) => {
                let rows = app.rows("SELECT id, email FROM people", None, None);
                rows.iter().map(|row| pair(row.get(0), row.get(1))).collect()
            }
        }
    }
}

struct Shared {
    world: World,
    rows: u64,
    place: AtomicU64,
    stop: AtomicBool,
    reads: AtomicU64,
    asset: AssetId,
    column: ColumnId,
}

impl Shared {
    fn context(&self, id: u64) -> Context {
        let row = RowIdentity::of(&[Sql::Integer(i64::try_from(id).unwrap())]);
        Binding { asset: &self.asset, column: &self.column, row: Some(&row) }.context(Class::Same).unwrap()
    }

    fn encrypt(&self, handle: &Handle, id: u64, text: &str) -> String {
        let item = EncryptItem { plaintext: Plaintext::from(text.as_bytes().to_vec()), context: self.context(id) };
        let op = Encrypt { key: "acme/prod/crm/pii".parse().unwrap(), items: vec![Ok(item)] };
        handle.block_on(self.world.run(op)).unwrap().remove(0).unwrap().ciphertext
    }

    fn decrypt(&self, handle: &Handle, id: u64, ciphertext: String) -> String {
        let op = Decrypt {
            key: "acme/prod/crm/pii".parse().unwrap(),
            items: vec![Ok(CiphertextItem { ciphertext, context: self.context(id) })],
        };
        let opened = handle.block_on(self.world.run(op)).unwrap().remove(0).expect("no read fails");
        String::from_utf8(opened.plaintext.as_bytes().to_vec()).unwrap()
    }

    /// A row close to where the campaign works: there a write and a move meet.
    fn near(&self, random: &mut impl RngExt) -> u64 {
        let from = self.place.load(Ordering::Acquire);
        (1 + (from + random.random_range(0..NEAR)) % self.rows).min(self.rows)
    }
}

fn write(shared: &Shared, handle: &Handle, ledger: &Ledger<u64, String>, writer: usize) {
    let mut app = App::new(&shared.world);
    let mut random = seeded(&format!("writer {writer}"));
    let mut turn = 0_u64;
    while !shared.stop.load(Ordering::Acquire) {
        turn += 1;
        let id = shared.near(&mut random);
        let value = format!("writer {writer}, turn {turn}");
        let sealed = shared.encrypt(handle, id, &value);
        let ticket = ledger.begin(id, value);
        app.put(id, &sealed);
        ticket.acknowledged();
    }
}

fn read(shared: &Shared, handle: &Handle, reader: usize) {
    let mut app = App::new(&shared.world);
    let mut random = seeded(&format!("reader {reader}"));
    while !shared.stop.load(Ordering::Acquire) {
        let id = shared.near(&mut random);
        let cell = app.get(id);
        assert!(!shared.decrypt(handle, id, cell).is_empty());
        shared.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// No transaction of the campaign gets old, and vacuum can clean up behind it all the time.
fn watch(shared: &Shared) {
    let mut app = Client::new(shared.world.pg().cluster(), shared.world.pg().name());
    let (mut oldest, mut horizons) = (0.0_f64, std::collections::BTreeSet::new());
    while !shared.stop.load(Ordering::Acquire) {
        let ages = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8, \
                    coalesce(min(age(backend_xmin)), 0)::int8 FROM pg_stat_activity WHERE application_name = 'keyrail'";
        let age = app.rows(ages, None, None);
        oldest = oldest.max(age[0].get(0));
        let horizon = app.rows("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", None, None);
        horizons.insert(horizon[0].get::<String, _>(0));
        std::thread::park_timeout(Duration::from_millis(20));
    }
    println!("the oldest transaction was {oldest:.3} s old, {} horizons were seen", horizons.len());
    assert!(oldest < TRANSACTION_SECONDS_MAX, "a transaction of the campaign was {oldest} s old");
    assert!(horizons.len() > 10, "the horizon stood still");
}

async fn prepared(home: Home, rows: u64) -> Shared {
    let world = World::on(home).await;
    if home == Home::Sqlite {
        world.sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
    }
    world.sql(&format!(
        "CREATE TABLE people (id {} PRIMARY KEY, email TEXT, note TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO people SELECT i, 'first ' || i, 'a note of person ' || i FROM n",
        if home == Home::Sqlite { "INTEGER" } else { "bigint" }
    ));
    let asset = world.add("people", IdentityChoice::PrimaryKey, &["email", "note"]).await.unwrap();
    let protect = world.run(Protect(Start { asset: "people".parse().unwrap(), rate: None })).await.unwrap();
    world.complete(protect.id).await;
    world.run(RotateKey { name: "acme/prod/crm/pii".parse().unwrap(), reason: RotationReason::Demand }).await.unwrap();
    let place = AtomicU64::new(0);
    Shared {
        world,
        rows,
        place,
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        asset: asset.id,
        column: asset.columns[0].id,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_campaign_among_four_writers_and_two_readers() {
    among_writers(Home::Sqlite, scale(ROWS) as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_campaign_on_postgres_among_four_writers_and_two_readers() {
    among_writers(Home::Postgres(Version::V18), scale(ROWS_POSTGRES) as u64).await;
}

async fn among_writers(home: Home, rows: u64) {
    let shared = Arc::new(prepared(home, rows).await);
    let ledger = Arc::new(Ledger::new((1..=rows).map(|id| (id, format!("first {id}")))));
    let handle = Handle::current();
    let mut others = Vec::new();
    for writer in 0..4 {
        let (shared, handle, ledger) = (shared.clone(), handle.clone(), ledger.clone());
        others.push(std::thread::spawn(move || write(&shared, &handle, &ledger, writer)));
    }
    for reader in 0..2 {
        let (shared, handle) = (shared.clone(), handle.clone());
        others.push(std::thread::spawn(move || read(&shared, &handle, reader)));
    }
    let begun = Instant::now();
    let started = shared.world.run(Reencrypt(Start { asset: "people".parse().unwrap(), rate: None })).await.unwrap();
    // To look at the table beforehand takes as long as to read it; from here on no transaction does.
    if home != Home::Sqlite {
        let shared = shared.clone();
        others.push(std::thread::spawn(move || watch(&shared)));
    }
    let seen = shared.clone();
    let open = shared.world.engine.unsealed().unwrap();
    let run = Run {
        open,
        id: started.id,
        stop: Stop::default(),
        progress: Box::new(move |campaign| seen.place.store(campaign.counts.rows, Ordering::Release)),
    };
    let outcome = run.run().await.unwrap();
    let took = begun.elapsed();
    shared.stop.store(true, Ordering::Release);
    for other in others {
        other.join().unwrap();
    }
    let counts = outcome.campaign.counts;
    assert_eq!(outcome.campaign.state.as_str(), "completed", "{:?}", outcome.census);
    let losses = counts.cas_lost;
    assert!(losses >= scale(LOSSES_MIN) as u64, "only {losses} compare-and-swap losses");

    let seen = shared.clone();
    let cells = tokio::task::spawn_blocking(move || App::new(&seen.world).all()).await.unwrap();
    assert_eq!(cells.len() as u64, rows);
    let found = open_all(&shared, cells).await;
    let wrong = ledger.check(|id| found.get(id).cloned());
    assert!(wrong.is_empty(), "{} rows are not what was written last, first {:?}", wrong.len(), wrong.first());
    let census = shared.world.census().await;
    assert_eq!((census.versions[0].values, census.damaged, census.plaintext), (0, 0, 0));
    println!(
        "{rows} rows in {took:?}, {losses} compare-and-swap losses, {} reads, {} passes",
        shared.reads.load(Ordering::Relaxed),
        counts.passes
    );

    // The check can fail: a row that holds something else is seen.
    let planted = ledger.check(|id| if *id == 1 { Some("another".to_owned()) } else { found.get(id).cloned() });
    assert_eq!(planted.len(), 1);
    assert!(Duration::from_secs(1_500) > took);
}

async fn open_all(shared: &Shared, cells: HashMap<u64, String>) -> HashMap<u64, String> {
    let mut found = HashMap::with_capacity(cells.len());
    let all: Vec<_> = cells.into_iter().collect();
    for chunk in all.chunks(5_000) {
        let items = chunk
            .iter()
            .map(|(id, cell)| Ok(CiphertextItem { ciphertext: cell.clone(), context: shared.context(*id) }))
            .collect();
        let opened = shared.world.run(Decrypt { key: "acme/prod/crm/pii".parse().unwrap(), items }).await.unwrap();
        for ((id, _), item) in chunk.iter().zip(opened) {
            found.insert(*id, String::from_utf8(item.unwrap().plaintext.as_bytes().to_vec()).unwrap());
        }
    }
    found
}
