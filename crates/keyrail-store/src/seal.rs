//! Seals of rows: a row that was altered, or copied to another key or table, is told when it is read.

use std::collections::HashMap;

use keyrail_crypto::CryptoError;
use keyrail_crypto::mac::{MacKey, TAG_LEN};
use keyrail_crypto::secret::StoreKey;

use crate::driver::Value;
use crate::error::StoreError;
use crate::row::{TABLES, Table};

/// The first part of what a seal covers.
const SEAL_DOMAIN: &[u8] = b"keyrail/row/v1";

/// Makes and checks seals, with one key per table.
///
/// A seal is an HMAC-SHA-256 over the table's name and, column by column, its name and its typed value (without the
/// added columns that are NULL):
/// id, version and generation are columns, so a row opens only as itself. It says nothing of rows that are
/// missing or older than they should be; that is for the authenticated map, which takes every
/// changed row's seal at [`crate::State::commit`].
pub struct RowSealer {
    keys: HashMap<&'static str, MacKey>,
}

impl RowSealer {
    /// The sealer of a store, from the store's key.
    ///
    /// # Errors
    /// [`CryptoError`] when no key can be derived.
    pub fn new(key: &StoreKey) -> Result<Self, CryptoError> {
        let derive = |table: &&'static Table| Ok((table.name, key.mac_key(&format!("keyrail/store/{}", table.name))?));
        Ok(Self { keys: TABLES.iter().map(derive).collect::<Result<_, CryptoError>>()? })
    }

    /// The seal of a row.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for a table that has no key.
    pub(crate) fn seal(&self, table: &'static Table, values: &[Value]) -> Result<[u8; TAG_LEN], StoreError> {
        let key = self.keys.get(table.name).ok_or(StoreError::Malformed { table: table.name, column: "seal" })?;
        Ok(with_parts(table, values, |parts| key.tag(parts)))
    }

    /// Checks the seal, which is the last value, and takes it off.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`].
    pub(crate) fn check(&self, table: &'static Table, mut values: Vec<Value>) -> Result<Vec<Value>, StoreError> {
        self.require(table, &values)?;
        values.pop();
        Ok(values)
    }

    /// Checks the seal, which is the last value.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`].
    pub(crate) fn require(&self, table: &'static Table, row: &[Value]) -> Result<(), StoreError> {
        let (seal, values) = row.split_last().map_or((None, row), |(seal, values)| (Some(seal), values));
        let fits = match (self.keys.get(table.name), seal) {
            (Some(key), Some(Value::Blob(seal))) => <&[u8; TAG_LEN]>::try_from(seal.as_slice()).is_ok_and(|seal| {
                values.len() == table.columns.len() && with_parts(table, values, |parts| key.verify(parts, seal))
            }),
            _ => false,
        };
        if fits { Ok(()) } else { Err(StoreError::RowSeal { table: table.name, id: row_id(table, values) }) }
    }
}

fn with_parts<T>(table: &Table, values: &[Value], finish: impl FnOnce(&[&[u8]]) -> T) -> T {
    // All values in one piece of memory: a rewrap makes two seals for each key.
    let mut encoded = Vec::with_capacity(values.iter().map(typed_len).sum());
    let ends: Vec<usize> = values.iter().map(|value| put_typed(&mut encoded, value)).collect();
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 + 2 * values.len());
    parts.push(SEAL_DOMAIN);
    parts.push(table.name.as_bytes());
    let mut begin = 0;
    for (column, end) in table.columns.iter().zip(ends) {
        let value = encoded.get(begin..end).unwrap_or_default();
        begin = end;
        if value != NULL || !table.added.contains(column) {
            parts.push(column.as_bytes());
            parts.push(value);
        }
    }
    finish(&parts)
}

/// No value, as it is covered.
const NULL: &[u8] = b"n";

/// Appends the value with its type, so that no two values of different types look alike. Answers where it ends.
fn put_typed(to: &mut Vec<u8>, value: &Value) -> usize {
    match value {
        Value::Null => to.extend_from_slice(NULL),
        Value::Integer(number) => {
            to.push(b'i');
            to.extend_from_slice(&number.to_be_bytes());
        }
        Value::Text(text) => {
            to.push(b't');
            to.extend_from_slice(text.as_bytes());
        }
        Value::Blob(bytes) => {
            to.push(b'b');
            to.extend_from_slice(bytes);
        }
    }
    to.len()
}

fn typed_len(value: &Value) -> usize {
    1 + match value {
        Value::Null => 0,
        Value::Integer(_) => 8,
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
    }
}

/// The row's key, for people: ids in hex, words as they are.
pub(crate) fn row_id(table: &Table, values: &[Value]) -> String {
    let keys = table.columns.iter().zip(values).filter(|(column, _)| table.key.contains(column));
    let texts: Vec<_> = keys.map(|(_, value)| shown_value(value)).collect();
    texts.join(", ")
}

/// A value of a key, for people.
pub(crate) fn shown_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.chars().take(ID_CHARS_MAX).collect(),
        Value::Blob(bytes) => hex::encode(bytes.get(..ID_CHARS_MAX.min(bytes.len())).unwrap_or_default()),
    }
}

/// The most characters of a key that are shown.
const ID_CHARS_MAX: usize = 64;
