//! What each row must hold in the end: a hash of every row, kept up by whoever writes.

use std::collections::HashMap;

use keyrail_crypto::digest::Sha256;
use keyrail_data::Keyset;
use keyrail_data::adapter::{self, AssetSpec, Row};
use keyrail_data::cells::opened;
use keyrail_data::value::Sql;
use keyrail_engine::{Engine, EngineError};

use crate::failure::Failure;
use crate::quickstart::{Names, Open};

/// How many rows are read at a time.
const PAGE_ROWS: usize = 1_000;

/// Rows by their identity; rows without one are only counted.
#[derive(Default)]
pub(super) struct Ledger {
    by_identity: HashMap<String, [u8; 32]>,
    unnamed: u64,
}

/// A hash of the values of a row.
pub(super) fn hash(values: &[Sql]) -> [u8; 32] {
    let mut sha = Sha256::new();
    for value in values {
        sha.update(value.class().as_bytes());
        sha.update(&(value.len() as u64).to_be_bytes());
        match value {
            Sql::Null => {}
            Sql::Integer(number) => sha.update(&number.to_be_bytes()),
            Sql::Real(number) => sha.update(&number.to_bits().to_be_bytes()),
            Sql::Text(bytes) | Sql::Blob(bytes) => sha.update(bytes),
            Sql::Typed(_, text) => sha.update(text.as_bytes()),
        }
    }
    sha.finish()
}

async fn spec(open: &Open, names: &Names) -> Result<AssetSpec, Failure> {
    let found = open.state().asset_by_name(&names.asset).await.map_err(EngineError::from)?;
    let asset = found.ok_or_else(|| Failure::bug("the asset is gone"))?;
    let columns = open.state().columns_of(&asset.id).await.map_err(EngineError::from)?;
    Ok(AssetSpec::of(&asset, &columns).map_err(|error| error.into_engine(names.asset.as_str()))?)
}

impl Ledger {
    /// Reads and opens the whole table.
    pub(super) async fn read(engine: &Engine, names: &Names) -> Result<Self, Failure> {
        let open = engine.unsealed()?;
        let spec = spec(&open, names).await?;
        let keys = Keyset::load(&open, &names.key).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut ledger = Self::default();
            let mut adapter = adapter::open(&spec)?;
            let mut after = None;
            loop {
                let page = adapter.page(after.as_deref(), PAGE_ROWS)?;
                for row in &page.rows {
                    let values = opened(&spec, row, &keys)?;
                    ledger.note(row, &values);
                }
                if !page.more {
                    return Ok(ledger);
                }
                after = page.rows.last().map(|row| row.key.clone());
            }
        });
        let read = read.await.map_err(|_| Failure::bug("reading ended by a panic"))?;
        Ok(read.map_err(|error: keyrail_data::AssetError| error.into_engine(names.asset.as_str()))?)
    }

    fn note(&mut self, row: &Row, values: &[Sql]) {
        match &row.identity {
            Some(identity) => self.set(identity.as_str(), values),
            None => self.unnamed += 1,
        }
    }

    /// What a row holds from now on.
    pub(super) fn set(&mut self, identity: &str, values: &[Sql]) {
        self.by_identity.insert(identity.to_owned(), hash(values));
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> u64 {
        self.by_identity.len() as u64 + self.unnamed
    }

    /// Opens the whole table again and compares each row; tells how many there are.
    pub(super) async fn compare(&self, engine: &Engine, names: &Names) -> Result<u64, Failure> {
        let found = Self::read(engine, names).await?;
        if found.by_identity == self.by_identity && found.unnamed == self.unnamed {
            return Ok(found.rows());
        }
        let differs = self.by_identity.iter().find(|(identity, hash)| found.by_identity.get(*identity) != Some(hash));
        let row = differs.map_or("one that nobody wrote", |(identity, _)| identity.as_str());
        Err(Failure::bug(&format!("row {row} is not what was written last")))
    }
}
