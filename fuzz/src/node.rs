//! Nodes of the map over the rows of a store.

use keyrail_store::fuzz;

/// A leaf, a branch and an empty leaf.
pub fn seeds() -> Vec<Vec<u8>> {
    let entry = |key: u8, child: &[u8]| [&[0, 3, 4, b'i', key][..], child, &[key; 32]].concat();
    let leaf = [&[1, 0, 0, 2][..], &entry(1, &[]), &entry(2, &[])].concat();
    let branch =
        [&[1, 1, 0, 2][..], &entry(1, &[0, 0, 0, 0, 0, 0, 0, 3]), &entry(2, &[0, 0, 0, 0, 0, 0, 0, 9])].concat();
    vec![leaf, branch, vec![1, 0, 0, 0]]
}

/// What is taken for a node is exactly what is written for it, and what its keys say is read without harm.
pub fn check(data: &[u8]) -> bool {
    let Some(written) = fuzz::node(data) else { return false };
    assert_eq!(written, data);
    true
}
