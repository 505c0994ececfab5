//! Consistency proofs (RFC 6962, section 2.1.2): made from the tiles of a log, and checked with two heads alone.

use std::path::{Path, PathBuf};

use crate::error::LogError;
use crate::files::{failed, read_optional};
use crate::log::Head;
use crate::tile::{Tile, TileKind};
use crate::tree::{Hash, TILE_WIDTH, node_hash, subtree};

/// How many hashes a proof may have: those of a log of 2^63 records.
pub const PROOF_LEN_MAX: usize = 63;

/// The tree of a log, as its files hold it; nothing is verified here, a proof stands for itself.
pub struct Tiles {
    audit_dir: PathBuf,
    size: u64,
}

impl Tiles {
    /// The tree of the first `size` records of the log at `audit_dir`, which must be published.
    pub fn new(audit_dir: &Path, size: u64) -> Self {
        Self { audit_dir: audit_dir.to_owned(), size }
    }

    /// The proof that the tree of `old` records is the beginning of this one; empty where there is nothing to prove.
    ///
    /// # Errors
    /// [`LogError::File`] when a tile is missing or not whole; [`LogError::Older`] for an `old` beyond the tree.
    pub fn consistency(&self, old: u64) -> Result<Vec<Hash>, LogError> {
        if old > self.size {
            return Err(LogError::Older { found: self.size, remembered: old });
        }
        let mut proof = Vec::new();
        if old > 0 {
            self.prove(old, 0, self.size, true, &mut proof)?;
        }
        Ok(proof)
    }

    /// `SUBPROOF` of RFC 6962 for the leaves from `start` to `end`; `whole` tells whether the verifier knows their hash.
    fn prove(&self, old: u64, start: u64, end: u64, whole: bool, proof: &mut Vec<Hash>) -> Result<(), LogError> {
        if old == end - start {
            if !whole {
                proof.push(self.range(start, end)?);
            }
            return Ok(());
        }
        let middle = start + split(end - start);
        if start + old <= middle {
            self.prove(old, start, middle, whole, proof)?;
            proof.push(self.range(middle, end)?);
        } else {
            self.prove(start + old - middle, middle, end, false, proof)?;
            proof.push(self.range(start, middle)?);
        }
        Ok(())
    }

    /// The hash over the leaves from `start` to `end`.
    fn range(&self, start: u64, end: u64) -> Result<Hash, LogError> {
        let len = end - start;
        if len.is_power_of_two() && start.is_multiple_of(len) {
            return self.perfect(start, len);
        }
        let middle = start + split(len);
        Ok(node_hash(&self.range(start, middle)?, &self.range(middle, end)?))
    }

    /// The hash over `len` leaves, a power of two that divides `start`: they lie in one tile.
    fn perfect(&self, start: u64, len: u64) -> Result<Hash, LogError> {
        let level = (len.trailing_zeros() / 8) as usize;
        let (first, count) = (start >> (8 * level), (len >> (8 * level)) as usize);
        let index = first / TILE_WIDTH as u64;
        let skip = (first % TILE_WIDTH as u64) as usize;
        let hashes = self.tile(level, index, skip + count)?;
        Ok(subtree(hashes.get(skip..skip + count).unwrap_or_default()))
    }

    /// The first hashes of a tile. A running log replaces partial tiles by longer ones, which serve as well.
    fn tile(&self, level: usize, index: u64, least: usize) -> Result<Vec<Hash>, LogError> {
        let kind = TileKind::Hashes(level);
        let width = Tile { kind, index, width: TILE_WIDTH }.width_at(self.size).max(least);
        for width in width..=TILE_WIDTH {
            let path = self.audit_dir.join(Tile { kind, index, width }.path());
            let found = read_optional(&path, (32 * TILE_WIDTH) as u64).map_err(failed("read", &path))?;
            let Some(bytes) = found else { continue };
            let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "it does not hold hashes");
            if bytes.len() != 32 * width {
                return Err(failed("read", &path)(malformed()));
            }
            return Ok(bytes.chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect());
        }
        let path = self.audit_dir.join(Tile { kind, index, width }.path());
        Err(failed("read", &path)(std::io::ErrorKind::NotFound.into()))
    }
}

/// The largest power of two below `len`, which is at least 2.
fn split(len: u64) -> u64 {
    len.next_power_of_two() / 2
}

/// Whether `proof` shows that the log of head `old` is the beginning of the one of head `new` (RFC 9162, 2.1.4.2).
pub fn is_consistent(old: &Head, new: &Head, proof: &[Hash]) -> bool {
    if old.size == new.size {
        return proof.is_empty() && old.root == new.root;
    }
    if old.size == 0 {
        return proof.is_empty();
    }
    if old.size > new.size || proof.len() > PROOF_LEN_MAX {
        return false;
    }
    // The verifier knows the hash of a complete tree, so the proof leaves it out.
    let known = old.size.is_power_of_two().then_some(&old.root);
    let mut path = known.into_iter().chain(proof);
    let Some(first) = path.next() else { return false };
    let (mut from, mut to) = (old.size - 1, new.size - 1);
    while from & 1 == 1 {
        (from, to) = (from >> 1, to >> 1);
    }
    let (mut old_root, mut new_root) = (*first, *first);
    for hash in path {
        if to == 0 {
            return false;
        }
        if from & 1 == 1 || from == to {
            old_root = node_hash(hash, &old_root);
            new_root = node_hash(hash, &new_root);
            while from & 1 == 0 && from != 0 {
                (from, to) = (from >> 1, to >> 1);
            }
        } else {
            new_root = node_hash(&new_root, hash);
        }
        (from, to) = (from >> 1, to >> 1);
    }
    to == 0 && old_root == old.root && new_root == new.root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Edge, leaf_hash};

    /// Writes the tiles of a log of so many leaves, and gives its heads of every size.
    fn log(dir: &Path, size: u64) -> Vec<Head> {
        let mut edge = Edge::default();
        let mut heads = vec![Head { size: 0, root: edge.root() }];
        let write = |tile: Tile, hashes: &[Hash]| {
            let path = dir.join(tile.path());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, hashes.concat()).unwrap();
        };
        for index in 0..size {
            for full in edge.push(leaf_hash(&index.to_be_bytes())) {
                write(Tile::full(TileKind::Hashes(full.level), full.index), &full.hashes);
            }
            heads.push(Head { size: index + 1, root: edge.root() });
        }
        for (level, hashes) in edge.levels().iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            write(
                Tile { kind: TileKind::Hashes(level), index: size >> (8 * (level + 1)), width: hashes.len() },
                hashes,
            );
        }
        heads
    }

    #[test]
    fn every_beginning_of_a_log_is_proved_and_no_other_head() {
        let dir = tempfile::tempdir().unwrap();
        let size = 600;
        let heads = log(dir.path(), size);
        for new in [1_u64, 2, 3, 7, 8, 255, 256, 257, 300, 511, 512, 513, 599, 600] {
            for old in (0..=new).filter(|old| *old < 20 || old % 29 == 0 || new - old < 4 || old.abs_diff(256) < 3) {
                let proof = Tiles::new(dir.path(), new).consistency(old).unwrap();
                let (before, after) = (&heads[old as usize], &heads[new as usize]);
                assert!(is_consistent(before, after, &proof), "{old} of {new}");
                if old == 0 {
                    continue;
                }
                let other = Head { root: [7; 32], ..*before };
                assert!(!is_consistent(&other, after, &proof), "{old} of {new}: another old root");
                assert!(
                    !is_consistent(before, &Head { root: [7; 32], ..*after }, &proof),
                    "{old} of {new}: another new root"
                );
                for place in 0..proof.len() {
                    let mut altered = proof.clone();
                    altered[place][0] ^= 1;
                    assert!(!is_consistent(before, after, &altered), "{old} of {new}: hash {place} altered");
                }
                let longer = [proof.as_slice(), &[[0; 32]]].concat();
                assert!(!is_consistent(before, after, &longer), "{old} of {new}: a hash too many");
            }
        }
    }

    #[test]
    fn an_altered_tile_or_a_size_beyond_the_log_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let heads = log(dir.path(), 600);
        assert!(matches!(
            Tiles::new(dir.path(), 600).consistency(601),
            Err(LogError::Older { found: 600, remembered: 601 })
        ));
        assert!(!is_consistent(&heads[600], &heads[300], &[]));
        let tile = dir.path().join("tile/0/000");
        let mut bytes = std::fs::read(&tile).unwrap();
        bytes[32 * 40] ^= 1;
        std::fs::write(&tile, bytes).unwrap();
        let proof = Tiles::new(dir.path(), 600).consistency(30).unwrap();
        assert!(!is_consistent(&heads[30], &heads[600], &proof));
        std::fs::remove_file(&tile).unwrap();
        assert!(matches!(Tiles::new(dir.path(), 600).consistency(30), Err(LogError::File { .. })));
    }
}
