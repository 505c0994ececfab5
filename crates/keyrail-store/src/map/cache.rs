//! Nodes at hand: those that were checked, as many as fit.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::map::edit::Stored;
use crate::map::node::Pointer;

/// How much the nodes at hand may take, in bytes.
pub(crate) const NODE_CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a node and each of its entries take besides its keys, in bytes.
const NODE_OVERHEAD: usize = 160;
const ENTRY_OVERHEAD: usize = 80;

/// Nodes by their ids. What was not asked for since half of the room was filled goes first.
#[derive(Default)]
pub(crate) struct NodeCache {
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    young: HashMap<u64, Arc<Stored>>,
    old: HashMap<u64, Arc<Stored>>,
    young_bytes: usize,
}

impl NodeCache {
    /// The node, if it is at hand as it must be.
    pub(crate) fn get(&self, wanted: Pointer) -> Option<Arc<Stored>> {
        let mut halves = self.halves.lock();
        let found = halves.young.get(&wanted.id).cloned();
        let found = found.or_else(|| {
            let found = halves.old.remove(&wanted.id)?;
            halves.put(found.clone());
            Some(found)
        })?;
        (found.seal == wanted.seal).then_some(found)
    }

    /// Keeps a node in place of what was known of it.
    pub(crate) fn put(&self, stored: Arc<Stored>) {
        let mut halves = self.halves.lock();
        halves.old.remove(&stored.id);
        halves.put(stored);
    }

    pub(crate) fn clear(&self) {
        *self.halves.lock() = Halves::default();
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut halves = self.halves.lock();
        halves.old.remove(&id);
        if let Some(stored) = halves.young.remove(&id) {
            halves.young_bytes -= size_of_node(&stored);
        }
    }
}

impl Halves {
    fn put(&mut self, stored: Arc<Stored>) {
        self.young_bytes += size_of_node(&stored);
        if let Some(former) = self.young.insert(stored.id, stored) {
            self.young_bytes -= size_of_node(&former);
        }
        if self.young_bytes > NODE_CACHE_BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

fn size_of_node(stored: &Stored) -> usize {
    NODE_OVERHEAD + stored.node.entries.iter().map(|entry| ENTRY_OVERHEAD + entry.key.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::node::{Entry, Node};

    fn stored(id: u64, seal: u8) -> Arc<Stored> {
        let entry = |key: u8| Entry { key: vec![key; 20].into(), child: 0, seal: [0; 32] };
        Arc::new(Stored {
            id,
            generation: 1,
            seal: [seal; 32],
            node: Node { level: 0, entries: (0..64).map(entry).collect() },
        })
    }

    #[test]
    fn room_is_bounded_and_what_is_used_stays() {
        let cache = NodeCache::default();
        for id in 0..20_000 {
            cache.put(stored(id, 1));
            assert!(cache.get(Pointer { id: 0, seal: [1; 32] }).is_some(), "node 0 is used all the time, {id}");
        }
        let halves = cache.halves.lock();
        let kept = halves.young.len() + halves.old.len();
        let bytes: usize = halves.young.values().chain(halves.old.values()).map(|stored| size_of_node(stored)).sum();
        assert!(bytes <= NODE_CACHE_BYTES_MAX + 8_192, "{bytes}");
        assert!(kept > 500, "{kept}");
    }

    #[test]
    fn a_node_of_another_seal_is_not_the_one() {
        let cache = NodeCache::default();
        cache.put(stored(1, 1));
        assert!(cache.get(Pointer { id: 1, seal: [2; 32] }).is_none());
        cache.put(stored(1, 2));
        assert!(cache.get(Pointer { id: 1, seal: [1; 32] }).is_none());
        assert!(cache.get(Pointer { id: 1, seal: [2; 32] }).is_some());
        cache.remove(1);
        assert!(cache.get(Pointer { id: 1, seal: [2; 32] }).is_none());
    }
}
