//! Making the map of a store that has none yet.

use keyrail_core::id::RequestId;
use keyrail_core::system::{MapHead, MapNode};

use crate::driver::{SELECT_ROWS_MAX, Select, Transaction, Value, Write};
use crate::error::StoreError;
use crate::map::node::{SEAL_LEN, Seal};
use crate::map::place::{Place, key_of, place_of};
use crate::map::{edit::Edit, root_of};
use crate::row::{Row, TABLES, Table};
use crate::staged::{OWNED, Staged};
use crate::state::{State, select_all};

/// What a store says of its map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapState {
    /// Counts the commits.
    pub generation: u64,
    /// The seal of the root.
    pub root: Seal,
    /// The request of the last change with a record, and the generation that it made; none as long as the map is being
    /// built.
    pub recorded: Option<(RequestId, u64)>,
}

impl State {
    /// What is stored of the map now; none if it was never begun.
    ///
    /// # Errors
    /// [`StoreError::RowSeal`], [`StoreError::RowStale`], [`StoreError::RowMissing`], [`StoreError`] when the database
    /// fails.
    pub async fn map_state(&self) -> Result<Option<MapState>, StoreError> {
        let head = self.map.stored_head().await?;
        Ok(head.map(|head| MapState {
            generation: head.generation,
            root: head.root,
            recorded: head.recorded.map(|request| (request, head.recorded_generation)),
        }))
    }

    /// Makes the map of the rows as they are, a part at a time, whatever a former attempt left. It is whole, and says so,
    /// with the change that comes back, whose record is that of `request`.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn build_map(&self, request: RequestId) -> Result<Staged, StoreError> {
        self.clear_map().await?;
        for table in TABLES {
            let Some(place) = place_of(table) else { continue };
            self.build_table(table, place, table.key, |row| Some((place.row(&key_of(table, row)), stored_seal(row))))
                .await?;
            if let Some(order) = place.owner_order {
                self.build_table(table, place, order, |row| Some((place.owner_entry(table, row)?, OWNED))).await?;
            }
        }
        self.stage_entries(Vec::new(), Some(request)).await
    }

    async fn build_table(
        &self,
        table: &'static Table,
        place: &Place,
        order: &'static [&'static str],
        entry: impl Fn(&[Value]) -> Option<(Vec<u8>, Seal)>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let select = Select { table, conditions: Vec::new(), order, after, limit: SELECT_ROWS_MAX };
            let rows = self.store.select(select).await?;
            let last = rows.len() < SELECT_ROWS_MAX;
            after = rows.last().map(|row| place.pick(table, order, row));
            // A row that holds no row's values any more is told when it is used.
            let entries: Vec<_> = rows.iter().filter_map(|row| entry(row)).collect();
            if !entries.is_empty() {
                let staged = self.stage_entries(entries, None).await?;
                self.apply(staged).await?;
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn stage_entries(
        &self,
        entries: Vec<(Vec<u8>, Seal)>,
        request: Option<RequestId>,
    ) -> Result<Staged, StoreError> {
        let turn = self.turn().await?;
        let head = self.map.head().await?;
        let mut edit = match &head {
            Some(head) => Edit::new(root_of(head), head.next_node, head.entries),
            None => Edit::empty(),
        };
        for (key, seal) in entries {
            self.map.step(&mut edit, |edit| edit.set(&key, seal)).await?;
        }
        let mut writes = Vec::new();
        let next = self.with_map(edit, head.as_ref(), request, &mut writes)?;
        Ok(Staged::new(writes, Some(next), turn))
    }

    /// Deletes whatever there is of a map, the head last.
    async fn clear_map(&self) -> Result<(), StoreError> {
        for table in [MapNode::TABLE, MapHead::TABLE] {
            loop {
                let rows = self.store.select(select_all(table, None)).await?;
                if rows.is_empty() {
                    break;
                }
                let writes = rows.iter().map(|row| Write::Delete { table, key: key_of(table, row) }).collect();
                self.store.apply(Transaction::of(writes)).await?;
            }
        }
        self.map.forget();
        Ok(())
    }
}

/// The seal as it is stored; of a row that has none that could be, one that nothing fits.
fn stored_seal(row: &[Value]) -> Seal {
    match row.last() {
        Some(Value::Blob(bytes)) => bytes.as_slice().try_into().unwrap_or([0; SEAL_LEN]),
        _ => [0; SEAL_LEN],
    }
}
