//! Changes on their way into the store: rows are sealed, and the map takes them.

use std::sync::Arc;
use std::time::Duration;

use keyrail_audit::Enclosed;
use keyrail_core::id::RequestId;
use keyrail_core::record::StateMark;
use keyrail_core::system::{MapHead, MapNode, OutboxEntry};
use keyrail_crypto::mac::TAG_LEN;
use tokio::sync::OwnedMutexGuard;

use crate::change::{Change, Recorded, Step};
use crate::driver::{Room, Transaction, Value, Write};
use crate::error::{Fault, StoreError};
use crate::field::Field;
use crate::map::edit::{Edit, Edited, Stored};
use crate::map::node::Seal;
use crate::map::place::{Place, key_of, place_of};
use crate::map::{mark_of, root_of};
use crate::row::{Row, Table};
use crate::seal::row_id;
use crate::state::State;

/// How long a change waits for those before it, in seconds.
const TURN_SECONDS_MAX: u64 = 5;

/// How often a change is worked out anew because somebody else moved the map.
const MAP_TRIES_MAX: usize = 16;

/// What stands for an owner's entry: there is no row whose seal it could be.
pub(crate) const OWNED: Seal = [0; TAG_LEN];

/// A change that is ready to be committed: what the store comes to with it is known, and nothing is written yet.
#[must_use = "a change does nothing until it is committed"]
pub struct Staged {
    writes: Vec<Write>,
    room: Room,
    next: Option<Next>,
    /// No other change is staged meanwhile.
    _turn: OwnedMutexGuard<()>,
}

/// The map with the change.
pub(crate) struct Next {
    former: Option<MapHead>,
    head: MapHead,
    nodes: Vec<Arc<Stored>>,
    gone: Vec<u64>,
}

impl Staged {
    pub(crate) fn new(writes: Vec<Write>, next: Option<Next>, turn: OwnedMutexGuard<()>) -> Self {
        Self { writes, room: Room::Usual, next, _turn: turn }
    }

    /// The same change, which may take the room that is kept for what must get through.
    pub fn from_reserve(self) -> Self {
        Self { room: Room::Reserve, ..self }
    }

    /// What the rows come to with the change: it goes into the record.
    pub fn mark(&self) -> Option<StateMark> {
        self.next.as_ref().map(|next| mark_of(&next.head))
    }
}

/// Tells the map that nobody knows, unless it is told what became of a commit.
struct Undecided<'a>(Option<&'a State>);

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.map.unsure();
        }
    }
}

impl State {
    /// Seals the rows of a change, and works out the map with them. The record of `request` is still to be written.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Conflict`]; [`StoreError::RowMissing`], [`StoreError::RowUnexpected`] if the
    /// rows that it changes are not those that were last written; [`StoreError`] when the database fails.
    pub async fn stage(&self, change: Change, request: RequestId) -> Result<Staged, StoreError> {
        self.stage_steps(change.steps, Some(request)).await
    }

    /// Commits a staged change with its record, durably, as a whole.
    ///
    /// # Errors
    /// As [`State::commit`].
    pub async fn commit_staged(&self, mut staged: Staged, entry: &OutboxEntry) -> Result<(), StoreError> {
        staged.writes.push(self.sealed_insert(OutboxEntry::TABLE, entry.values())?);
        self.apply(staged).await
    }

    /// Commits a staged change with its record in the log of the same database, durably, as a whole.
    ///
    /// # Errors
    /// As [`State::commit`], and [`StoreError::Fenced`].
    pub async fn commit_enclosed(&self, staged: Staged, enclosed: Arc<Enclosed>) -> Result<(), StoreError> {
        self.apply_with(staged, Some(enclosed)).await
    }

    /// Seals the rows of a change and stores it, durably, as a whole.
    ///
    /// # Errors
    /// As [`State::stage`]; [`StoreError::Indeterminate`] when the fate is unknown.
    pub async fn commit(&self, change: Recorded) -> Result<(), StoreError> {
        for _ in 1..MAP_TRIES_MAX {
            match self.commit_once(&change).await {
                // Another process wrote something else meanwhile.
                Err(error) if error.is_of_map() => {}
                done => return done,
            }
        }
        self.commit_once(&change).await
    }

    async fn commit_once(&self, change: &Recorded) -> Result<(), StoreError> {
        let Recorded { steps, entry } = change;
        let staged = self.stage_steps(steps.clone(), entry.as_ref().map(|entry| entry.request)).await?;
        match entry {
            Some(entry) => self.commit_staged(staged, entry).await,
            None => self.apply(staged).await,
        }
    }

    /// Raises the generation of the map's head, so that no head of another history is newer.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError`] when the database fails.
    pub async fn raise_generation(&self, to: u64) -> Result<(), StoreError> {
        let _turn = self.turn().await?;
        let missing = || StoreError::RowMissing { table: MapHead::TABLE.name, id: "1".to_owned() };
        let head = self.map.stored_head().await?.ok_or_else(missing)?;
        let next = MapHead { generation: to.max(head.generation + 1), ..head };
        let values = with_seal(next.values(), self.seal_of(&next)?);
        let write = Write::Update { table: MapHead::TABLE, values, former_generation: head.generation };
        self.store().apply(Transaction::of(vec![write])).await?;
        self.map.unsure();
        Ok(())
    }

    pub(crate) async fn apply(&self, staged: Staged) -> Result<(), StoreError> {
        if staged.writes.is_empty() {
            return Ok(());
        }
        self.apply_with(staged, None).await
    }

    async fn apply_with(&self, staged: Staged, enclosed: Option<Arc<Enclosed>>) -> Result<(), StoreError> {
        let mut undecided = Undecided(Some(self));
        let former = staged.next.as_ref().and_then(|next| next.former);
        let applied = self.store().apply(Transaction { writes: staged.writes, room: staged.room, enclosed }).await;
        let applied = applied.map_err(|error| match error {
            // Another process took the same number for a node of the map.
            StoreError::Exists { table } if table == MapNode::TABLE.name => StoreError::Conflict { table },
            other => other,
        });
        match &applied {
            Ok(()) => {
                if let Some(Next { head, nodes, gone, .. }) = staged.next {
                    self.map.stored(head, nodes, gone);
                }
                undecided.0 = None;
            }
            // The head did not move, and yet the map is another than it was: what is at hand hides who altered its rows.
            Err(StoreError::Conflict { table } | StoreError::Exists { table })
                if is_of_map(table) && !self.map.moved_since(former).await.unwrap_or(true) =>
            {
                self.map.forget_nodes();
            }
            // Somebody else may have moved the head.
            Err(
                StoreError::Indeterminate { .. }
                | StoreError::Conflict { .. }
                | StoreError::Fenced
                | StoreError::Closed,
            ) => {}
            Err(_) => undecided.0 = None,
        }
        applied
    }

    async fn stage_steps(&self, steps: Vec<Step>, request: Option<RequestId>) -> Result<Staged, StoreError> {
        let turn = self.turn().await?;
        let head = self.map.head().await?;
        match self.worked_out(steps, request, head).await {
            Ok((writes, next)) => Ok(Staged::new(writes, next, turn)),
            // Another process may have written meanwhile.
            Err(error) if error.fault() == Fault::StoredData && self.map.moved_since(head).await? => {
                Err(StoreError::Conflict { table: MapHead::TABLE.name })
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until no other change is staged.
    pub(crate) async fn turn(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        let waited = tokio::time::timeout(Duration::from_secs(TURN_SECONDS_MAX), self.map.turn.clone().lock_owned());
        waited.await.map_err(|elapsed| StoreError::Busy(elapsed.into()))
    }

    async fn worked_out(
        &self,
        steps: Vec<Step>,
        request: Option<RequestId>,
        head: Option<MapHead>,
    ) -> Result<(Vec<Write>, Option<Next>), StoreError> {
        let mut edit = match &head {
            Some(head) => Edit::new(root_of(head), head.next_node, head.entries),
            None => Edit::empty(),
        };
        let mut moves = request.is_some();
        let mut writes = Vec::with_capacity(steps.len() + 8);
        for step in steps {
            let (table, write) = (step.table(), self.take_in(&mut edit, step).await?);
            moves |= place_of(table).is_some();
            writes.push(write);
        }
        if !moves {
            return Ok((writes, None));
        }
        let next = self.with_map(edit, head.as_ref(), request, &mut writes)?;
        Ok((writes, Some(next)))
    }

    /// Seals the changed part of the map, and adds its writes.
    pub(crate) fn with_map(
        &self,
        edit: Edit,
        head: Option<&MapHead>,
        request: Option<RequestId>,
        writes: &mut Vec<Write>,
    ) -> Result<Next, StoreError> {
        let edited = edit.finish(|id, bytes, generation| self.seal_of(&MapNode { id, bytes, generation }))?;
        let next = next_head(head, &edited, request);
        for stored in &edited.nodes {
            let row = MapNode { id: stored.id, bytes: stored.node.to_bytes(), generation: stored.generation };
            writes.push(self.sealed_write(&row)?);
        }
        let gone = edited.gone.iter().map(|id| Write::Delete { table: MapNode::TABLE, key: vec![id.to_value()] });
        writes.extend(gone);
        writes.push(self.sealed_write(&next)?);
        Ok(Next { former: head.copied(), head: next, nodes: edited.nodes, gone: edited.gone })
    }

    /// Takes one row of a change into the map, and gives its write.
    async fn take_in(&self, edit: &mut Edit, step: Step) -> Result<Write, StoreError> {
        let place = place_of(step.table());
        Ok(match step {
            Step::Insert { table, values } => {
                let seal = self.sealer.seal(table, &values)?;
                if let Some(place) = place {
                    self.take_in_new(edit, place, table, &values, seal).await?;
                }
                Write::Insert { table, values: with_seal(values, seal) }
            }
            Step::Update { table, values, former_generation } => {
                let seal = self.sealer.seal(table, &values)?;
                if let Some(place) = place {
                    let key = place.row(&key_of(table, &values));
                    // A row that is not there is told by the database.
                    if self.map.step(edit, |edit| edit.set(&key, seal)).await?.is_none()
                        && self.map.find(&key).await?.is_none()
                        && self.row_at(table, &key_of(table, &values)).await?.is_some()
                    {
                        return Err(StoreError::RowUnexpected { table: table.name, id: row_id(table, &values) });
                    }
                }
                Write::Update { table, values: with_seal(values, seal), former_generation }
            }
            Step::Delete { table, key, values } => {
                if let Some(place) = place {
                    let row = place.row(&key);
                    // Who deletes has seen the row as it was: one that was written again since stays.
                    if let Some(former) = self.map.step(edit, |edit| edit.remove(&row)).await?
                        && former != self.sealer.seal(table, &values)?
                    {
                        return Err(StoreError::Conflict { table: table.name });
                    }
                    if let Some(entry) = place.owner_entry(table, &values) {
                        self.map.step(edit, |edit| edit.remove(&entry)).await?;
                    }
                }
                Write::Delete { table, key }
            }
        })
    }

    async fn take_in_new(
        &self,
        edit: &mut Edit,
        place: &Place,
        table: &'static Table,
        values: &[Value],
        seal: Seal,
    ) -> Result<(), StoreError> {
        let key = key_of(table, values);
        let row = place.row(&key);
        // A row that is there already is told by the database.
        if self.map.step(edit, |edit| edit.set(&row, seal)).await?.is_some()
            && self.map.find(&row).await?.is_some()
            && self.row_at(table, &key).await?.is_none()
        {
            return Err(StoreError::RowMissing { table: table.name, id: row_id(table, values) });
        }
        if let Some(entry) = place.owner_entry(table, values) {
            self.map.step(edit, |edit| edit.set(&entry, OWNED)).await?;
        }
        Ok(())
    }

    fn sealed_insert(&self, table: &'static Table, values: Vec<Value>) -> Result<Write, StoreError> {
        let seal = self.sealer.seal(table, &values)?;
        Ok(Write::Insert { table, values: with_seal(values, seal) })
    }

    /// A row of the map, new if it was never written.
    fn sealed_write<R: Row>(&self, row: &R) -> Result<Write, StoreError> {
        let former_generation = row.generation().saturating_sub(1);
        let values = with_seal(row.values(), self.seal_of(row)?);
        Ok(match former_generation {
            0 => Write::Insert { table: R::TABLE, values },
            _ => Write::Update { table: R::TABLE, values, former_generation },
        })
    }

    fn seal_of<R: Row>(&self, row: &R) -> Result<Seal, StoreError> {
        self.sealer.seal(R::TABLE, &row.values())
    }
}

impl Step {
    fn table(&self) -> &'static Table {
        match self {
            Self::Insert { table, .. } | Self::Update { table, .. } | Self::Delete { table, .. } => table,
        }
    }
}

fn is_of_map(table: &str) -> bool {
    [MapNode::TABLE.name, MapHead::TABLE.name].contains(&table)
}

fn next_head(former: Option<&MapHead>, edited: &Edited, request: Option<RequestId>) -> MapHead {
    let generation = former.map_or(1, |head| head.generation + 1);
    MapHead {
        root_node: edited.root.id,
        root: edited.root.seal,
        next_node: edited.next_node,
        entries: edited.entries,
        recorded: request.or_else(|| former.and_then(|head| head.recorded)),
        recorded_generation: if request.is_some() {
            generation
        } else {
            former.map_or(0, |head| head.recorded_generation)
        },
        generation,
    }
}

fn with_seal(mut values: Vec<Value>, seal: Seal) -> Vec<Value> {
    values.push(Value::Blob(seal.to_vec()));
    values
}
