//! The map against a plain ordered map.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// The stored nodes, as a database would have them.
#[derive(Default)]
struct Shelf {
    nodes: BTreeMap<u64, Arc<Stored>>,
    root: Option<Pointer>,
    next_node: u64,
    entries: u64,
}

fn seal(id: u64, bytes: &[u8], generation: u64) -> Seal {
    let parts = [&id.to_be_bytes(), &generation.to_be_bytes(), bytes].concat();
    keyrail_crypto::digest::sha256(&parts)
}

impl Shelf {
    fn edit(&self) -> Edit {
        self.root.map_or_else(Edit::empty, |root| Edit::new(root, self.next_node, self.entries))
    }

    /// Repeats a step until it has all nodes that it asks for, each with the seal that it asks for.
    fn ask<T>(&self, edit: &mut Edit, step: impl Fn(&mut Edit) -> Result<T, Halt>) -> T {
        loop {
            match step(edit) {
                Ok(done) => return done,
                Err(Halt::Need(wanted)) => {
                    let stored = &self.nodes[&wanted.id];
                    assert_eq!(stored.seal, wanted.seal, "node {}", wanted.id);
                    edit.hold(stored);
                }
                Err(Halt::Broken { id }) => panic!("node {id} does not fit"),
            }
        }
    }

    fn keep(&mut self, edit: Edit) {
        let done = edit.finish(|id, bytes, generation| Ok::<_, Infallible>(seal(id, &bytes, generation))).unwrap();
        for id in done.gone {
            assert!(self.nodes.remove(&id).is_some(), "node {id} was not there");
        }
        for stored in done.nodes {
            let former = self.nodes.get(&stored.id).map_or(0, |former| former.generation);
            assert_eq!(stored.generation, former + 1);
            // What is stored is what is read.
            assert_eq!(Node::from_bytes(&stored.node.to_bytes()), Ok(stored.node.clone()));
            self.nodes.insert(stored.id, stored);
        }
        (self.root, self.next_node, self.entries) = (Some(done.root), done.next_node, done.entries);
    }

    /// Everything in it, read from the root down, each node checked against what points to it.
    fn all(&self) -> BTreeMap<Vec<u8>, Seal> {
        let (mut found, mut reached) = (BTreeMap::new(), BTreeSet::new());
        let root = self.root.unwrap();
        self.walk(root, None, &[], None, &mut found, &mut reached);
        assert_eq!(reached, self.nodes.keys().copied().collect(), "nodes that nothing points to");
        assert_eq!(self.entries, found.len() as u64);
        found
    }

    fn walk(
        &self,
        at: Pointer,
        level: Option<u8>,
        from: &[u8],
        to: Option<&[u8]>,
        found: &mut BTreeMap<Vec<u8>, Seal>,
        reached: &mut BTreeSet<u64>,
    ) {
        let stored = &self.nodes[&at.id];
        assert_eq!((stored.seal, stored.id), (at.seal, at.id));
        assert!(reached.insert(at.id), "node {} is reached twice", at.id);
        assert!(level.is_none_or(|level| level == stored.node.level));
        let entries = &stored.node.entries;
        assert!(entries.len() <= NODE_ENTRIES_MAX);
        assert!(level.is_none() || !entries.is_empty(), "an empty node is kept");
        for (place, entry) in entries.iter().enumerate() {
            let least = if place == 0 { from } else { &entry.key };
            let end = entries.get(place + 1).map(|next| next.key.as_ref()).or(to);
            if stored.node.level == 0 {
                assert!(entry.key.as_ref() >= from && to.is_none_or(|to| entry.key.as_ref() < to));
                found.insert(entry.key.to_vec(), entry.seal);
            } else {
                self.walk(entry.pointer(), Some(stored.node.level - 1), least, end, found, reached);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(u16, u8),
    Remove(u16),
    /// A run of neighbours, as when keys are made or tidied away.
    SetRun(u16, u16),
    RemoveRun(u16, u16),
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_000_u16, any::<u8>()).prop_map(|(key, value)| Op::Set(key, value)),
        3 => (0..3_000_u16).prop_map(Op::Remove),
        2 => (0..3_000_u16, 1..600_u16).prop_map(|(key, len)| Op::SetRun(key, len)),
        2 => (0..3_000_u16, 1..900_u16).prop_map(|(key, len)| Op::RemoveRun(key, len)),
        2 => Just(Op::Commit),
    ]
}

fn key_of(number: u16) -> Vec<u8> {
    [b"row".as_slice(), &number.to_be_bytes()].concat()
}

fn set(shelf: &Shelf, edit: &mut Edit, model: &mut BTreeMap<Vec<u8>, Seal>, number: u16, value: u8) {
    let key = key_of(number);
    let former = shelf.ask(edit, |edit| edit.set(&key, [value; 32]));
    assert_eq!(former, model.insert(key, [value; 32]));
}

fn remove(shelf: &Shelf, edit: &mut Edit, model: &mut BTreeMap<Vec<u8>, Seal>, number: u16) {
    let key = key_of(number);
    assert_eq!(shelf.ask(edit, |edit| edit.remove(&key)), model.remove(&key));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_map_does_what_an_ordered_map_would(ops in proptest::collection::vec(op(), 1..80)) {
        let (mut shelf, mut model) = (Shelf::default(), BTreeMap::new());
        let mut edit = shelf.edit();
        for op in ops.into_iter().chain([Op::Commit]) {
            match op {
                Op::Set(number, value) => set(&shelf, &mut edit, &mut model, number, value),
                Op::Remove(number) => remove(&shelf, &mut edit, &mut model, number),
                Op::SetRun(first, len) => {
                    (first..first + len).for_each(|number| set(&shelf, &mut edit, &mut model, number, 7));
                }
                Op::RemoveRun(first, len) => {
                    (first..first + len).for_each(|number| remove(&shelf, &mut edit, &mut model, number));
                }
                Op::Commit => {
                    shelf.keep(std::mem::replace(&mut edit, Edit::empty()));
                    prop_assert_eq!(&shelf.all(), &model);
                    edit = shelf.edit();
                }
            }
        }
    }

    /// Bytes that are read as a node are exactly those that the node writes.
    #[test]
    fn a_node_has_one_form(bytes in proptest::collection::vec(0..4_u8, 0..120)) {
        if let Ok(node) = Node::from_bytes(&bytes) {
            prop_assert_eq!(node.to_bytes(), bytes);
        }
    }
}

/// Entries that come in their order fill the nodes; a change of neighbours touches few of them.
#[test]
fn nodes_are_full_and_neighbours_lie_together() {
    let (mut shelf, mut model) = (Shelf::default(), BTreeMap::new());
    let mut edit = shelf.edit();
    (0..20_000).for_each(|number| set(&shelf, &mut edit, &mut model, number, 1));
    shelf.keep(edit);
    assert_eq!(shelf.all(), model);
    assert!(shelf.nodes.len() < 20_000 / 60, "{} nodes", shelf.nodes.len());
    let mut edit = shelf.edit();
    (5_000..6_000).for_each(|number| set(&shelf, &mut edit, &mut model, number, 2));
    let before: BTreeMap<_, _> = shelf.nodes.iter().map(|(id, stored)| (*id, stored.generation)).collect();
    shelf.keep(edit);
    let written = shelf.nodes.iter().filter(|(id, stored)| before.get(*id) != Some(&stored.generation)).count();
    assert!(written <= 20, "{written} nodes were written for 1,000 neighbours");
    assert_eq!(shelf.all(), model);
}

/// What was emptied leaves nothing behind.
#[test]
fn an_emptied_map_is_one_leaf() {
    let (mut shelf, mut model) = (Shelf::default(), BTreeMap::new());
    let mut edit = shelf.edit();
    (0..9_000).for_each(|number| set(&shelf, &mut edit, &mut model, number, 1));
    shelf.keep(edit);
    let mut edit = shelf.edit();
    (0..9_000).rev().for_each(|number| remove(&shelf, &mut edit, &mut model, number));
    shelf.keep(edit);
    assert_eq!(shelf.nodes.len(), 1);
    assert_eq!(shelf.all(), BTreeMap::new());
}

/// A child of another level than its parent says is refused, whoever sealed it.
#[test]
fn a_tree_that_is_none_is_refused() {
    let (mut shelf, mut model) = (Shelf::default(), BTreeMap::new());
    let mut edit = shelf.edit();
    (0..9_000).for_each(|number| set(&shelf, &mut edit, &mut model, number, 1));
    shelf.keep(edit);
    let root = shelf.nodes[&shelf.root.unwrap().id].clone();
    let mut edit = shelf.edit();
    edit.hold(&root);
    let mut child = (*shelf.nodes[&root.node.entries[0].child]).clone();
    child.node.level += 1;
    edit.hold(&child);
    assert_eq!(edit.set(&key_of(0), [1; 32]), Err(Halt::Broken { id: child.id }));
}
