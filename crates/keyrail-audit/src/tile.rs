//! Where tiles lie: paths of C2SP tlog-tiles, and the same naming for bodies.

use std::path::PathBuf;

use crate::tree::TILE_WIDTH;

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
