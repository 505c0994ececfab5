//! Random tables, rows and operations: in the end every row is what a model says, and a second campaign changes
//! nothing.

use std::collections::BTreeMap;

use keyrail_core::id::CampaignId;
use keyrail_crypto::envelope;
use keyrail_crypto::secret::Plaintext;
use keyrail_data::Keyset;
use keyrail_data::adapter::{self, AssetSpec};
use keyrail_data::cells::opened;
use keyrail_data::ops::asset::{AssetView, IdentityChoice};
use keyrail_data::ops::campaign::Rollback;
use keyrail_data::value::{Binding, Class, RowIdentity, Sql};
use keyrail_engine::ops::data::{Encrypt, EncryptItem};
use keyrail_testkit::{scale, seeded};
use rand::RngExt;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::support::{World, key};

const CASES: usize = 300;

const SCHEMAS: [&str; 5] = [
    "CREATE TABLE people (id INTEGER PRIMARY KEY, a, b)",
    "CREATE TABLE people (id TEXT PRIMARY KEY, a, b)",
    "CREATE TABLE people (id TEXT PRIMARY KEY, a, b) WITHOUT ROWID",
    "CREATE TABLE people (a, id BLOB, b, PRIMARY KEY (id)) WITHOUT ROWID",
    "CREATE TABLE people (id REAL PRIMARY KEY, a, b)",
];

struct Bound(Sql);

impl rusqlite::ToSql for Bound {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match &self.0 {
            Sql::Null => ValueRef::Null,
            Sql::Integer(number) => ValueRef::Integer(*number),
            Sql::Real(number) => ValueRef::Real(*number),
            Sql::Text(bytes) => ValueRef::Text(bytes),
            Sql::Blob(bytes) => ValueRef::Blob(bytes),
            Sql::Typed(..) => unreachable!("SQLite has no such types"),
        }))
    }
}

struct Case {
    world: World,
    app: rusqlite::Connection,
    asset: AssetView,
    schema: usize,
    rows: BTreeMap<u32, [Sql; 2]>,
    last: Option<CampaignId>,
    said: Vec<String>,
}

impl Case {
    async fn new(schema: usize) -> Self {
        let world = World::new().await;
        let app = world.connect();
        app.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        app.execute_batch(SCHEMAS[schema]).unwrap();
        let asset = world.add("people", IdentityChoice::PrimaryKey, &["a", "b"]).await.unwrap();
        Self { world, app, asset, schema, rows: BTreeMap::new(), last: None, said: Vec::new() }
    }

    fn id(&self, row: u32) -> Sql {
        match self.schema {
            0 => Sql::Integer(i64::from(row)),
            1 | 2 => Sql::Text(format!("row {row}").into_bytes()),
            3 => Sql::Blob(row.to_be_bytes().to_vec()),
            _ => Sql::Real(f64::from(row) + 0.5),
        }
    }

    fn put(&mut self, row: u32, column: usize, stored: Sql, means: Sql) {
        let id = Bound(self.id(row));
        self.app.execute("INSERT OR IGNORE INTO people (id) VALUES (?)", [&id]).unwrap();
        let name = ["a", "b"][column];
        self.app.execute(&format!("UPDATE people SET {name} = ? WHERE id = ?"), [&Bound(stored), &id]).unwrap();
        self.rows.entry(row).or_insert([Sql::Null, Sql::Null])[column] = means;
    }

    async fn encrypt(&self, row: u32, column: usize, plaintext: &[u8]) -> String {
        let identity = RowIdentity::of(&[self.id(row)]);
        let binding = Binding { asset: &self.asset.id, column: &self.asset.columns[column].id, row: Some(&identity) };
        let context = binding.context(Class::Same).unwrap();
        let item = EncryptItem { plaintext: Plaintext::from(plaintext.to_vec()), context };
        self.world.run(Encrypt { key: key(), items: vec![Ok(item)] }).await.unwrap().remove(0).unwrap().ciphertext
    }

    async fn step(&mut self, random: &mut impl RngExt) {
        let (row, column) = (random.random_range(1..=9), random.random_range(0..2));
        let choice = random.random_range(0..16);
        self.said.push(format!("{choice} on {row}.{column}"));
        match choice {
            0..=4 => {
                let value = value(random);
                self.put(row, column, value.clone(), value);
            }
            5 | 6 => {
                let text = format!("sealed {}", random.random_range(0..100));
                let sealed = self.encrypt(row, column, text.as_bytes()).await;
                self.put(row, column, Sql::Text(sealed.into_bytes()), Sql::Text(text.into_bytes()));
            }
            7 => {
                let sealed = envelope::from_text(&self.encrypt(row, column, b"bytes").await).unwrap();
                self.put(row, column, Sql::Blob(sealed), Sql::Blob(b"bytes".to_vec()));
            }
            8 => {
                self.app.execute("DELETE FROM people WHERE id = ?", [&Bound(self.id(row))]).unwrap();
                self.rows.remove(&row);
            }
            9 => self.app.execute_batch("VACUUM").unwrap(),
            10 | 11 => self.world.rotate().await,
            12 => drop(self.world.protect().await),
            13 => self.last = Some(self.world.reencrypt().await.campaign.id),
            14 => drop(self.world.unprotect().await),
            _ => {
                // Back to the version before, if there is one and no rotation came since.
                if let Some(id) = self.last.take()
                    && let Ok(back) = self.world.run(Rollback { id }).await
                {
                    self.world.complete(back.id).await;
                }
            }
        }
    }

    /// Every row as the asset opens it.
    async fn open(&self) -> BTreeMap<String, Vec<Sql>> {
        let unsealed = self.world.engine.unsealed().unwrap();
        let asset = unsealed.state().asset(&self.asset.id).await.unwrap().unwrap();
        let columns = unsealed.state().columns_of(&asset.id).await.unwrap();
        let spec = AssetSpec::of(&asset, &columns).unwrap();
        let keys = Keyset::load(&unsealed, &key()).await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let page = adapter::open(&spec).unwrap().page(None, 100).unwrap();
            let row =
                |row: &adapter::Row| (row.identity.clone().unwrap().to_string(), opened(&spec, row, &keys).unwrap());
            page.rows.iter().map(row).collect()
        });
        read.await.unwrap()
    }

    fn model(&self) -> BTreeMap<String, Vec<Sql>> {
        self.rows.iter().map(|(row, values)| (RowIdentity::of(&[self.id(*row)]).to_string(), values.to_vec())).collect()
    }
}

fn value(random: &mut impl RngExt) -> Sql {
    let len = [0, 1, 30, 300, 5_000][random.random_range(0..5)];
    match random.random_range(0..7) {
        0 => Sql::Null,
        1 => Sql::Integer(random.random()),
        2 => Sql::Real(f64::from(random.random::<i32>()) / 7.0),
        3 => Sql::Blob((0..len).map(|_| random.random()).collect()),
        4 => Sql::Text(format!("kr1.{}", "Ab_-".repeat(len / 4)).into_bytes()),
        _ => Sql::Text("é🦊 x".chars().cycle().take(len).collect::<String>().into_bytes()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_every_row_is_what_was_written_last() {
    let mut moved_in_all = 0;
    for case in 0..scale(CASES) {
        let mut random = seeded(&format!("model {case}"));
        let mut one = Case::new(case % SCHEMAS.len()).await;
        for _ in 0..random.random_range(4..24) {
            one.step(&mut random).await;
        }
        assert_eq!(one.open().await, one.model(), "case {case}: {:?}", one.said);
        let first = one.world.reencrypt().await;
        moved_in_all += first.campaign.counts.cells_moved;
        let stored = crate::support::dump(&one.app, "people");
        let second = one.world.reencrypt().await;
        assert_eq!(second.campaign.counts.cells_moved, 0, "case {case}: a second campaign changes nothing");
        assert_eq!(crate::support::dump(&one.app, "people"), stored, "case {case}");
        let census = second.census.unwrap();
        let values = one.rows.values().flatten().filter(|value| **value != Sql::Null).count() as u64;
        assert_eq!(
            (census.plaintext, census.damaged, census.cells.values().sum::<u64>()),
            (0, 0, values),
            "case {case}"
        );
        assert_eq!(one.open().await, one.model(), "case {case}: {:?}", one.said);
    }
    assert!(moved_in_all > 0);
    // The comparison can fail: one byte in one cell is seen.
    let mut one = Case::new(0).await;
    one.put(1, 0, Sql::Text(b"one".to_vec()), Sql::Text(b"two".to_vec()));
    assert_ne!(one.open().await, one.model());
}
