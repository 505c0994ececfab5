//! Reading an image: no length is believed, and no more is kept than one item.

use crate::driver::Value;
use crate::error::{Fault, StoreError};
use crate::image::{END, IMAGE_ITEM_LEN_MAX, ROW, TABLE};
use crate::row::{TABLES, Table};

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not of the form.
    #[error("the rows of the backup are not readable: {what}")]
    Malformed {
        /// What of it.
        what: &'static str,
    },
    /// It has a table or a column that this program does not know.
    #[error("the backup holds what this program does not know: {what} `{name}`")]
    Newer {
        /// A table or a column.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A row does not fit, or the store fails.
    #[error("the rows of the backup cannot be stored")]
    Store(#[from] StoreError),
}

impl ImageError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed { .. } | Self::Newer { .. } => Fault::StoredData,
            Self::Store(error) => error.fault(),
        }
    }
}

/// What is read of an image so far.
#[derive(Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
    used: usize,
    /// The present table, and for each of its columns where its value stands in a row of the image.
    table: Option<(&'static Table, Vec<Option<usize>>, usize)>,
    ended: Option<u64>,
}

impl Decoder {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// How many rows the end tells of, if it was reached and nothing stands behind it.
    pub(super) fn ended(&self) -> Option<u64> {
        self.ended.filter(|_| self.used == self.bytes.len())
    }

    /// The next row that is there as a whole.
    pub(super) fn next_row(&mut self) -> Result<Option<(&'static Table, Vec<Value>)>, ImageError> {
        while let Some((kind, item)) = self.next_item()? {
            if self.ended.is_some() {
                return Err(malformed("what stands behind its end"));
            }
            let mut item = Input(&item);
            match kind {
                TABLE => self.table = Some(table(&mut item)?),
                ROW => {
                    let (table, places, width) = self.table.as_ref().ok_or(malformed("a row of no table"))?;
                    return Ok(Some((*table, row(&mut item, places, *width)?)));
                }
                END => self.ended = Some(u64::from_be_bytes(item.array().filter(|_| item.0.is_empty()).ok_or(END_OF)?)),
                _ => return Err(malformed("the kind of an item")),
            }
        }
        Ok(None)
    }

    fn next_item(&mut self) -> Result<Option<(u8, Vec<u8>)>, ImageError> {
        let mut input = Input(self.bytes.get(self.used..).unwrap_or_default());
        let Some([kind]) = input.array() else { return Ok(None) };
        let Some(len) = input.array().map(u32::from_be_bytes) else { return Ok(None) };
        let len = len as usize;
        if len > IMAGE_ITEM_LEN_MAX {
            return Err(malformed("the length of an item"));
        }
        let Some(item) = input.take(len) else { return Ok(None) };
        let item = item.to_vec();
        self.used += ITEM_HEAD_LEN + len;
        Ok(Some((kind, item)))
    }
}

/// A kind and a length.
const ITEM_HEAD_LEN: usize = 5;

const END_OF: ImageError = malformed("its end");

const fn malformed(what: &'static str) -> ImageError {
    ImageError::Malformed { what }
}

/// What is left to be read of an item.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.array().map(u32::from_be_bytes)?;
        self.take(len as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn value(&mut self) -> Option<Value> {
        let [kind] = self.array()?;
        Some(match kind {
            b'n' => Value::Null,
            b'i' => Value::Integer(i64::from_be_bytes(self.array()?)),
            b't' => Value::Text(self.text()?.to_owned()),
            b'b' => Value::Blob(self.bytes()?.to_vec()),
            _ => return None,
        })
    }
}

/// A table of a former release may lack columns that were added since.
fn table(item: &mut Input<'_>) -> Result<(&'static Table, Vec<Option<usize>>, usize), ImageError> {
    let name = item.text().ok_or(malformed("the name of a table"))?;
    let newer = |what, name: &str| ImageError::Newer { what, name: name.to_owned() };
    let table = TABLES.into_iter().find(|table| table.name == name).ok_or_else(|| newer("table", name))?;
    let mut columns = Vec::new();
    while !item.0.is_empty() {
        let column = item.text().ok_or(malformed("the name of a column"))?;
        if !table.columns.contains(&column) {
            return Err(newer("column", column));
        }
        columns.push(column);
    }
    let place = |column: &&'static str| match columns.iter().position(|found| found == column) {
        None if !table.added.contains(column) => Err(malformed("a column is missing")),
        place => Ok(place),
    };
    let places = table.columns.iter().map(place).collect::<Result<_, _>>()?;
    Ok((table, places, columns.len()))
}

/// The values in the order of the columns as they are now, the seal last.
fn row(item: &mut Input<'_>, places: &[Option<usize>], width: usize) -> Result<Vec<Value>, ImageError> {
    let mut found = Vec::with_capacity(width + 1);
    while !item.0.is_empty() {
        found.push(item.value().ok_or(malformed("a value of a row"))?);
    }
    if found.len() != width + 1 {
        return Err(malformed("the number of values of a row"));
    }
    let seal = found.pop().unwrap_or(Value::Null);
    let mut values: Vec<_> =
        places.iter().map(|place| place.and_then(|place| found.get(place).cloned()).unwrap_or(Value::Null)).collect();
    values.push(seal);
    Ok(values)
}
