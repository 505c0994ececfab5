//! The same tree as in [`crate::tree`], kept as the roots of its complete subtrees: as little as it takes to append.

use keyrail_crypto::digest::Sha256;

use crate::tree::{Hash, node_hash};

/// The roots of the complete subtrees of a growing tree, the largest first: one for each bit of its size.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peaks {
    size: u64,
    hashes: Vec<Hash>,
}

impl Peaks {
    /// The peaks of a tree of this size; `None` if there are more or fewer than it has.
    pub fn new(size: u64, hashes: Vec<Hash>) -> Option<Self> {
        (hashes.len() == size.count_ones() as usize).then_some(Self { size, hashes })
    }

    /// Leaves of the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots, the largest subtree first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Appends a leaf.
    pub(crate) fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut rest = self.size;
        while rest % 2 == 1
            && let Some(left) = self.hashes.pop()
        {
            hash = node_hash(&left, &hash);
            rest /= 2;
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// The root hash of the tree of this size.
    pub fn root(&self) -> Hash {
        let root = self.hashes.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        root.unwrap_or_else(|| Sha256::new().finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Edge, leaf_hash};

    #[test]
    fn peaks_give_the_root_of_the_tiles_at_every_size() {
        let (mut peaks, mut edge) = (Peaks::default(), Edge::default());
        for index in 0..1_100_u32 {
            assert_eq!(peaks.root(), edge.root(), "{index}");
            assert_eq!(Peaks::new(peaks.size(), peaks.hashes().to_vec()).as_ref(), Some(&peaks));
            assert_eq!(Peaks::new(4 * peaks.size() + 1, peaks.hashes().to_vec()), None);
            let leaf = leaf_hash(&index.to_be_bytes());
            peaks.push(leaf);
            edge.push(leaf);
        }
    }
}
