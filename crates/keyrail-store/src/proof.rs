//! What was read against the map: a row is the one that was last written, and none is missing.

use std::collections::HashMap;

use keyrail_core::system::MapHead;

use crate::driver::{Condition, SELECT_ROWS_MAX, Select, Value};
use crate::error::{Fault, StoreError};
use crate::map::LOOKS_MAX;
use crate::map::place::{Place, key_of, place_of, subject};
use crate::row::{Row, Table};
use crate::seal::row_id;
use crate::state::State;

/// After so many looks that somebody's change got in between, changes of this process wait for the next ones.
const LOOKS_BESIDE_CHANGES_MAX: usize = 8;

/// Which rows a question is about, so far that the map knows all of them.
pub(crate) struct Scope {
    /// The beginning of their places.
    prefix: Vec<u8>,
    /// How many values of an owner come first in each.
    owner_len: usize,
}

impl Place {
    /// The scope of a question, if the map can tell every row that fulfils it: it asks for the first columns of the key,
    /// for an owner's rows or for all there are.
    pub(crate) fn scope(&self, table: &Table, conditions: &[Condition]) -> Option<Scope> {
        let equals: HashMap<&str, &Value> = conditions
            .iter()
            .map(|condition| match condition {
                Condition::Equal(column, value) => Some((*column, value)),
                Condition::Less(..) => None,
            })
            .collect::<Option<_>>()?;
        let values = |columns: &[&str]| -> Option<Vec<Value>> {
            columns.iter().map(|column| equals.get(column).map(|value| (*value).clone())).collect()
        };
        if let Some(key) = table.key.get(..equals.len()).and_then(values) {
            return Some(Scope { prefix: self.row(&key), owner_len: 0 });
        }
        let owner = values(self.owner).filter(|owner| owner.len() == equals.len())?;
        Some(Scope { prefix: self.owned(&owner), owner_len: owner.len() })
    }
}

impl State {
    /// The rows as they are now: each is looked up in the map by its seal. One that was changed since it was read is read
    /// anew, one that was deleted since is left out.
    pub(crate) async fn proven(
        &self,
        table: &'static Table,
        conditions: &[Condition],
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let Some(place) = place_of(table).filter(|_| self.proves) else { return Ok(rows) };
        let mut proven = Vec::with_capacity(rows.len());
        for row in rows {
            let key = key_of(table, &row);
            let seal = self.map.find(&place.row(&key)).await?;
            if seal.is_some_and(|seal| row.last().is_some_and(|last| is_seal(last, &seal))) {
                proven.push(row);
            } else if let Some(row) = self.row_now(table, &key).await?
                && conditions.iter().all(|condition| holds(table, condition, &row))
            {
                proven.push(row);
            }
        }
        Ok(proven)
    }

    /// Adds to `rows` what the map knows besides them, if the question has a scope. Nothing is besides them but what came
    /// in since they were read: else a row is missing.
    pub(crate) async fn complete(
        &self,
        table: &'static Table,
        conditions: &[Condition],
        rows: &mut Vec<Vec<Value>>,
        max: usize,
    ) -> Result<(), StoreError> {
        let Some(place) = place_of(table).filter(|_| self.proves) else { return Ok(()) };
        let Some(scope) = place.scope(table, conditions) else { return Ok(()) };
        let mut known: Vec<Vec<u8>> = rows.iter().map(|row| place.row(&key_of(table, row))).collect();
        known.sort_unstable();
        for entry in self.map.keys(&scope.prefix, max).await? {
            let about = subject(&entry.key).ok_or(StoreError::Malformed { table: "map_node", column: "bytes" })?;
            let row = if scope.owner_len == 0 {
                entry.key.to_vec()
            } else {
                place.row(about.values.get(scope.owner_len..).unwrap_or_default())
            };
            if known.binary_search(&row).is_err()
                && let Some(row) = self.row_of_place(table, place, &row).await?
                && conditions.iter().all(|condition| holds(table, condition, &row))
            {
                rows.push(row);
            }
        }
        Ok(())
    }

    /// A row as it is now, by its place.
    async fn row_of_place(
        &self,
        table: &'static Table,
        place: &Place,
        at: &[u8],
    ) -> Result<Option<Vec<Value>>, StoreError> {
        match self.key_of_place(table, place, at).await? {
            Some(key) => self.row_now(table, &key).await,
            // A part of the place is a hash, and no row has it.
            None if self.map.find(at).await?.is_none() => Ok(None),
            None => Err(StoreError::RowMissing { table: table.name, id: shown(at) }),
        }
    }

    /// The key of the row at a place. Where a part of the place is a hash, it is looked for among the rows that have the
    /// other parts.
    pub(crate) async fn key_of_place(
        &self,
        table: &'static Table,
        place: &Place,
        at: &[u8],
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let about = subject(at).ok_or(StoreError::Malformed { table: "map_node", column: "bytes" })?;
        if about.whole {
            return Ok(Some(about.values));
        }
        let conditions =
            table.key.iter().zip(&about.values).map(|(column, value)| Condition::Equal(column, value.clone()));
        let conditions: Vec<_> = conditions.collect();
        let mut after = None;
        loop {
            let select =
                Select { table, conditions: conditions.clone(), order: table.key, after, limit: SELECT_ROWS_MAX };
            let rows = self.store().select(select).await?;
            let keys: Vec<_> = rows.iter().map(|row| key_of(table, row)).collect();
            if let Some(key) = keys.iter().find(|key| place.row(key) == at) {
                return Ok(Some(key.clone()));
            }
            if rows.len() < SELECT_ROWS_MAX {
                return Ok(None);
            }
            after = keys.last().cloned();
        }
    }

    /// A row of the database, unchecked.
    pub(crate) async fn row_at(&self, table: &'static Table, key: &[Value]) -> Result<Option<Vec<Value>>, StoreError> {
        let conditions = table.key.iter().zip(key).map(|(column, value)| Condition::Equal(column, value.clone()));
        let select = Select { table, conditions: conditions.collect(), order: table.key, after: None, limit: 1 };
        Ok(self.store().select(select).await?.pop())
    }

    /// A row as it is now, or that there is none: row and map are read while no change comes in between.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`], [`StoreError::RowStale`], [`StoreError::RowMissing`], [`StoreError::RowUnexpected`] if
    /// they contradict each other.
    pub(crate) async fn row_now(&self, table: &'static Table, key: &[Value]) -> Result<Option<Vec<Value>>, StoreError> {
        let Some(place) = place_of(table) else { return self.row_at(table, key).await };
        let at = place.row(key);
        for look in 0..LOOKS_MAX {
            let _waiting = match look {
                0..LOOKS_BESIDE_CHANGES_MAX => None,
                _ => Some(self.turn().await?),
            };
            let head = self.map.stored_head().await?;
            let row = self.row_at(table, key).await?;
            let compared = match self.map.find(&at).await {
                Ok(entry) => self.compare(table, key, row, entry.as_ref()),
                Err(error) => Err(error),
            };
            match compared {
                Err(error) if error.fault() == Fault::StoredData => {
                    if !self.map.moved_since(head).await? {
                        return Err(error);
                    }
                }
                compared => return compared,
            }
        }
        Err(StoreError::Conflict { table: MapHead::TABLE.name })
    }

    fn compare(
        &self,
        table: &'static Table,
        key: &[Value],
        row: Option<Vec<Value>>,
        entry: Option<&[u8; 32]>,
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let name = table.name;
        let Some(row) = row else {
            let id = || row_id_of_key(key);
            return if entry.is_none() { Ok(None) } else { Err(StoreError::RowMissing { table: name, id: id() }) };
        };
        let id = || row_id(table, &row);
        self.sealer.require(table, &row)?;
        match entry {
            Some(seal) if row.last().is_some_and(|last| is_seal(last, seal)) => Ok(Some(row)),
            Some(_) => Err(StoreError::RowStale { table: name, id: id() }),
            None => Err(StoreError::RowUnexpected { table: name, id: id() }),
        }
    }
}

/// The key of a row for people.
pub(crate) fn row_id_of_key(key: &[Value]) -> String {
    let texts: Vec<_> = key.iter().map(crate::seal::shown_value).collect();
    texts.join(", ")
}

/// A place for people, where a part of it is a hash.
pub(crate) fn shown(at: &[u8]) -> String {
    let known = subject(at).map(|about| row_id_of_key(&about.values)).unwrap_or_default();
    format!("{known}, place {}", hex::encode(at))
}

pub(crate) fn is_seal(value: &Value, seal: &[u8; 32]) -> bool {
    matches!(value, Value::Blob(bytes) if bytes == seal)
}

fn holds(table: &Table, condition: &Condition, row: &[Value]) -> bool {
    let value = |name: &str| table.columns.iter().zip(row).find(|(column, _)| **column == name).map(|(_, value)| value);
    match condition {
        Condition::Equal(column, wanted) => value(column) == Some(wanted),
        Condition::Less(column, bound) => match (value(column), bound) {
            (Some(Value::Integer(number)), Value::Integer(bound)) => number < bound,
            (Some(Value::Text(text)), Value::Text(bound)) => text < bound,
            (Some(Value::Blob(bytes)), Value::Blob(bound)) => bytes < bound,
            _ => false,
        },
    }
}
