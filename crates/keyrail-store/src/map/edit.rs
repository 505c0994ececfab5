//! Changes of the map, worked out in memory: nodes come in when they are asked for, and go out when all is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::map::node::{Entry, NODE_ENTRIES_MAX, Node, Pointer, Seal};

/// A node as it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stored {
    pub(crate) id: u64,
    /// How often it was written.
    pub(crate) generation: u64,
    pub(crate) seal: Seal,
    pub(crate) node: Node,
}

/// Why an edit cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Halt {
    /// This node is needed: hand it in with [`Edit::hold`], and ask again.
    Need(Pointer),
    /// The nodes do not make a tree.
    Broken {
        /// The node that does not fit.
        id: u64,
    },
}

struct Held {
    node: Node,
    /// The generation that is stored; 0 if none is.
    generation: u64,
    changed: bool,
}

/// A map that is being changed.
pub(crate) struct Edit {
    root: u64,
    root_seal: Seal,
    next_node: u64,
    entries: u64,
    held: BTreeMap<u64, Held>,
    /// Stored nodes that are in it no more.
    gone: Vec<u64>,
}

/// What an edit comes to.
pub(crate) struct Edited {
    pub(crate) root: Pointer,
    pub(crate) next_node: u64,
    pub(crate) entries: u64,
    /// Nodes to write, with their generations.
    pub(crate) nodes: Vec<Arc<Stored>>,
    /// Nodes to delete.
    pub(crate) gone: Vec<u64>,
}

impl Edit {
    /// Begins from a stored map.
    pub(crate) fn new(root: Pointer, next_node: u64, entries: u64) -> Self {
        Self { root: root.id, root_seal: root.seal, next_node, entries, held: BTreeMap::new(), gone: Vec::new() }
    }

    /// Begins from nothing: a map of one empty leaf that is not stored yet.
    pub(crate) fn empty() -> Self {
        let mut edit = Self::new(Pointer { id: 1, seal: [0; 32] }, 2, 0);
        edit.held.insert(1, Held { node: Node::empty(), generation: 0, changed: true });
        edit
    }

    /// Takes a node that was asked for.
    pub(crate) fn hold(&mut self, stored: &Stored) {
        let held = Held { node: stored.node.clone(), generation: stored.generation, changed: false };
        self.held.entry(stored.id).or_insert(held);
    }

    /// Puts an entry in, or in place of the one that was there, which it gives.
    pub(crate) fn set(&mut self, key: &[u8], seal: Seal) -> Result<Option<Seal>, Halt> {
        let mut path = self.path(key)?;
        let (leaf, _) = path.pop().ok_or(Halt::Broken { id: self.root })?;
        let held = self.change(leaf)?;
        match held.node.search(key) {
            Ok(place) => {
                let entry = held.node.entries.get_mut(place).ok_or(Halt::Broken { id: leaf })?;
                let former = std::mem::replace(&mut entry.seal, seal);
                self.mark(&path)?;
                return Ok(Some(former));
            }
            Err(place) => {
                held.node.entries.insert(place, Entry { key: key.into(), child: 0, seal });
                self.entries += 1;
                self.mark(&path)?;
                self.widen(&path, key)?;
                self.split_upwards(leaf, place, path)?;
            }
        }
        Ok(None)
    }

    /// Takes an entry out; gives what was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<Option<Seal>, Halt> {
        let mut path = self.path(key)?;
        let (leaf, _) = path.pop().ok_or(Halt::Broken { id: self.root })?;
        let Ok(place) = self.node(leaf)?.search(key) else { return Ok(None) };
        let former = self.change(leaf)?.node.entries.remove(place).seal;
        self.entries = self.entries.saturating_sub(1);
        self.mark(&path)?;
        let mut empty = leaf;
        while self.node(empty)?.entries.is_empty() {
            let Some((parent, place)) = path.pop() else { break };
            self.drop_node(empty);
            let entries = &mut self.change(parent)?.node.entries;
            if place < entries.len() {
                entries.remove(place);
            }
            empty = parent;
        }
        self.lower_root()?;
        Ok(Some(former))
    }

    /// The way from the root to the leaf of a key: each node, and which of its children is next.
    fn path(&self, key: &[u8]) -> Result<Vec<(u64, usize)>, Halt> {
        let mut path: Vec<(u64, usize)> = Vec::new();
        let (mut at, mut level) = (Pointer { id: self.root, seal: self.root_seal }, None);
        loop {
            let node = &self.held.get(&at.id).ok_or(Halt::Need(at))?.node;
            if level.is_some_and(|above: u8| above.checked_sub(1) != Some(node.level)) {
                return Err(Halt::Broken { id: at.id });
            }
            level = Some(node.level);
            let place = node.child_of(key);
            path.push((at.id, place));
            if node.level == 0 {
                return Ok(path);
            }
            at = node.entries.get(place).ok_or(Halt::Broken { id: at.id })?.pointer();
        }
    }

    fn node(&self, id: u64) -> Result<&Node, Halt> {
        self.held.get(&id).map(|held| &held.node).ok_or(Halt::Broken { id })
    }

    fn change(&mut self, id: u64) -> Result<&mut Held, Halt> {
        let held = self.held.get_mut(&id).ok_or(Halt::Broken { id })?;
        held.changed = true;
        Ok(held)
    }

    /// Whoever points to a changed node changes with it.
    fn mark(&mut self, path: &[(u64, usize)]) -> Result<(), Halt> {
        path.iter().try_for_each(|(id, _)| self.change(*id).map(drop))
    }

    /// What came in before all that a branch had is its least key now.
    fn widen(&mut self, path: &[(u64, usize)], key: &[u8]) -> Result<(), Halt> {
        for (id, _) in path {
            if let Some(first) = self.change(*id)?.node.entries.first_mut().filter(|first| key < first.key.as_ref()) {
                first.key = key.into();
            }
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.held.insert(id, Held { node, generation: 0, changed: true });
        id
    }

    fn drop_node(&mut self, id: u64) {
        if self.held.remove(&id).is_some_and(|held| held.generation > 0) {
            self.gone.push(id);
        }
    }

    /// Splits a node that is too full since an entry came in at `new`, and those above it that this makes too full.
    fn split_upwards(&mut self, mut id: u64, mut new: usize, mut path: Vec<(u64, usize)>) -> Result<(), Halt> {
        while self.node(id)?.entries.len() > NODE_ENTRIES_MAX {
            let right = split(&mut self.change(id)?.node, new);
            let first = right.entries.first().ok_or(Halt::Broken { id })?.key.clone();
            let level = right.level;
            let right = Entry { key: first, child: self.add(right), seal: [0; 32] };
            match path.pop() {
                Some((parent, place)) => {
                    let entries = &mut self.change(parent)?.node.entries;
                    new = (place + 1).min(entries.len());
                    entries.insert(new, right);
                    id = parent;
                }
                None => {
                    let left = Entry { key: Box::default(), child: id, seal: [0; 32] };
                    self.root = self.add(Node { level: level + 1, entries: vec![left, right] });
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A root with a single child is one level too many; one without any is an empty leaf.
    fn lower_root(&mut self) -> Result<(), Halt> {
        loop {
            let root = self.node(self.root)?;
            let lower = match (root.level, root.entries.as_slice()) {
                (0, _) => return Ok(()),
                (_, []) => {
                    self.change(self.root)?.node = Node::empty();
                    return Ok(());
                }
                (_, [only]) => only.pointer(),
                _ => return Ok(()),
            };
            self.drop_node(self.root);
            (self.root, self.root_seal) = (lower.id, lower.seal);
            if !self.held.contains_key(&lower.id) {
                return Ok(());
            }
        }
    }

    /// Seals what changed, from the leaves up. `seal` gives the seal of a node's id, bytes and generation.
    pub(crate) fn finish<E>(mut self, seal: impl Fn(u64, Vec<u8>, u64) -> Result<Seal, E>) -> Result<Edited, E> {
        let mut changed: Vec<(u8, u64)> =
            self.held.iter().filter(|(_, held)| held.changed).map(|(id, held)| (held.node.level, *id)).collect();
        changed.sort_unstable();
        let mut sealed: BTreeMap<u64, Seal> = BTreeMap::new();
        let mut nodes = Vec::with_capacity(changed.len());
        for (_, id) in changed {
            let Some(Held { mut node, generation, .. }) = self.held.remove(&id) else { continue };
            if node.level > 0 {
                for entry in &mut node.entries {
                    if let Some(seal) = sealed.get(&entry.child) {
                        entry.seal = *seal;
                    }
                }
            }
            let generation = generation + 1;
            let seal = seal(id, node.to_bytes(), generation)?;
            sealed.insert(id, seal);
            nodes.push(Arc::new(Stored { id, generation, seal, node }));
        }
        let root = Pointer { id: self.root, seal: sealed.get(&self.root).copied().unwrap_or(self.root_seal) };
        Ok(Edited { root, next_node: self.next_node, entries: self.entries, nodes, gone: self.gone })
    }
}

/// Halves a node. Where the last entry is the new one, as when entries come in their order, the left one stays full.
fn split(node: &mut Node, new: usize) -> Node {
    let len = node.entries.len();
    let at = if new + 1 == len { new } else { len / 2 };
    Node { level: node.level, entries: node.entries.split_off(at) }
}

#[cfg(test)]
mod tests;
