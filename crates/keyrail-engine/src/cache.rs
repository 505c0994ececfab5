//! A bounded cache whose entries live as long as one generation of the state.

use std::collections::HashMap;
use std::hash::Hash;

use keyrail_core::time::Timestamp;
use parking_lot::RwLock;

/// Maps keys to values that were true under one generation. Any change of state bumps the generation, and
/// with it everything in here is gone.
pub(crate) struct GenerationCache<K, V> {
    entries_max: usize,
    inner: RwLock<Entries<K, V>>,
}

struct Entries<K, V> {
    generation: u64,
    /// Its hash, seeded at random, withstands chosen keys less than the usual one: there are few entries, and only who
    /// holds a token can choose any.
    map: HashMap<K, Entry<V>, foldhash::fast::RandomState>,
}

struct Entry<V> {
    value: V,
    good_until: Timestamp,
}

impl<K: Eq + Hash, V: Clone> GenerationCache<K, V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries_max, inner: RwLock::new(Entries { generation: 0, map: HashMap::default() }) }
    }

    /// The value, if it is known under this very generation and its time is not over.
    pub(crate) fn get<Q>(&self, generation: u64, now: Timestamp, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let inner = self.inner.read();
        let entry = inner.map.get(key).filter(|entry| inner.generation == generation && now < entry.good_until)?;
        Some(entry.value.clone())
    }

    /// Keeps a value that was loaded under `generation`; an older one than the cache's is dropped.
    pub(crate) fn put(&self, generation: u64, key: K, value: V, good_until: Timestamp) {
        let mut inner = self.inner.write();
        if generation < inner.generation {
            return;
        }
        if generation > inner.generation {
            inner.map.clear();
            inner.generation = generation;
        }
        // Full: begin anew. Rare, cheap, and without the bookkeeping of a finer rule on the hot path.
        if inner.map.len() >= self.entries_max {
            inner.map.clear();
        }
        inner.map.insert(key, Entry { value, good_until });
    }

    /// Drops what is over, so that key material does not outlive its label's cache time unused.
    pub(crate) fn purge(&self, now: Timestamp) {
        self.inner.write().map.retain(|_, entry| now < entry.good_until);
    }

    /// Drops everything, whatever its generation.
    pub(crate) fn clear(&self) {
        self.inner.write().map.clear();
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.inner.read().map.len()
    }

    /// Drops everything of generations before `generation`.
    pub(crate) fn advance(&self, generation: u64) {
        let mut inner = self.inner.write();
        if generation > inner.generation {
            inner.map.clear();
            inner.generation = generation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Timestamp = Timestamp::from_millis(1_000);
    const NOW: Timestamp = Timestamp::from_millis(0);

    #[test]
    fn an_entry_is_good_for_its_generation_and_time_only() {
        let cache = GenerationCache::new(8);
        cache.put(1, "a", 1, LATER);
        assert_eq!(cache.get(1, NOW, "a"), Some(1));
        assert_eq!(cache.get(2, NOW, "a"), None);
        assert_eq!(cache.get(1, LATER, "a"), None);
    }

    #[test]
    fn a_value_loaded_before_a_change_does_not_enter_after_it() {
        let cache = GenerationCache::new(8);
        cache.advance(2);
        cache.put(1, "a", 1, LATER);
        assert_eq!(cache.get(2, NOW, "a"), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = GenerationCache::new(4);
        for key in 0..100 {
            cache.put(1, key, key, LATER);
            assert!(cache.inner.read().map.len() <= 4);
        }
    }
}
