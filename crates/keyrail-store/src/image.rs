//! All rows of a store as one stream of bytes, and back. The layout is in `spec/backup.md`.
//!
//! Rows go with their seals and with the nodes of the map, so that what is read back is what was written, or is told.

mod decode;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::driver::{SELECT_ROWS_MAX, Store, Transaction, Value, Write};
use crate::error::StoreError;
use crate::map::place::key_of;
use crate::row::{TABLES, Table};
use crate::state::{State, select_all};
use crate::verify::{Finding, FindingKind};
use decode::Decoder;
pub use decode::ImageError;

/// The longest item of an image, in bytes: a row with all its values.
pub const IMAGE_ITEM_LEN_MAX: usize = 4 * 1024 * 1024;

/// The kinds of items.
const TABLE: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;

/// How many rows each table holds.
pub type RowCounts = BTreeMap<String, u64>;

impl State {
    /// The same rows as they are at one moment, whatever is changed from then on.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn at_this_moment(&self) -> Result<Self, StoreError> {
        Ok(Self::with(self.store.snapshot().await?, self.sealer.clone()))
    }

    /// Refuses rows of which one is not as it was last written, or missing.
    ///
    /// # Errors
    /// What is wrong with the first; [`StoreError`] when the database fails.
    pub async fn require_whole(&self) -> Result<(), StoreError> {
        match self.verify_all().await?.into_iter().next() {
            None => Ok(()),
            Some(Finding { table, id, kind }) => Err(match kind {
                FindingKind::Altered => StoreError::RowSeal { table, id },
                FindingKind::Stale => StoreError::RowStale { table, id },
                FindingKind::Missing => StoreError::RowMissing { table, id },
                FindingKind::Unexpected => StoreError::RowUnexpected { table, id },
                FindingKind::Malformed { column } => StoreError::Malformed { table, column },
                FindingKind::Database { says } => StoreError::Damaged(says.into()),
            }),
        }
    }

    /// How many rows each table holds.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn row_counts(&self) -> Result<RowCounts, StoreError> {
        let mut counts = RowCounts::new();
        for table in TABLES {
            counts.insert(table.name.to_owned(), self.store.count(table, Vec::new()).await?);
        }
        Ok(counts)
    }

    /// Hands the bytes of all rows to `out`, in parts. Each row's seal is checked; the store must stand still meanwhile.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`], [`StoreError`] when the database fails, and what `out` fails with.
    pub async fn write_image<E: From<StoreError>>(
        &self,
        mut out: impl FnMut(&[u8]) -> Result<(), E> + Send,
    ) -> Result<u64, E> {
        let (mut part, mut rows) = (Vec::new(), 0);
        for table in TABLES {
            put_item(&mut part, TABLE, |item| put_table(item, table));
            let mut after = None;
            loop {
                let page = self.store.select(select_all(table, after)).await?;
                after = page.last().map(|values| key_of(table, values));
                for values in &page {
                    self.sealer.require(table, values)?;
                    put_item(&mut part, ROW, |item| values.iter().for_each(|value| put_value(item, value)));
                }
                rows += page.len() as u64;
                out(&part)?;
                part.clear();
                if page.len() < SELECT_ROWS_MAX {
                    break;
                }
            }
        }
        put_item(&mut part, END, |item| item.extend_from_slice(&rows.to_be_bytes()));
        out(&part)?;
        Ok(rows)
    }
}

/// Puts the rows of an image into an empty store, a part at a time. The map comes last, so that a store that is not
/// whole has none.
pub struct ImageLoader {
    store: Arc<dyn Store>,
    decoder: Decoder,
    waiting: Vec<Write>,
    counts: RowCounts,
}

impl ImageLoader {
    /// Into an empty store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, decoder: Decoder::default(), waiting: Vec::new(), counts: RowCounts::new() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.decoder.feed(bytes);
        while let Some((table, values)) = self.decoder.next_row()? {
            *self.counts.entry(table.name.to_owned()).or_default() += 1;
            self.waiting.push(Write::Insert { table, values });
            if self.waiting.len() >= SELECT_ROWS_MAX {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends it. Gives how many rows each table has that has any.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn finish(mut self) -> Result<RowCounts, ImageError> {
        self.flush().await?;
        if self.decoder.ended() != Some(self.counts.values().sum()) {
            return Err(ImageError::Malformed { what: "its end" });
        }
        Ok(self.counts)
    }

    async fn flush(&mut self) -> Result<(), ImageError> {
        if !self.waiting.is_empty() {
            let writes = std::mem::take(&mut self.waiting);
            self.store.apply(Transaction::of(writes)).await?;
        }
        Ok(())
    }
}

/// Reads an image without putting it anywhere: whether it is one. It says nothing of seals.
#[derive(Default)]
pub struct ImageCheck {
    decoder: Decoder,
    counts: RowCounts,
}

impl ImageCheck {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.decoder.feed(bytes);
        while let Some((table, _)) = self.decoder.next_row()? {
            *self.counts.entry(table.name.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Ends it. Gives how many rows each table has that has any.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn finish(self) -> Result<RowCounts, ImageError> {
        if self.decoder.ended() != Some(self.counts.values().sum()) {
            return Err(ImageError::Malformed { what: "its end" });
        }
        Ok(self.counts)
    }
}

fn put_item(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut item = Vec::new();
    fill(&mut item);
    out.push(kind);
    put_len(out, item.len());
    out.extend_from_slice(&item);
}

fn put_table(item: &mut Vec<u8>, table: &Table) {
    put_bytes(item, table.name.as_bytes());
    table.columns.iter().for_each(|column| put_bytes(item, column.as_bytes()));
}

fn put_value(item: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => item.push(b'n'),
        Value::Integer(number) => {
            item.push(b'i');
            item.extend_from_slice(&number.to_be_bytes());
        }
        Value::Text(text) => {
            item.push(b't');
            put_bytes(item, text.as_bytes());
        }
        Value::Blob(bytes) => {
            item.push(b'b');
            put_bytes(item, bytes);
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// No item is as long as its length could say.
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests;
