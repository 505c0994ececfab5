//! What concurrent writers were told, so that the end state can be judged.

use std::collections::BTreeMap;
use std::fmt::Debug;

use parking_lot::Mutex;

/// Every write of every writer: begun, then acknowledged, refused, or of unknown fate.
///
/// Two acknowledged writes to one place that overlapped in time may have happened in either order, so a place can
/// have several right end values: each acknowledged write that no other acknowledged write began after, and each
/// write whose fate is unknown. Everything else is a lost write.
pub struct Ledger<K, V> {
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    clock: u64,
    places: BTreeMap<K, Vec<Write<V>>>,
}

struct Write<V> {
    begun: u64,
    fate: Fate,
    value: V,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Unknown,
    Acknowledged { at: u64 },
}

/// A write that has begun. Dropped without a word, its fate stays unknown.
#[must_use = "say how the write ended, or drop it where its fate is unknown"]
pub struct Ticket<'a, K: Ord, V> {
    ledger: &'a Ledger<K, V>,
    place: K,
    begun: u64,
}

/// A place whose end value no history explains.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch<K, V> {
    /// The place.
    pub place: K,
    /// What is there.
    pub found: Option<V>,
    /// What could rightly be there.
    pub allowed: Vec<V>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Ledger<K, V> {
    /// A ledger that begins with these values, as if they had been acknowledged.
    pub fn new(initial: impl IntoIterator<Item = (K, V)>) -> Self {
        let known = |value| vec![Write { begun: 0, fate: Fate::Acknowledged { at: 0 }, value }];
        let places = initial.into_iter().map(|(place, value)| (place, known(value))).collect();
        Self { state: Mutex::new(State { clock: 0, places }) }
    }

    /// Notes that `value` is about to be written to `place`. Call it before the write is sent.
    pub fn begin(&self, place: K, value: V) -> Ticket<'_, K, V> {
        let mut state = self.state.lock();
        let begun = state.tick();
        let write = Write { begun, fate: Fate::Unknown, value };
        state.places.entry(place.clone()).or_default().push(write);
        Ticket { ledger: self, place, begun }
    }

    /// Compares every place with what `find` reads there.
    pub fn check(&self, mut find: impl FnMut(&K) -> Option<V>) -> Vec<Mismatch<K, V>> {
        let state = self.state.lock();
        let judged = state.places.iter().filter_map(|(place, writes)| judge(place, find(place), writes));
        judged.collect()
    }

    /// How many places have been written.
    pub fn len(&self) -> usize {
        self.state.lock().places.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Ord, V> Ticket<'_, K, V> {
    /// The write is done. Call it after its answer came.
    pub fn acknowledged(self) {
        self.ledger.state.lock().acknowledge(&self.place, self.begun);
    }

    /// The write was refused: it has surely not happened.
    pub fn refused(self) {
        if let Some(writes) = self.ledger.state.lock().places.get_mut(&self.place) {
            writes.retain(|write| write.begun != self.begun);
        }
    }
}

impl<K: Ord, V> State<K, V> {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Marks the write, and forgets those that ended before it began: they can no longer be the last.
    fn acknowledge(&mut self, place: &K, begun: u64) {
        let at = self.tick();
        let Some(writes) = self.places.get_mut(place) else {
            return;
        };
        for write in writes.iter_mut().filter(|write| write.begun == begun) {
            write.fate = Fate::Acknowledged { at };
        }
        writes.retain(|write| !matches!(write.fate, Fate::Acknowledged { at } if at < begun));
    }
}

fn judge<K: Clone, V: PartialEq + Clone>(place: &K, found: Option<V>, writes: &[Write<V>]) -> Option<Mismatch<K, V>> {
    let explained = found.as_ref().map_or_else(
        || writes.iter().all(|write| write.fate == Fate::Unknown),
        |found| writes.iter().any(|write| write.value == *found),
    );
    let allowed = || writes.iter().map(|write| write.value.clone()).collect();
    (!explained).then(|| Mismatch { place: place.clone(), found, allowed: allowed() })
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    fn right(ledger: &Ledger<u8, &'static str>, value: Option<&'static str>) -> bool {
        ledger.check(|_| value).is_empty()
    }

    #[test]
    fn the_last_acknowledged_write_stands() {
        let ledger = Ledger::new([(1, "first")]);
        ledger.begin(1, "second").acknowledged();
        assert!(right(&ledger, Some("second")));
        assert!(!right(&ledger, Some("first")), "a lost write must be seen");
        assert!(!right(&ledger, None), "a lost row must be seen");
    }

    #[test]
    fn overlapping_writes_may_end_either_way() {
        let ledger = Ledger::new([(1, "first")]);
        let (one, two) = (ledger.begin(1, "one"), ledger.begin(1, "two"));
        two.acknowledged();
        one.acknowledged();
        assert!(right(&ledger, Some("one")) && right(&ledger, Some("two")));
        assert!(!right(&ledger, Some("first")));
    }

    #[test]
    fn a_refused_write_must_not_show() {
        let ledger = Ledger::new([(1, "first")]);
        ledger.begin(1, "second").refused();
        assert!(right(&ledger, Some("first")));
        assert!(!right(&ledger, Some("second")));
    }

    #[test]
    fn an_unknown_write_may_show_or_not() {
        let ledger = Ledger::new([(1, "first")]);
        drop(ledger.begin(1, "second"));
        assert!(right(&ledger, Some("first")) && right(&ledger, Some("second")));
        assert!(!right(&ledger, None), "the first was acknowledged");
    }

    #[test]
    fn an_unknown_first_write_may_be_absent() {
        let ledger = Ledger::new([]);
        drop(ledger.begin(1, "only"));
        assert!(right(&ledger, None) && right(&ledger, Some("only")));
    }
}
