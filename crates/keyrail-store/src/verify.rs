//! Every row against the map, and every entry of the map against the rows.

use std::collections::{BTreeMap, BTreeSet};

use keyrail_core::system::{MapHead, MapNode};

use crate::driver::{SELECT_ROWS_MAX, Value};
use crate::error::{Fault, StoreError};
use crate::map::LOOKS_MAX;
use crate::map::node::Node;
use crate::map::place::{Place, key_of, place_of, subject};
use crate::proof::{is_seal, shown};
use crate::row::{Row, TABLES, Table, Values};
use crate::seal::row_id;
use crate::state::{State, select_all};

/// How many findings are told; there may be more.
pub(crate) const FINDINGS_MAX: usize = 10_000;

/// What [`State::verify_all`] found wrong.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Finding {
    /// The table; empty for the file as a whole.
    pub table: &'static str,
    /// The row's key.
    pub id: String,
    /// What is wrong.
    pub kind: FindingKind,
}

/// What can be wrong with a row.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum FindingKind {
    /// Its seal does not fit.
    Altered,
    /// The row is whole, and not as it was last written.
    Stale,
    /// The row is gone, and nobody deleted it.
    Missing,
    /// The row was deleted, or never made.
    Unexpected,
    /// The seal fits and a value makes no sense: a bug, or a newer program wrote it.
    Malformed {
        /// The column.
        column: &'static str,
    },
    /// The database finds its own structures broken.
    Database {
        /// What it says.
        says: String,
    },
}

impl FindingKind {
    /// The word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Malformed { .. } => "malformed",
            Self::Database { .. } => "database",
        }
    }
}

/// What was found so far, each once.
#[derive(Default)]
struct Findings {
    found: BTreeSet<Finding>,
    /// Rows of each table that the map knows.
    matched: BTreeMap<&'static str, u64>,
}

impl Findings {
    fn add(&mut self, table: &'static str, id: String, kind: FindingKind) {
        if self.found.len() < FINDINGS_MAX {
            self.found.insert(Finding { table, id, kind });
        }
    }

    /// Takes what is wrong with stored data; anything else ends the search.
    fn note(&mut self, error: StoreError, at: (&'static str, String)) -> Result<(), StoreError> {
        match error {
            StoreError::RowSeal { table, id } => self.add(table, id, FindingKind::Altered),
            StoreError::RowStale { table, id } => self.add(table, id, FindingKind::Stale),
            StoreError::RowMissing { table, id } => self.add(table, id, FindingKind::Missing),
            StoreError::RowUnexpected { table, id } => self.add(table, id, FindingKind::Unexpected),
            StoreError::Malformed { table, column } => {
                let id = if at.0 == table { at.1 } else { String::new() };
                self.add(table, id, FindingKind::Malformed { column });
            }
            error => return Err(error),
        }
        Ok(())
    }
}

impl State {
    /// Reads every row of every table, and names each that is not as it was last written, and each that is missing.
    /// Memory does not grow with the store.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn verify_all(&self) -> Result<Vec<Finding>, StoreError> {
        // What is at hand was read before: it says nothing of what is stored now.
        let state = Self { map: self.map.afresh(), ..self.clone() };
        state.verify_stored().await
    }

    async fn verify_stored(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Findings::default();
        for says in self.store().integrity().await? {
            findings.add("", String::new(), FindingKind::Database { says });
        }
        let head = match self.map.stored_head().await {
            Ok(head) => head,
            Err(error) => findings.note(error, (MapHead::TABLE.name, "1".to_owned())).map(|()| None)?,
        };
        let mapped = head.is_some();
        let mut rows = 0;
        for table in TABLES.into_iter().filter(|table| !is_map(table)) {
            rows += self.verify_table(table, mapped, &mut findings).await?;
        }
        if mapped {
            self.verify_entries(head, &mut findings).await?;
            self.verify_nodes(&mut findings).await?;
        } else if rows > 0 && findings.found.iter().all(|finding| finding.table != MapHead::TABLE.name) {
            findings.add(MapHead::TABLE.name, "1".to_owned(), FindingKind::Missing);
        }
        Ok(findings.found.into_iter().collect())
    }

    async fn verify_table(
        &self,
        table: &'static Table,
        mapped: bool,
        findings: &mut Findings,
    ) -> Result<u64, StoreError> {
        let (mut after, mut count) = (None, 0);
        loop {
            let rows = self.store().select(select_all(table, after.clone())).await?;
            let last = rows.len() < SELECT_ROWS_MAX;
            count += rows.len() as u64;
            for values in rows {
                let key = key_of(table, &values);
                // A key that is there twice stands for one row of the map, whatever an index says.
                if after.as_ref() == Some(&key) {
                    findings.add(table.name, row_id(table, &values), FindingKind::Unexpected);
                } else {
                    let place = place_of(table).filter(|_| mapped);
                    self.verify_row(table, place, values, findings).await?;
                }
                after = Some(key);
            }
            if last {
                return Ok(count);
            }
        }
    }

    async fn verify_row(
        &self,
        table: &'static Table,
        place: Option<&Place>,
        values: Vec<Value>,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let (id, key) = (row_id(table, &values), key_of(table, &values));
        let seal = values.last().cloned();
        let checked = self.sealer.check(table, values).and_then(|values| crate::rows::check(table, values));
        let whole = checked.is_ok();
        if let Err(error) = checked {
            findings.note(error, (table.name, id.clone()))?;
        }
        let Some(place) = place else { return Ok(()) };
        let entry = match self.map.find(&place.row(&key)).await {
            Ok(entry) => entry,
            // A node of the map is lost, and named.
            Err(error) => return findings.note(error, (MapNode::TABLE.name, String::new())),
        };
        *findings.matched.entry(table.name).or_default() += u64::from(entry.is_some());
        let is = entry.zip(seal).is_some_and(|(entry, seal)| is_seal(&seal, &entry));
        if whole
            && !is
            && let Err(error) = self.row_now(table, &key).await
        {
            findings.note(error, (table.name, id))?;
        }
        Ok(())
    }

    /// Every entry has its row. Where a table has as many rows in the map as entries, each has, unless rows came and went
    /// since `head`.
    async fn verify_entries(&self, head: Option<MapHead>, findings: &mut Findings) -> Result<(), StoreError> {
        let (mut entries, mut from) = (BTreeMap::<&'static str, u64>::new(), Some(Box::<[u8]>::default()));
        while let Some(begin) = from {
            from = match self.map.way_now(&begin).await {
                Ok(way) => {
                    let keys = way.leaf().into_iter().flat_map(|leaf| &leaf.entries).map(|entry| entry.key.as_ref());
                    for key in keys.filter(|key| *key >= begin.as_ref()) {
                        match subject(key) {
                            Some(about) => *entries.entry(about.table).or_default() += u64::from(about.is_row),
                            None => findings.add(
                                MapNode::TABLE.name,
                                shown(key),
                                FindingKind::Malformed { column: "bytes" },
                            ),
                        }
                    }
                    way.end
                }
                Err(lost) => {
                    findings.note(lost.error, (MapNode::TABLE.name, String::new()))?;
                    lost.end
                }
            };
        }
        // A head that is lost now is told by whoever looks for nodes.
        let moved = self.map.moved_since(head).await.unwrap_or(true);
        for table in TABLES {
            let count = entries.get(table.name).copied().unwrap_or_default();
            if let Some(place) = place_of(table)
                && (moved || count != findings.matched.get(table.name).copied().unwrap_or_default())
            {
                self.verify_presence(table, place, findings).await?;
            }
        }
        Ok(())
    }

    async fn verify_presence(
        &self,
        table: &'static Table,
        place: &Place,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let prefix = place.rows();
        let mut from = Some(Box::<[u8]>::from(prefix.as_slice()));
        while let Some(begin) = from {
            let Ok((some, next)) = self.map.some_of(&prefix, &begin).await else { return Ok(()) };
            for entry in some {
                let now = match self.key_of_place(table, place, &entry.key).await? {
                    Some(key) => self.row_now(table, &key).await.map(drop),
                    None if self.map.find(&entry.key).await?.is_none() => Ok(()),
                    None => Err(StoreError::RowMissing { table: table.name, id: shown(&entry.key) }),
                };
                if let Err(error) = now {
                    findings.note(error, (table.name, shown(&entry.key)))?;
                }
            }
            from = next;
        }
        Ok(())
    }

    /// Every node is whole, and hangs from the head. That each is the one that its parent says was seen on the way.
    async fn verify_nodes(&self, findings: &mut Findings) -> Result<(), StoreError> {
        let (table, mut after) = (MapNode::TABLE, None);
        loop {
            let rows = self.store().select(select_all(table, after)).await?;
            let last = rows.len() < SELECT_ROWS_MAX;
            after = rows.last().map(|values| key_of(table, values));
            for values in rows {
                let (id, key) = (row_id(table, &values), key_of(table, &values));
                if let Err(error) = self.verify_node(&key, values).await {
                    findings.note(error, (table.name, id))?;
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn verify_node(&self, key: &[Value], values: Vec<Value>) -> Result<(), StoreError> {
        if self.hangs(values).await?.is_none() {
            return Ok(());
        }
        // It may have been changed since it was read: head and node are read anew, in this order.
        for _ in 0..LOOKS_MAX {
            let head = self.map.stored_head().await?;
            let Some(values) = self.row_at(MapNode::TABLE, key).await? else { return Ok(()) };
            let Some(wrong) = self.hangs(values).await? else { return Ok(()) };
            if !self.map.moved_since(head).await? {
                return Err(wrong);
            }
        }
        Ok(())
    }

    /// What is wrong with a node, if it does not hang from the head as it is.
    async fn hangs(&self, values: Vec<Value>) -> Result<Option<StoreError>, StoreError> {
        let table = MapNode::TABLE;
        let seal = values.last().cloned();
        let row = MapNode::from_values(&mut Values::new(table, self.sealer.check(table, values)?))?;
        let malformed = StoreError::Malformed { table: table.name, column: "bytes" };
        let node = Node::from_bytes(&row.bytes).map_err(|_| malformed)?;
        let first = node.entries.first().map(|entry| entry.key.clone()).unwrap_or_default();
        let id = || row.id.to_string();
        match self.map.way_now(&first).await {
            Ok(way) => Ok(match way.nodes.iter().find(|stored| stored.id == row.id) {
                Some(stored) if seal.is_some_and(|seal| is_seal(&seal, &stored.seal)) => None,
                Some(_) => Some(StoreError::RowStale { table: table.name, id: id() }),
                None => Some(StoreError::RowUnexpected { table: table.name, id: id() }),
            }),
            // The node that is lost is named where it is missed.
            Err(lost) if lost.error.fault() == Fault::StoredData => Ok(None),
            Err(lost) => Err(lost.error),
        }
    }
}

fn is_map(table: &Table) -> bool {
    [MapNode::TABLE.name, MapHead::TABLE.name].contains(&table.name)
}
