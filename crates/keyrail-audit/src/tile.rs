//! Where tiles lie: paths of C2SP tlog-tiles, and the same naming for bodies.

use std::path::PathBuf;

use crate::tree::{LEVELS_MAX, TILE_WIDTH};

/// A kind of tile file.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum TileKind {
    /// Hashes of a level.
    Hashes(usize),
    /// Log entries, 256 a file.
    Entries,
    /// Salted bodies of the entries, 256 a file.
    Bodies,
}

/// One tile file: kind, number, and how many elements it has (256 when full).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Tile {
    pub(crate) kind: TileKind,
    pub(crate) index: u64,
    pub(crate) width: usize,
}

impl Tile {
    pub(crate) const fn full(kind: TileKind, index: u64) -> Self {
        Self { kind, index, width: TILE_WIDTH }
    }

    /// The path below the log's directory: numbers in groups of three digits, all but the last with an `x`.
    pub(crate) fn path(&self) -> PathBuf {
        let mut path = match self.kind {
            TileKind::Hashes(level) => PathBuf::from(format!("tile/{level}")),
            TileKind::Entries => PathBuf::from("tile/entries"),
            TileKind::Bodies => PathBuf::from("body"),
        };
        let digits = format!("{:03}", self.index % 1000);
        let mut groups = vec![digits];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        let last = groups.len().saturating_sub(1);
        for (place, group) in groups.iter().rev().enumerate() {
            if place == last && self.width < TILE_WIDTH {
                path.push(format!("{group}.p"));
                path.push(self.width.to_string());
            } else {
                path.push(group);
            }
        }
        path
    }

    /// The tile at a path below the log's directory; only the one spelling that [`Self::path`] gives.
    pub(crate) fn at(path: &std::path::Path) -> Option<Self> {
        let mut parts: Vec<&str> = path.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
        let kind = match parts.as_slice() {
            ["tile", "entries", ..] => TileKind::Entries,
            ["tile", level, ..] => TileKind::Hashes(level.parse().ok()?),
            ["body", ..] => TileKind::Bodies,
            _ => return None,
        };
        parts.drain(..if kind == TileKind::Bodies { 1 } else { 2 });
        let mut width = TILE_WIDTH;
        if let [.., group, partial] = parts.as_slice()
            && let Some(group) = group.strip_suffix(".p")
        {
            width = partial.parse().ok()?;
            let end = parts.len() - 2;
            parts.truncate(end);
            parts.push(group);
        }
        let mut index = 0_u64;
        for group in &parts {
            let digits = group.strip_prefix('x').unwrap_or(group);
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let tile = Self { kind, index, width };
        (tile.path() == path && (1..=TILE_WIDTH).contains(&width)).then_some(tile)
    }

    /// How many elements the tile of this kind and number has in a log of `size` records; 0 if there is none.
    pub(crate) fn width_at(&self, size: u64) -> usize {
        let level = if let TileKind::Hashes(level) = self.kind { level } else { 0 };
        let elements = if level < LEVELS_MAX { size >> (8 * level) } else { 0 };
        let before = self.index.saturating_mul(TILE_WIDTH as u64);
        usize::try_from(elements.saturating_sub(before)).unwrap_or(TILE_WIDTH).min(TILE_WIDTH)
    }
}

/// The tiles that are not full in a log of `size` records.
pub(crate) fn partial_tiles(size: u64) -> Vec<Tile> {
    let kinds = [TileKind::Bodies, TileKind::Entries].into_iter().chain((0..LEVELS_MAX).map(TileKind::Hashes));
    let last = kinds.map(|kind| {
        let level = if let TileKind::Hashes(level) = kind { level } else { 0 };
        let elements = size >> (8 * level);
        Tile { kind, index: elements / TILE_WIDTH as u64, width: (elements % TILE_WIDTH as u64) as usize }
    });
    last.filter(|tile| tile.width > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_tlog_tiles() {
        let rows = [
            (Tile::full(TileKind::Hashes(0), 0), "tile/0/000"),
            (Tile::full(TileKind::Hashes(1), 1_234_067), "tile/1/x001/x234/067"),
            (Tile { kind: TileKind::Entries, index: 273, width: 112 }, "tile/entries/273.p/112"),
            (Tile { kind: TileKind::Bodies, index: 1_005, width: 1 }, "body/x001/005.p/1"),
        ];
        for (tile, path) in rows {
            assert_eq!(tile.path(), PathBuf::from(path));
            assert_eq!(Tile::at(path.as_ref()), Some(tile));
        }
        for stray in [
            "tile/0/x000/001",
            "tile/0/1",
            "tile/00/001",
            "body/001.p/256",
            "body/001.p/0",
            "body/001.p/01",
            "other",
            "tile/entries",
            "body/+01",
        ] {
            assert_eq!(Tile::at(stray.as_ref()), None, "{stray}");
        }
    }
}
