//! Looks after evidence that is written and that nobody reads: whether its files are still there, a few at a time.

use std::path::{Path, PathBuf};

use crate::body::ENTRY_LEN;
use crate::tile::{Tile, TileKind, partial_tiles};
use crate::tree::{LEVELS_MAX, TILE_WIDTH};

/// How many bundles are looked at in one step; each has three files of its own.
const BUNDLES_LOOKED_AT: u64 = 32;

/// Where the next step begins, and what was missing when it was looked for last.
#[derive(Default)]
pub(crate) struct Patrol {
    next: u64,
    missing: Option<Tile>,
}

impl Patrol {
    /// A full tile that is missing or cut, of the next few. One that was found missing is looked for until it is back.
    pub(crate) fn look(&mut self, audit_dir: &Path, size: u64) -> Option<PathBuf> {
        let bundles = size / TILE_WIDTH as u64;
        if self.missing.is_none_or(|tile| is_whole(audit_dir, tile)) {
            let begin = if self.next < bundles { self.next } else { 0 };
            let end = bundles.min(begin + BUNDLES_LOOKED_AT);
            self.missing = (begin..end).flat_map(tiles_of).find(|tile| !is_whole(audit_dir, *tile));
            self.next = end;
        }
        self.missing.map(|tile| audit_dir.join(tile.path()))
    }
}

/// A tile that is not full and that is missing or cut.
pub(crate) fn missing_partial(audit_dir: &Path, size: u64) -> Option<PathBuf> {
    let missing = partial_tiles(size).into_iter().find(|tile| !is_whole(audit_dir, *tile));
    missing.map(|tile| audit_dir.join(tile.path()))
}

/// The files of a full bundle, and the tiles of hashes that became full with it.
fn tiles_of(bundle: u64) -> impl Iterator<Item = Tile> {
    let own = [TileKind::Bodies, TileKind::Entries].map(|kind| Tile::full(kind, bundle));
    let full =
        move |level: &usize| (bundle + 1).is_multiple_of(1_u64.checked_shl(8 * *level as u32).unwrap_or(u64::MAX));
    let hashes = move |level| Tile::full(TileKind::Hashes(level), bundle >> (8 * level));
    own.into_iter().chain((0..LEVELS_MAX).take_while(full).map(hashes))
}

/// Whether the file of a tile is there and as long as it must be; bodies are of any length.
fn is_whole(audit_dir: &Path, tile: Tile) -> bool {
    let len = match tile.kind {
        TileKind::Hashes(_) => Some(32 * tile.width as u64),
        TileKind::Entries => Some((ENTRY_LEN * tile.width) as u64),
        TileKind::Bodies => None,
    };
    let found = std::fs::symlink_metadata(audit_dir.join(tile.path()));
    found.is_ok_and(|found| found.is_file() && len.map_or(found.len() > 0, |len| found.len() == len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_its_files_and_what_became_full_with_it() {
        let kinds = |bundle| tiles_of(bundle).map(|tile| (tile.kind, tile.index)).collect::<Vec<_>>();
        let own = |bundle| vec![(TileKind::Bodies, bundle), (TileKind::Entries, bundle), (TileKind::Hashes(0), bundle)];
        assert_eq!(kinds(0), own(0));
        assert_eq!(kinds(255), [own(255), vec![(TileKind::Hashes(1), 0)]].concat());
        let last = [(TileKind::Hashes(1), 255), (TileKind::Hashes(2), 0)];
        assert_eq!(kinds(65_535), [own(65_535), last.to_vec()].concat());
    }
}
