//! The authenticated map: which rows there are, and as they were last written.
//!
//! A tree over the seals of all rows, in the order of tables and keys. Each node is a row whose seal stands in the node
//! above it, and the root's in the map's head, whose generation counts the commits.

pub(crate) mod cache;
pub(crate) mod edit;
pub(crate) mod node;
pub(crate) mod place;

use std::sync::Arc;

use keyrail_core::record::StateMark;
use keyrail_core::system::{MapHead, MapNode};
use parking_lot::Mutex;

use crate::driver::{Condition, Select, Store, Value};
use crate::error::StoreError;
use crate::field::Field;
use crate::map::cache::NodeCache;
use crate::map::edit::{Edit, Halt, Stored};
use crate::map::node::{Entry, Node, Pointer, Seal};
use crate::row::{Row, Values};
use crate::seal::RowSealer;

/// How often a look at the map begins anew because the state moved on meanwhile.
pub(crate) const LOOKS_MAX: usize = 64;

/// The map of a store, as this process knows it.
pub(crate) struct Map {
    store: Arc<dyn Store>,
    sealer: Arc<RowSealer>,
    nodes: NodeCache,
    head: Mutex<Known>,
    /// Held by the change that is being committed.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

/// What is known of the head.
#[derive(Default)]
struct Known {
    /// The newest head that was ever seen: no older one is believed.
    newest: Option<MapHead>,
    /// Whether a newer one may be stored.
    unsure: bool,
}

/// Where the map of a head begins.
pub(crate) fn root_of(head: &MapHead) -> Pointer {
    Pointer { id: head.root_node, seal: head.root }
}

/// What a record says of a head.
pub(crate) fn mark_of(head: &MapHead) -> StateMark {
    StateMark { generation: head.generation, root: head.root }
}

impl Map {
    pub(crate) fn new(store: Arc<dyn Store>, sealer: Arc<RowSealer>) -> Self {
        Self { store, sealer, nodes: NodeCache::default(), head: Mutex::default(), turn: Arc::default() }
    }

    /// The same map with no node at hand.
    pub(crate) fn afresh(&self) -> Arc<Self> {
        let newest = self.head.lock().newest;
        let head = Mutex::new(Known { newest, unsure: true });
        let (store, sealer, turn) = (self.store.clone(), self.sealer.clone(), self.turn.clone());
        Arc::new(Self { store, sealer, nodes: NodeCache::default(), head, turn })
    }

    /// The head, as far as this process knows; none in a store that never had one.
    pub(crate) async fn head(&self) -> Result<Option<MapHead>, StoreError> {
        let known = {
            let known = self.head.lock();
            known.newest.filter(|_| !known.unsure)
        };
        match known {
            Some(head) => Ok(Some(head)),
            None => self.stored_head().await,
        }
    }

    /// The head that is stored now.
    pub(crate) async fn stored_head(&self) -> Result<Option<MapHead>, StoreError> {
        let table = MapHead::TABLE;
        let id = || "1".to_owned();
        // What becomes known while it is read is newer, and nothing to hold against it.
        let newest = self.head.lock().newest;
        let select = Select { table, conditions: Vec::new(), order: table.key, after: None, limit: 1 };
        let Some(values) = self.store.select(select).await?.pop() else {
            let missing = StoreError::RowMissing { table: table.name, id: id() };
            return if newest.is_none() { Ok(None) } else { Err(missing) };
        };
        let head = MapHead::from_values(&mut Values::new(table, self.sealer.check(table, values)?))?;
        if newest.is_some_and(|newest| head != newest && head.generation <= newest.generation) {
            return Err(StoreError::RowStale { table: table.name, id: id() });
        }
        self.know(head);
        Ok(Some(head))
    }

    fn know(&self, head: MapHead) {
        let mut known = self.head.lock();
        if known.newest.is_none_or(|newest| newest.generation <= head.generation) {
            *known = Known { newest: Some(head), unsure: false };
        }
    }

    /// Whether there is a head that is newer than `head`, so that what did not fit may fit now.
    pub(crate) async fn moved_since(&self, head: Option<MapHead>) -> Result<bool, StoreError> {
        Ok(self.stored_head().await?.map(|head| head.generation) > head.map(|head| head.generation))
    }

    /// A head of this process is stored, and so are its nodes.
    pub(crate) fn stored(&self, head: MapHead, nodes: Vec<Arc<Stored>>, gone: Vec<u64>) {
        nodes.into_iter().for_each(|stored| self.nodes.put(stored));
        gone.into_iter().for_each(|id| self.nodes.remove(id));
        self.know(head);
    }

    /// Whether a head was stored is not known: the next look reads it.
    pub(crate) fn unsure(&self) {
        self.head.lock().unsure = true;
    }

    /// Nodes at hand are read anew, and the head.
    pub(crate) fn forget_nodes(&self) {
        self.nodes.clear();
        self.unsure();
    }

    /// There is no map any more.
    pub(crate) fn forget(&self) {
        *self.head.lock() = Known::default();
    }

    /// A node, checked against what points to it.
    pub(crate) async fn node(&self, wanted: Pointer) -> Result<Arc<Stored>, StoreError> {
        if let Some(stored) = self.nodes.get(wanted) {
            return Ok(stored);
        }
        let table = MapNode::TABLE;
        let conditions = vec![Condition::Equal("id", wanted.id.to_value())];
        let select = Select { table, conditions, order: table.key, after: None, limit: 1 };
        let id = || wanted.id.to_string();
        let Some(values) = self.store.select(select).await?.pop() else {
            return Err(StoreError::RowMissing { table: table.name, id: id() });
        };
        let fits = values.last() == Some(&Value::Blob(wanted.seal.to_vec()));
        let row = MapNode::from_values(&mut Values::new(table, self.sealer.check(table, values)?))?;
        if !fits {
            return Err(StoreError::RowStale { table: table.name, id: id() });
        }
        let node =
            Node::from_bytes(&row.bytes).map_err(|_| StoreError::Malformed { table: table.name, column: "bytes" })?;
        let stored = Arc::new(Stored { id: row.id, generation: row.generation, seal: wanted.seal, node });
        self.nodes.put(stored.clone());
        Ok(stored)
    }

    /// The nodes on the way to the leaf of a key, the root first, and the first key that does not belong to that leaf.
    async fn way(&self, head: &MapHead, key: &[u8]) -> Result<(Vec<Arc<Stored>>, Option<Box<[u8]>>), Lost> {
        let (mut at, mut way, mut end) = (root_of(head), Vec::<Arc<Stored>>::new(), None);
        loop {
            let stored = match self.node(at).await {
                Ok(stored) => stored,
                Err(error) => return Err(Lost { error, end }),
            };
            let level = stored.node.level;
            if way.last().is_some_and(|above| above.node.level.checked_sub(1) != Some(level)) {
                return Err(Lost { error: broken(at.id), end });
            }
            let place = stored.node.child_of(key);
            way.push(stored.clone());
            if level == 0 {
                return Ok((way, end));
            }
            let Some(child) = stored.node.entries.get(place) else { return Err(Lost { error: broken(at.id), end }) };
            at = child.pointer();
            end = stored.node.entries.get(place + 1).map(|next| next.key.clone()).or(end);
        }
    }

    /// [`Map::way`] under a head that holds at some time after this is called.
    pub(crate) async fn way_now(&self, key: &[u8]) -> Result<Way, Lost> {
        let lost = |error| Lost { error, end: None };
        for _ in 0..LOOKS_MAX {
            let Some(head) = self.head().await.map_err(lost)? else { return Ok(Way::default()) };
            match self.way(&head, key).await {
                Ok((nodes, end)) => return Ok(Way { nodes, end }),
                // The state has moved on, or somebody else wrote.
                Err(found) if found.error.fault() == crate::error::Fault::StoredData => {
                    if !self.moved_since(Some(head)).await.map_err(lost)? {
                        return Err(found);
                    }
                }
                Err(found) => return Err(found),
            }
        }
        Err(lost(StoreError::Conflict { table: MapHead::TABLE.name }))
    }

    /// The entry of a key.
    pub(crate) async fn find(&self, key: &[u8]) -> Result<Option<Seal>, StoreError> {
        let way = self.way_now(key).await.map_err(|lost| lost.error)?;
        Ok(way.leaf().and_then(|leaf| leaf.entries.get(leaf.search(key).ok()?)).map(|entry| entry.seal))
    }

    /// The entries whose keys begin with `prefix`, from `after` on, of one leaf; and where the next ones begin, if there
    /// may be more.
    pub(crate) async fn some_of(
        &self,
        prefix: &[u8],
        from: &[u8],
    ) -> Result<(Vec<Entry>, Option<Box<[u8]>>), StoreError> {
        let way = self.way_now(from).await.map_err(|lost| lost.error)?;
        let Some(leaf) = way.leaf() else { return Ok((Vec::new(), None)) };
        let fits = |entry: &&Entry| entry.key.as_ref() >= from && entry.key.starts_with(prefix);
        let found = leaf.entries.iter().filter(fits).cloned().collect();
        Ok((found, way.end.clone().filter(|end| end.starts_with(prefix) || end.as_ref() < prefix)))
    }

    /// All keys that begin with `prefix`, `max` at most.
    pub(crate) async fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Entry>, StoreError> {
        let (mut found, mut from) = (Vec::new(), Some(Box::from(prefix)));
        while let Some(begin) = from.filter(|_| found.len() <= max) {
            let (some, next) = self.some_of(prefix, &begin).await?;
            found.extend(some);
            from = next;
        }
        Ok(found)
    }

    /// Repeats a step of an edit until it has all nodes that it asks for.
    pub(crate) async fn step<T>(
        &self,
        edit: &mut Edit,
        step: impl Fn(&mut Edit) -> Result<T, Halt>,
    ) -> Result<T, StoreError> {
        loop {
            match step(edit) {
                Ok(done) => return Ok(done),
                Err(Halt::Need(wanted)) => edit.hold(self.node(wanted).await?.as_ref()),
                Err(Halt::Broken { id }) => return Err(broken(id)),
            }
        }
    }
}

/// The way to a leaf.
#[derive(Default)]
pub(crate) struct Way {
    /// The nodes, the root first; none if there is no map.
    pub(crate) nodes: Vec<Arc<Stored>>,
    /// The first key that does not belong to the leaf; none for the last leaf.
    pub(crate) end: Option<Box<[u8]>>,
}

impl Way {
    pub(crate) fn leaf(&self) -> Option<&Node> {
        self.nodes.last().map(|stored| &stored.node)
    }
}

/// A way that does not go on.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) error: StoreError,
    /// The first key after what lies behind the node that is lost; none for the last one.
    pub(crate) end: Option<Box<[u8]>>,
}

fn broken(id: u64) -> StoreError {
    StoreError::RowStale { table: MapNode::TABLE.name, id: id.to_string() }
}
