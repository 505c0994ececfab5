//! The Merkle tree of RFC 6962, section 2.1, kept as the right edge of its tiles.

use keyrail_crypto::digest::Sha256;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// How many hashes a full tile has.
pub(crate) const TILE_WIDTH: usize = 256;

/// The hash of a leaf.
pub(crate) fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().with(&[0]).with(entry).finish()
}

/// The hash of an inner node.
pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().with(&[1]).with(left).with(right).finish()
}

/// The right edge of a growing tree: for each tile level the hashes of the one tile that is not full yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile that has just become full.
pub(crate) struct FullTile {
    pub(crate) level: usize,
    pub(crate) index: u64,
    pub(crate) hashes: Vec<Hash>,
}

impl Edge {
    /// The edge with these unfull tiles, lowest level first; `None` if they do not fit the size.
    pub(crate) fn from_levels(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let edge = Self { size, levels };
        let fits = (0..LEVELS_MAX).all(|level| edge.level(level).len() as u64 == edge.width(level));
        (fits && edge.levels.len() <= LEVELS_MAX).then_some(edge)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn levels(&self) -> &[Vec<Hash>] {
        &self.levels
    }

    fn level(&self, level: usize) -> &[Hash] {
        self.levels.get(level).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many hashes the unfull tile of a level has.
    fn width(&self, level: usize) -> u64 {
        (self.size >> (8 * level)) % TILE_WIDTH as u64
    }

    /// Appends a leaf; gives the tiles that became full, lowest level first.
    pub(crate) fn push(&mut self, leaf: Hash) -> Vec<FullTile> {
        let mut full = Vec::new();
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() <= level {
                self.levels.push(Vec::with_capacity(TILE_WIDTH));
            }
            let Some(hashes) = self.levels.get_mut(level) else { break };
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                break;
            }
            let hashes = std::mem::replace(hashes, Vec::with_capacity(TILE_WIDTH));
            hash = subtree(&hashes);
            full.push(FullTile { level, index: self.size >> (8 * (level + 1)), hashes });
        }
        self.size += 1;
        full
    }

    /// The root hash of the tree of this size.
    pub(crate) fn root(&self) -> Hash {
        let mut rest: Option<Hash> = None;
        for level in &self.levels {
            let mut hashes = level.clone();
            hashes.extend(rest.take());
            rest = (!hashes.is_empty()).then(|| subtree(&hashes));
        }
        rest.unwrap_or_else(|| Sha256::new().finish())
    }
}

/// More levels than a log of 2^64 records has.
pub(crate) const LEVELS_MAX: usize = 8;

/// The tree over hashes of equal subtrees, of which the last may be smaller. Its shape is the one of RFC 6962:
/// the left part of a split is the largest power of two below the number of leaves.
pub(crate) fn subtree(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Sha256::new().finish(),
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
            node_hash(&subtree(left), &subtree(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962 written down literally, over leaf entries.
    fn naive(entries: &[Vec<u8>]) -> Hash {
        match entries.len() {
            0 => Sha256::new().finish(),
            1 => leaf_hash(&entries[0]),
            n => {
                let mut k = 1;
                while k * 2 < n {
                    k *= 2;
                }
                node_hash(&naive(&entries[..k]), &naive(&entries[k..]))
            }
        }
    }

    #[test]
    fn the_edge_gives_the_root_of_rfc_6962_at_every_size() {
        let entries: Vec<Vec<u8>> = (0..1100_u32).map(|index| index.to_be_bytes().to_vec()).collect();
        let mut edge = Edge::default();
        for (index, entry) in entries.iter().enumerate() {
            if index < 70 || index % 97 == 0 || (250..260).contains(&index) {
                assert_eq!(edge.root(), naive(&entries[..index]), "{index}");
            }
            edge.push(leaf_hash(entry));
        }
        assert_eq!(edge.root(), naive(&entries));
    }

    /// The eight leaves of the certificate-transparency reference tests and their published roots.
    #[test]
    fn known_answers_of_certificate_transparency() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut edge = Edge::default();
        for (leaf, root) in leaves.iter().zip(roots) {
            edge.push(leaf_hash(leaf));
            let hex: String = edge.root().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, root);
        }
    }
}
